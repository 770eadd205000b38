#!/usr/bin/env bash
# Checks the kernels of this machine's accelerators, then measures: training steps beside PyTorch, whole
# clusters that lose workers and take snapshots, and PyTorch's async_save beside those. What was measured
# goes into OUT/results.json. Builds nothing: run it in the folder of an unpacked bundle, or give that folder.
#   bench/gpu/run.sh --commit ID [--quick] [--only checks,steps,pipelines,clusters] [--out OUT] [BUNDLE]
# ID: the commit that the bundle was built from, which results are traced by; `--only checks` needs none.
# --quick leaves large shapes out and measures fewer steps: for a look, not for results to keep.
# Needs a python3 with PyTorch for what is compared with it; without, that part is left out and said so.
# Exit 0: everything that was asked for ran and holds.
set -euo pipefail

usage() { echo "run.sh: $1" >&2; exit 2; }
all=checks,steps,pipelines,clusters
quick=0 only=$all commit='' out=. bundle=.
while [ $# -gt 0 ]; do
  case "$1" in
    --only | --commit | --out) [ $# -gt 1 ] || usage "$1 takes a value" ;;
  esac
  case "$1" in
    --quick) quick=1 ;;
    --only) only=$2; shift ;;
    --commit) commit=$2; shift ;;
    --out) out=$2; shift ;;
    -*) usage "unknown argument '$1'; it takes --quick, --only, --commit, --out and a folder" ;;
    *) bundle=$1 ;;
  esac
  shift
done
IFS=, read -ra parts <<<"$only"
[ ${#parts[@]} -gt 0 ] || usage "--only names no part; there are $all"
for part in "${parts[@]}"; do
  [[ ",$all," == *",$part,"* ]] || usage "no such part: '$part'; there are $all"
done
wanted() { [[ ",$only," == *",$1,"* ]]; }
if wanted steps || wanted pipelines || wanted clusters; then
  [[ "$commit" =~ ^[0-9a-f]{7,40}$ ]] ||
    usage "--commit must name the bundle's commit, 7 to 40 hexadecimal digits, not '$commit'"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# Tests know where they were built; hf_check.py is here.
export HOLDFAST_SOURCE_DIR=${HOLDFAST_SOURCE_DIR:-$root} HOLDFAST_PYTHON=${HOLDFAST_PYTHON:-python3}
mkdir -p "$out"
# Whatever of these is there afterwards is of this run.
rm -f "$out/results.json"
if wanted checks; then rm -f "$out"/*_cuda_test.log; fi
if wanted steps; then rm -f "$out"/step_bench{,_capacity}.json "$out"/pytorch-{eager,compiled}.json; fi
if wanted pipelines; then rm -f "$out/pipeline_bench.json"; fi
if wanted clusters; then rm -f "$out"/{cluster,async_save}.json; fi

if [ -z "${HOLDFAST_CUDA_LIBRARIES:-}" ]; then  # beside PyTorch, where there is one
  found=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null || true)
  if [ -n "$found" ]; then export HOLDFAST_CUDA_LIBRARIES=$found; fi
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"
devices=$(wc -l <"$out/device.txt")
# A device that does not open is a failure, not a reason to skip.
export HOLDFAST_NEED_DEVICES=${HOLDFAST_NEED_DEVICES:-$devices}
torch=1
python3 -c 'import torch' 2>/dev/null || torch=0
[ $torch = 1 ] || echo "run.sh: python3 has no torch, nothing is compared with it"

if wanted checks; then
  checks=("$bundle"/bin/*_cuda_test)
  [ -e "${checks[0]}" ] || { echo "run.sh: no tests in $bundle/bin: unpack the bundle" >&2; exit 1; }
  filter='*'
  [ $quick = 1 ] && filter='-*Large*'
  for check in "${checks[@]}"; do
    log="$out/$(basename "$check").log"
    code=0
    "$check" --gtest_brief=1 --gtest_filter="$filter" >"$log" 2>&1 || code=$?
    if [ $code != 0 ] && [ $code != 77 ]; then  # 77: every test was skipped
      tail -30 "$log" >&2
      echo "run.sh: $check failed" >&2
      exit 1
    fi
    echo "$(basename "$check"):$(grep -hE '(PASSED|SKIPPED)' "$log" | sed -E 's/\[ *([A-Z]+) *\]/\L\1/' | tr '\n' ',')"
  done
fi

steps=30
[ $quick = 1 ] && steps=10
status=0
# What failed is told, and the rest is measured all the same.
measure() { "$@" || { echo "run.sh: failed: $*" >&2; status=1; }; }
if wanted steps; then
  measure "$bundle/bin/step_bench" --steps $steps --warm-up 5 --out "$out/step_bench.json"
  measure "$bundle/bin/step_bench" --routing capacity --steps $steps --warm-up 5 \
    --out "$out/step_bench_capacity.json"
  if [ $torch = 1 ]; then
    measure python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --out "$out/pytorch-eager.json"
    measure python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --compile \
      --out "$out/pytorch-compiled.json"
  fi
fi

if wanted pipelines; then
  if [ "$devices" -ge 2 ]; then  # two stages, 16 micro-batches, against one accelerator
    measure "$bundle/bin/pipeline_bench" --commit "$commit" --steps $((steps / 3)) \
      --out "$out/pipeline_bench.json"
  else
    echo "run.sh: training in stages takes two accelerators, it is left out"
  fi
fi

if wanted clusters; then
  measure python3 "$here/cluster.py" --commit "$commit" --out "$out/cluster.json" "$bundle"
  if [ $torch = 1 ]; then
    # Of an accelerator as many bytes as cluster.py's snapshots take: 12 a parameter, 468 M of them.
    measure python3 "$here/async_save.py" --total-gb 5.6 --out "$out/async_save.json"
  fi
fi
python3 "$here/report.py" --commit "${commit:-none}" --steps $steps --parts "$only" \
  --out "$out/results.json" "$out"
exit $status
