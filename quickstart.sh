#!/usr/bin/env bash
# Installs what is needed, builds, and shows Holdfast at work: a four-node cluster on this machine
# trains on real text, loses a node, gets it back and finishes.
#   ./quickstart.sh [--data PATH] [--compare] [--steps N] [--dir DIR]
# Everything after the script's name goes to `holdfastctl quickstart`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

cmake/install_packages.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build() {
  cmake --preset release -DHOLDFAST_TESTS=OFF -DHOLDFAST_BENCH=OFF >"$log" 2>&1 &&
    cmake --build --preset release --target holdfastd holdfast-worker holdfastctl >>"$log" 2>&1
}
echo "building (the first time takes a few minutes)"
build || { cat "$log" >&2; echo "quickstart.sh: the build failed, see above" >&2; exit 1; }

exec build/release/bin/holdfastctl quickstart --job conf/jobs/quickstart.toml \
  --dir build/quickstart "$@"
