#!/usr/bin/env bash
# Installs what is needed, builds and runs the tests.
#   ./test.sh              unit tests and the chaos tests of the default set
#   ./test.sh --sanitize   also the unit tests under ASan+UBSan and TSan
#   ./test.sh --campaign   also the long campaigns (CTest label `campaign`)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

sanitize=0
campaign=0
for argument in "$@"; do
  case "$argument" in
    --sanitize) sanitize=1 ;;
    --campaign) campaign=1 ;;
    *) echo "test.sh: unknown argument '$argument'; it takes --sanitize and --campaign" >&2; exit 2 ;;
  esac
done

cmake/install_packages.sh
export CCACHE_SLOPPINESS=pch_defines,time_macros
jobs=$(nproc)

run_preset() {  # preset, then arguments of ctest
  local preset=$1
  shift
  cmake --preset "$preset" >"build-$preset.log" 2>&1 || { cat "build-$preset.log"; exit 1; }
  rm -f "build-$preset.log"
  cmake --build --preset "$preset" -j "$jobs"
  ctest --preset "$preset" "$@"
}

run_preset dev -LE campaign -j "$jobs"
if [ $campaign = 1 ]; then ctest --preset dev -L campaign --no-tests=error; fi
if [ $sanitize = 1 ]; then
  run_preset asan -L unit -LE campaign -j "$jobs"
  run_preset tsan -L unit -LE campaign -j "$jobs"
fi
