#!/usr/bin/env bash
# Checks the kernels of this machine's accelerators, then measures: training steps beside PyTorch, whole
# clusters that lose workers and take snapshots, and PyTorch's async_save beside those. All of it goes
# into OUT/results.json. Builds nothing: run it in the folder of an unpacked bundle, or give that folder.
#   bench/gpu/run.sh [--quick] [--only checks,steps,pipelines,clusters] [--commit ID] [--out OUT] [BUNDLE]
# --quick leaves large shapes out and measures fewer steps: for a look, not for results to keep.
# Needs a python3 with PyTorch for what is compared with it; without, that part is left out and said so.
set -euo pipefail

quick=0 only=checks,steps,pipelines,clusters commit=unknown out=. bundle=.
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1 ;;
    --only) only=$2; shift ;;
    --commit) commit=$2; shift ;;
    --out) out=$2; shift ;;
    -*) echo "run.sh: unknown argument '$1'; it takes --quick, --only, --commit, --out and a folder" >&2; exit 2 ;;
    *) bundle=$1 ;;
  esac
  shift
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
wanted() { [[ ",$only," == *",$1,"* ]]; }

if [ -z "${HOLDFAST_CUDA_LIBRARIES:-}" ]; then  # beside PyTorch, where there is one
  found=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null || true)
  if [ -n "$found" ]; then export HOLDFAST_CUDA_LIBRARIES=$found; fi
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"
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
    "$check" --gtest_brief=1 --gtest_filter="$filter" >"$log" 2>&1 ||
      { tail -30 "$log" >&2; echo "run.sh: $check failed" >&2; exit 1; }
    echo "$(basename "$check"):$(grep -hE '(PASSED|SKIPPED)' "$log" | sed -E 's/\[ *([A-Z]+) *\]/\L\1/' | tr '\n' ',')"
  done
fi

steps=30
[ $quick = 1 ] && steps=10
if wanted steps; then
  "$bundle/bin/step_bench" --steps $steps --warm-up 5 --out "$out/step_bench.json"
  "$bundle/bin/step_bench" --routing capacity --steps $steps --warm-up 5 --out "$out/step_bench_capacity.json"
  if [ $torch = 1 ]; then
    python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --out "$out/pytorch-eager.json"
    python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --compile --out "$out/pytorch-compiled.json"
  fi
fi

if wanted pipelines; then
  if [ "$(wc -l <"$out/device.txt")" -ge 2 ]; then  # two stages, 16 micro-batches, against one accelerator
    "$bundle/bin/pipeline_bench" --steps $((steps / 3)) --out "$out/pipeline_bench.json"
  else
    echo "run.sh: training in stages takes two accelerators, it is left out"
  fi
fi

status=0
if wanted clusters; then
  python3 "$here/cluster.py" --commit "$commit" --out "$out/cluster.json" "$bundle" || status=1
  if [ $torch = 1 ]; then
    # As many bytes as a lane of cluster.py's snapshots has.
    python3 "$here/async_save.py" --gb 2.8 --out "$out/async_save.json"
  fi
fi
if wanted steps; then
  python3 "$here/report.py" --commit "$commit" --steps $steps --out "$out/results.json" "$out"
fi
exit $status
