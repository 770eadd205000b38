// The experts of one layer on the CPU: SwiGLU over rows in expert order, one product after the other.
// F, I and W apart; the counterpart of experts in ops_cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

// Rows [begin, begin + rows) in expert order, computed in one product.
struct ExpertRows {
  uint32_t hosted = 0;  // which of the hosted experts, ascending
  size_t begin = 0;
  size_t rows = 0;
  bool operator==(const ExpertRows&) const = default;
};
struct ExpertRowsCpu {
  std::span<const ExpertRows> products;
};

// Where the gradient of one product's weights goes: gate [F, D], up [F, D], down [D, F] one after the
// other. begin() and commit() enclose one product.
template <class T>
class ExpertGradients {
 public:
  struct Target {
    T* at;
    Into into;
  };
  virtual ~ExpertGradients() = default;
  virtual Target begin(uint32_t hosted) = 0;
  virtual Status commit(uint32_t hosted) = 0;  // kGradientOverflow
};

// gate_up = x [gate; up]^T, hidden = silu(gate) * up, y = hidden down^T.
template <class T>
void experts(const Cpu&, ExpertShape shape, ExpertRowsCpu rows, ExpertTensors<const T*> weights,
             const T* x_RD, T* gate_up_R2F, T* hidden_RF, T* y_RD);
// gate_up: in, of F; out, its gradient. `scratch` is for one [R, F].
template <class T>
void experts_input_gradient(const Cpu&, ExpertShape shape, ExpertRowsCpu rows,
                            ExpertTensors<const T*> weights, const T* dy_RD, T* gate_up_R2F,
                            T* scratch_RF, T* dx_RD);
template <class T>
Status experts_weight_gradient(const Cpu&, ExpertShape shape, ExpertRowsCpu rows, const T* x_RD,
                               const T* dgate_up_R2F, const T* dy_RD, const T* hidden_RF,
                               ExpertGradients<T>& gradients);

}  // namespace holdfast::train::kernels
