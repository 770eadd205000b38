#include <cmath>

#include "base/check.h"
#include "train/kernels/ops.h"

namespace holdfast::train::kernels {
namespace {

// direction +1 rotates by the position's angle, -1 back: the transpose of a rotation.
template <class T>
void rotate(AttentionShape shape, const RotaryTable<T>& table, T direction, T* qkv_NPA) {
  const size_t half = table.half();
  CHECK(shape.context <= table.context() && shape.head_width == 2 * half);
  const size_t rotated = (shape.heads + shape.kv_heads) * shape.head_width;  // not the values
  for (size_t n = 0; n < shape.tokens(); ++n) {
    const T* cosine = table.cosine(n % shape.context);
    const T* sine = table.sine(n % shape.context);
    T* const begin = qkv_NPA + n * shape.packed_width();
    for (T* low = begin; low != begin + rotated; low += 2 * half) {
      T* high = low + half;
      for (size_t a = 0; a < half; ++a) {
        const T x = low[a];
        const T y = high[a];
        low[a] = x * cosine[a] - direction * y * sine[a];
        high[a] = y * cosine[a] + direction * x * sine[a];
      }
    }
  }
}

}  // namespace

template <class T>
RotaryTable<T>::RotaryTable(const Cpu&, size_t context, size_t head_width, double theta)
    : context_(context), half_(head_width / 2), cosine_(context * half_), sine_(context * half_) {
  CHECK(head_width % 2 == 0 && head_width > 0);
  for (size_t position = 0; position < context; ++position) {
    for (size_t a = 0; a < half_; ++a) {
      const double exponent = -2.0 * static_cast<double>(a) / static_cast<double>(head_width);
      const double angle = static_cast<double>(position) * std::pow(theta, exponent);
      cosine_.data()[position * half_ + a] = static_cast<T>(std::cos(angle));
      sine_.data()[position * half_ + a] = static_cast<T>(std::sin(angle));
    }
  }
}

template <class T>
void rotary(const Cpu&, AttentionShape shape, const RotaryTable<T>& table, T* qkv_NPA) {
  rotate(shape, table, T{1}, qkv_NPA);
}

template <class T>
void rotary_input_gradient(const Cpu&, AttentionShape shape, const RotaryTable<T>& table,
                           T* dqkv_NPA) {
  rotate(shape, table, T{-1}, dqkv_NPA);
}

#define INSTANTIATE(T)                                                             \
  template class RotaryTable<T>;                                                   \
  template void rotary<T>(const Cpu&, AttentionShape, const RotaryTable<T>&, T*);  \
  template void rotary_input_gradient<T>(const Cpu&, AttentionShape, const RotaryTable<T>&, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
