#!/usr/bin/env bash
# Installs what is needed, builds, and shows Holdfast at work: a four-node cluster on this machine
# trains on real text, loses a node, gets it back and finishes.
#   ./quickstart.sh [--data PATH] [--compare] [--steps N] [--dir DIR]
# Everything after the script's name goes to `holdfastctl quickstart`.
set -euo pipefail
# Relative paths in the arguments are the caller's, hence no `cd` here.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

"$root"/cmake/install_packages.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build() (
  cd "$root"
  cmake --preset release -DHOLDFAST_TESTS=OFF -DHOLDFAST_BENCH=OFF >"$log" 2>&1 &&
    cmake --build --preset release --target holdfastd holdfast-worker holdfastctl >>"$log" 2>&1
)
echo "building (the first time takes a few minutes)"
build || { cat "$log" >&2; echo "quickstart.sh: the build failed, see above" >&2; exit 1; }

rm -f "$log"
exec "$root"/build/release/bin/holdfastctl quickstart --job "$root"/conf/jobs/quickstart.toml \
  --dir "$root"/build/quickstart "$@"
