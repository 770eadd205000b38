#include <cmath>

#include "train/kernels/ops.h"

namespace holdfast::train::kernels {
namespace {

template <class T>
T sigmoid(T x) {
  return T{1} / (T{1} + std::exp(-x));
}

}  // namespace

template <class T>
void swiglu(const Cpu&, size_t rows, size_t expert_width, const T* gate_up_R2F, T* hidden_RF) {
  for (size_t r = 0; r < rows; ++r) {
    const T* gate = gate_up_R2F + r * 2 * expert_width;
    const T* up = gate + expert_width;
    T* hidden = hidden_RF + r * expert_width;
    for (size_t i = 0; i < expert_width; ++i) hidden[i] = gate[i] * sigmoid(gate[i]) * up[i];
  }
}

template <class T>
void swiglu_input_gradient(const Cpu&, size_t rows, size_t expert_width, const T* dhidden_RF,
                           T* gate_up_R2F) {
  for (size_t r = 0; r < rows; ++r) {
    T* gate = gate_up_R2F + r * 2 * expert_width;
    T* up = gate + expert_width;
    const T* dhidden = dhidden_RF + r * expert_width;
    for (size_t i = 0; i < expert_width; ++i) {
      const T s = sigmoid(gate[i]);
      const T silu = gate[i] * s;
      const T dsilu = s + silu * (T{1} - s);
      gate[i] = dhidden[i] * up[i] * dsilu;
      up[i] = dhidden[i] * silu;
    }
  }
}

#define INSTANTIATE(T)                                                 \
  template void swiglu<T>(const Cpu&, size_t, size_t, const T*, T*);   \
  template void swiglu_input_gradient<T>(const Cpu&, size_t, size_t, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
