// Every backend of this build, for what has to be compiled once for each.
#pragma once

#include "train/kernels/backend.h"
#ifdef HOLDFAST_CUDA
#include "train/kernels/backend_cuda.h"
#define HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE) INSTANTIATE(CudaBackend)
#else
#define HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#endif

#define HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE) \
  INSTANTIATE(CpuBackend<float>)               \
  INSTANTIATE(CpuBackend<double>)              \
  HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
