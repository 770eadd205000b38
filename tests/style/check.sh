#!/usr/bin/env bash
# The rules of the house that a compiler does not check: sizes of files, which folder may include
# which, where a library may be named, how mutexes are written. Prints every breach as file:line: rule.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

breaches=0
breach() { printf '%s\n' "$1"; breaches=$((breaches + 1)); }

sources() { find base conf storage train daemon ctl -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort; }
all_sources() { { sources; find tests bench -name '*.h' -o -name '*.cpp' -o -name '*.cu'; } | sort; }

# Small rooms.
while read -r file; do
  lines=$(wc -l <"$file")
  [ "$lines" -le 400 ] || breach "$file:$lines: longer than 400 lines"
done < <(all_sources)

# Arrows: ctl -> daemon -> train -> storage -> conf -> base, never the other way.
order="base conf storage train daemon ctl"
rank() { local i=0 f; for f in $order; do [ "$f" = "$1" ] && { echo $i; return; }; i=$((i + 1)); done; echo -1; }
while IFS=: read -r file line text; do
  from=$(rank "${file%%/*}")
  included=$(printf '%s' "$text" | sed -E 's/.*#include "([^/"]+)\/.*/\1/')
  to=$(rank "$included")
  [ "$to" -le "$from" ] || breach "$file:$line: ${file%%/*} may not include $included"
done < <(grep -nE '#include "(base|conf|storage|train|daemon|ctl)/' $(sources) /dev/null)

# A library is named in one folder only.
only() {  # pattern, folder
  while IFS=: read -r file line _; do
    case "$file" in "$2"/*) ;; *) breach "$file:$line: only $2 may name this library ($1)" ;; esac
  done < <(grep -nE "$1" $(sources) /dev/null)
}
only '#include <rdma/' storage/fabric
only '#include <rocksdb/' storage/catalog
only '#include <gloo/|#include "gloo/' train/comm
only '#include <nccl' train/comm
only '#include <cblas' train/kernels
only '#include <coin/' train/schedule

# CUDA and its libraries are named in *_cuda files, and where their functions are looked up; which backend
# there is to compute with, the code above the kernels learns in four files.
only_files() {  # what, pattern of lines, pattern of files that may
  while IFS=: read -r file line _; do
    [[ "$file" =~ $3 ]] || breach "$file:$line: $1 may be named in $3 only"
  done < <(grep -nE "$2" $(sources) /dev/null)
}
only_files "CUDA" \
  '#include ["<](cuda|cublas|cudnn|nccl|nvrtc|cutlass|cute)[^/]*[/.]|\<(cuda|cublas|cublasLt|cudnn|nccl)[A-Z][A-Za-z]*\>|__(global|device|shared)__|<<<' \
  '^train/(kernels|comm|tensor)/([a-z_]+_cuda\.(cu|cuh|h|cpp)|cuda_libraries\.cpp)$'
only_files "an accelerator" '#include "train/[^"]*cuda[a-z_]*\.(h|cuh)"' \
  '^train/(kernels|comm|tensor)/([a-z_]+_cuda\.(cu|cuh|h|cpp)|cuda_libraries\.cpp|backends\.h|(nccl|staged)_[a-z_]+\.h)$'
only_files "HOLDFAST_CUDA" '\<HOLDFAST_CUDA\>' \
  '^train/(kernels/backends\.h|comm/payloads\.h|step/create\.cpp)$'

# Only an annotated mutex can be checked (thread_safety.sh); one that guards no member says what it is for.
while IFS=: read -r file line _; do
  breach "$file:$line: use Mutex, MutexLock and CondVar of base/mutex.h"
done < <(grep -nE 'std::(recursive_|shared_|timed_)?(mutex|lock_guard|unique_lock|scoped_lock|condition_variable)' \
           $(all_sources | grep -v '^base/mutex.h$') /dev/null)
while IFS=: read -r file line text; do
  mutex=$(sed -E 's/.*Mutex ([a-z_]+);.*/\1/' <<<"$text")
  case "$text" in *//*) continue ;; esac
  grep -qE "GUARDED_BY\(([a-z_]+->)?$mutex\)" "$file" || breach "$file:$line: nothing is GUARDED_BY($mutex)"
done < <(grep -nE '^ *(mutable )?Mutex [a-z_]+;' $(sources | grep -v '^base/mutex.h$') /dev/null)

# Pure folders: no clock, no thread, no files.
while IFS=: read -r file line _; do
  breach "$file:$line: this folder is pure"
done < <(grep -nE '#include <(thread|fstream|chrono|unistd.h|boost/asio)' /dev/null \
           $(find train/schedule train/placement daemon/coordinator -name '*.h' -o -name '*.cpp'))

# Headers say #pragma once, and what the room is for in their first line.
while read -r file; do
  grep -q '^#pragma once' "$file" || breach "$file:1: no #pragma once"
  head -1 "$file" | grep -q '^//' || breach "$file:1: the first line must say what the room is for"
done < <(sources | grep '\.h$')

# Sleeping is no synchronisation; polling another process's interface says so on the line.
while IFS=: read -r file line text; do
  case "$text" in *//*) ;; *) breach "$file:$line: a sleep without a reason" ;; esac
done < <(grep -nE 'sleep_for|usleep\(|[^_]sleep\(' $(all_sources) /dev/null)

# An error code that nothing produces is a promise in the table that nobody keeps.
while read -r code; do
  grep -qw "ErrorCode::$code" $(sources | grep -v '^base/error\.') ||
    breach "base/error.h: $code is produced nowhere"
done < <(sed -nE 's/^  (k[A-Za-z]+) = [0-9]+,.*/\1/p' base/error.h)

[ "$breaches" = 0 ] || { echo "$breaches breaches"; exit 1; }
echo "style: no breaches"
