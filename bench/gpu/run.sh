#!/usr/bin/env bash
# Checks the kernels of this machine's accelerator, then measures training beside PyTorch in the same run.
# Builds nothing: run it in the folder of an unpacked bundle, or give that folder.
#   bench/gpu/run.sh [--quick] [--out DIR] [BUNDLE]
# Needs a python3 with PyTorch for the comparison; without, that part is left out and said so.
set -euo pipefail

quick=0
out=.
bundle=.
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1 ;;
    --out) out=$2; shift ;;
    -*) echo "run.sh: unknown argument '$1'; it takes --quick, --out DIR and a folder" >&2; exit 2 ;;
    *) bundle=$1 ;;
  esac
  shift
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"

if [ -z "${HOLDFAST_CUDA_LIBRARIES:-}" ]; then  # beside PyTorch, where there is one
  found=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null || true)
  if [ -n "$found" ]; then export HOLDFAST_CUDA_LIBRARIES=$found; fi
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"

checks=("$bundle"/bin/*_cuda_test)
if [ -e "${checks[0]}" ]; then
  filter='*'
  [ $quick = 1 ] && filter='-*Large*'
  for check in "${checks[@]}"; do
    "$check" --gtest_brief=1 --gtest_filter="$filter" >"$out/$(basename "$check").log" 2>&1 ||
      { tail -30 "$out/$(basename "$check").log" >&2; echo "run.sh: $check failed" >&2; exit 1; }
    echo "$(basename "$check"): $(grep PASSED "$out/$(basename "$check").log")"
  done
fi

steps=30
[ $quick = 1 ] && steps=10
"$bundle/bin/step_bench" --steps $steps --warm-up 5 --out "$out/step_bench.json"
"$bundle/bin/step_bench" --routing capacity --steps $steps --warm-up 5 --out "$out/step_bench_capacity.json"
if python3 -c 'import torch' 2>/dev/null; then
  python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --out "$out/pytorch-eager.json"
  python3 "$here/pytorch_moe.py" --steps $steps --warm-up 5 --compile --out "$out/pytorch-compiled.json"
else
  echo "run.sh: python3 has no torch, nothing to compare with"
fi
