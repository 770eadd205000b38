// A number that the device writes into host memory once it gets there. The host sees it without a
// call of CUDA, which might stand behind one of another thread that waits for the device.
#pragma once

#include <cstdint>

#include "train/kernels/cuda.h"

namespace holdfast::train {

// `pinned`: one address on both sides.
void mark_stream(kernels::Cuda& cuda, uint32_t* pinned, uint32_t number);

}  // namespace holdfast::train
