// The accelerator as a backend: bf16 weights and activations, fp32 statistics and gradients.
#pragma once

#include "base/result.h"
#include "train/kernels/backend.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

struct CudaBackend {
  using Device = kernels::Cuda;
  using Value = Bf16;
  using Stat = float;
  using Gradient = float;
  template <class E>
  using Room = DeviceBuffer<E>;
  template <class E>
  using HostRoom = PinnedBuffer<E>;
  using Rotary = kernels::CudaRotaryTable;
  using Reader = kernels::CudaReader;
  using Moment = kernels::CudaMoment;
  using ExpertRows = kernels::ExpertRowsCuda;
  struct ExpertGradients {
    kernels::Into into;
    kernels::ExpertTensors<float*> tensors;
  };
  static constexpr bool kHostMemory = false;
};

namespace kernels {

inline Status experts_weight_gradient(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows,
                                      const Bf16* x_RD, const Bf16* dgate_up_R2F,
                                      const Bf16* dy_RD, const Bf16* hidden_RF,
                                      const CudaBackend::ExpertGradients& gradients) {
  experts_weight_gradient(cuda, shape, rows, x_RD, dgate_up_R2F, dy_RD, hidden_RF, gradients.into,
                          gradients.tensors);
  return {};
}

}  // namespace kernels
}  // namespace holdfast::train
