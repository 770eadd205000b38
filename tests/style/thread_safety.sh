#!/usr/bin/env bash
# Does every access to a GUARDED_BY member hold its mutex? Runs clang's thread-safety analysis over what
# includes base/mutex.h, with the commands of a build folder: thread_safety.sh [build/dev].
# HOLDFAST_CLANG names another clang++. Exits 77 where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

commands=${1:-build/dev}/compile_commands.json
clang=${HOLDFAST_CLANG:-clang++}
command -v "$clang" >/dev/null || {
  echo "thread_safety: SKIPPED, there is no $clang here; apt-get install clang, or set HOLDFAST_CLANG"
  exit 77
}
[ -f "$commands" ] || { echo "thread_safety: no $commands, run cmake first" >&2; exit 2; }
analysis=(-fsyntax-only -Wthread-safety -Werror=thread-safety)

# The analysis itself: one right use passes, each wrong one is found.
probe() {  # statement in a function of a class with a guarded member
  "$clang" "${analysis[@]}" -std=c++20 -I. -x c++ - 2>&1 <<EOF
#include "base/mutex.h"
using namespace holdfast;
struct Probe {
  void touch() { $1 }
  void held() REQUIRES(mutex);
  Mutex mutex;
  CondVar changed;
  int member GUARDED_BY(mutex) = 0;
};
EOF
}
probe 'const MutexLock lock(mutex); while (member == 0) changed.wait(mutex); held();' || {
  echo "thread_safety: $clang does not understand base/mutex.h"
  exit 1
}
for wrong in 'member = 1;' 'held();' 'changed.wait(mutex);' 'mutex.lock();' \
             'mutex.only_writer_reads(); member = 1;' \
             'const MutexLock lock(mutex); [&] { member = 1; }();'; do
  # No pipe into grep: with pipefail, the failure that is wanted of clang would count.
  grep -q 'Wthread-safety' <<<"$(probe "$wrong" || true)" || {
    echo "thread_safety: '$wrong' was not found wrong; base/mutex.h tells the analysis nothing"
    exit 1
  }
done

# What includes base/mutex.h, through however many headers of ours.
sources=$(find base conf storage train daemon ctl tests bench -name '*.h' -o -name '*.cpp')
users=base/mutex.h
while true; do
  more=$(grep -lF -f <(sed 's/.*/#include "&"/' <<<"$users") $sources)
  more=$(printf '%s\n' "$users" "$more" | sort -u)
  [ "$more" != "$users" ] || break
  users=$more
done

# A command a line; the compiler's own flags, warnings and precompiled header are not clang's.
files=()
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
while read -r file; do
  line=$(grep -m1 -F -e " $PWD/$file\"," <(grep '"command":' "$commands")) || continue
  files+=("$file")
  sed -E 's/^ *"command": "//; s/",$//; s/\\(.)/\1/g
          s/ -(include|Xclang) [^ ]*cmake_pch[^ ]*//g; s/ -W[^ ]+//g; s/ -o [^ ]+//; s/ -f[^ ]+//g
          s/^([^ ]*ccache )?[^ ]+ //' <<<"$line" >"$work/${#files[@]}"
done < <(grep '\.cpp$' <<<"$users")
[ ${#files[@]} -gt 0 ] || { echo "thread_safety: $commands compiles nothing that locks"; exit 1; }

directory=$(dirname "$commands")
check() {  # number
  local out
  out=$(cd "$directory" && eval "$clang $analysis_text $(cat "$work/$1")" 2>&1) && return
  grep -E '(error|note):' <<<"$out" | sed "s|^$PWD/||"
  return 1
}
export -f check
export work clang directory analysis_text="${analysis[*]}"
seq ${#files[@]} | xargs -P "$(nproc)" -I{} bash -c 'check {}' || {
  echo "thread_safety: members are touched without their mutex, or $clang cannot read a file: see above"
  exit 1
}
echo "thread_safety: ${#files[@]} files, no breaches"
