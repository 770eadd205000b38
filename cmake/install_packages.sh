#!/usr/bin/env bash
# Installs what building and testing Holdfast needs, by the names of Debian 12 and 13 and Ubuntu 24.04.
# Does nothing, quickly, when everything is there. HOLDFAST_NO_INSTALL=1 skips it.
set -euo pipefail

[ "${HOLDFAST_NO_INSTALL:-0}" = 1 ] && exit 0
command -v apt-get >/dev/null 2>&1 || {
  echo "install_packages: no apt-get here; install the packages named in $0 by hand," \
       "then run again with HOLDFAST_NO_INSTALL=1" >&2
  exit 1
}

packages=(g++ cmake ninja-build ccache lld pkg-config git curl
          libfmt-dev libspdlog-dev libexpected-dev libxxhash-dev libtomlplusplus-dev libcli11-dev
          libopenblas-dev libgloo-dev libfabric-dev librocksdb-dev libssl-dev
          libgtest-dev libgmock-dev
          coinor-libcbc-dev)  # optional: without it `holdfastctl plan --solver exact` is refused
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
    missing+=("$package")
done
# Boost.JSON's described structs need 1.81: Debian 12 has it beside its default, later releases have newer.
if ! dpkg-query -W -f='${Status}' libboost1.81-dev 2>/dev/null | grep -q 'install ok installed' &&
   ! dpkg --compare-versions \
     "$(dpkg-query -W -f='${Version}' libboost-dev 2>/dev/null || echo 0)" ge 1.81; then
  boost=unknown
fi
if [ ${#missing[@]} -eq 0 ] && [ -z "${boost:-}" ]; then exit 0; fi

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
if [ -n "${boost:-}" ]; then
  if apt-cache show libboost1.81-dev >/dev/null 2>&1; then
    missing+=(libboost1.81-dev)
  else
    missing+=(libboost-dev)
  fi
fi
echo "installing: ${missing[*]}"
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends \
  "${missing[@]}" >/dev/null
