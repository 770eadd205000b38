// Attention in sequences of one token, which cuDNN does not take: each token attends to itself
// alone.
#pragma once

#include "train/kernels/device_cuda.cuh"
#include "train/kernels/shapes.h"

namespace holdfast::train::kernels {

void attend_to_itself(Cuda::Impl& impl, AttentionShape shape, const Bf16* qkv_NPA, float* kept,
                      Bf16* out_NHA);
void attend_to_itself_input_gradient(Cuda::Impl& impl, AttentionShape shape, const Bf16* dout_NHA,
                                     Bf16* dqkv_NPA);

}  // namespace holdfast::train::kernels
