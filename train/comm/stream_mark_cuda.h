// A number that the device writes into host memory once it gets there. The host sees it without a
// call of CUDA, which might stand behind one of another thread that waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace holdfast::train {

// `pinned`: one address on both sides. From any thread whose current device is the stream's.
cudaError_t mark_stream(cudaStream_t stream, uint32_t* pinned, uint32_t number);

}  // namespace holdfast::train
