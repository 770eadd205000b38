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
void swiglu(size_t elements, const T* gate, const T* up, T* hidden) {
  for (size_t i = 0; i < elements; ++i) hidden[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

template <class T>
void swiglu_input_gradient(size_t elements, const T* dhidden, T* gate, T* up) {
  for (size_t i = 0; i < elements; ++i) {
    const T s = sigmoid(gate[i]);
    const T silu = gate[i] * s;
    const T dsilu = s + silu * (T{1} - s);
    gate[i] = dhidden[i] * up[i] * dsilu;
    up[i] = dhidden[i] * silu;
  }
}

#define INSTANTIATE(T)                                     \
  template void swiglu<T>(size_t, const T*, const T*, T*); \
  template void swiglu_input_gradient<T>(size_t, const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
