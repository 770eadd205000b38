// The functions of cuDNN that are used, found at run time; those of graphs are found by cuDNN's own
// front end, which load_cudnn() tells where to look.
#pragma once

#include <cudnn.h>

namespace holdfast::train::kernels {

struct Cudnn {
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnGetErrorString) error_string;
  size_t version;  // 91900 for 9.19.0
};

}  // namespace holdfast::train::kernels
