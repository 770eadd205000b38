#include <cmath>

#include "base/check.h"
#include "train/kernels/ops.h"

namespace holdfast::train::kernels {
namespace {

// direction +1 rotates by the position's angle, -1 back: the transpose of a rotation.
template <class T>
void rotate(RowShape shape, size_t context, const RotaryTable<T>& table, T direction, T* x_NHA) {
  const size_t half = table.half();
  CHECK(context <= table.context() && shape.width % (2 * half) == 0);
  for (size_t n = 0; n < shape.rows; ++n) {
    const T* cosine = table.cosine(n % context);
    const T* sine = table.sine(n % context);
    T* const end = x_NHA + (n + 1) * shape.width;
    for (T* low = x_NHA + n * shape.width; low != end; low += 2 * half) {
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
RotaryTable<T>::RotaryTable(size_t context, size_t head_width, double theta)
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
void rotary(RowShape shape, size_t context, const RotaryTable<T>& table, T* x_NHA) {
  rotate(shape, context, table, T{1}, x_NHA);
}

template <class T>
void rotary_input_gradient(RowShape shape, size_t context, const RotaryTable<T>& table, T* dx_NHA) {
  rotate(shape, context, table, T{-1}, dx_NHA);
}

#define INSTANTIATE(T)                                                  \
  template class RotaryTable<T>;                                        \
  template void rotary<T>(RowShape, size_t, const RotaryTable<T>&, T*); \
  template void rotary_input_gradient<T>(RowShape, size_t, const RotaryTable<T>&, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
