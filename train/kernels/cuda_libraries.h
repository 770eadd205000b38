// CUDA's libraries, loaded when an accelerator is opened and not before: programs start on machines
// without them. Each is looked for in the folders of $HOLDFAST_CUDA_LIBRARIES (a colon-separated
// list; F stands for F itself and every F/*/lib, as wheels lay them out), then where the loader
// looks, then in the usual folders. Loaded once per process and never unloaded.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast::train::kernels {

struct CublasLt;  // cublaslt_cuda.h
struct Cudnn;     // cudnn_cuda.h

// dlopen's handle. kDeviceMissing names the library and the folders that were searched.
Result<void*> load_cuda_library(const std::string& soname);
// kDeviceMissing names the function and the version of the library that is needed.
Result<void*> library_function(void* library, const std::string& soname, const char* function);

Result<const CublasLt*> load_cublas_lt();

Result<const Cudnn*> load_cudnn();

}  // namespace holdfast::train::kernels
