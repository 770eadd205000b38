#include <cmath>

#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {

template <class T>
void rms_norm(const Cpu&, RowShape shape, const T* x_ND, const T* weight_D, double epsilon,
              T* inverse_rms_N, T* y_ND) {
  const size_t width = shape.width;
  for (size_t n = 0; n < shape.rows; ++n) {
    const T* x = x_ND + n * width;
    T* y = y_ND + n * width;
    const T mean_square = dot(width, x, x) / static_cast<T>(width);
    const T inverse_rms = T{1} / std::sqrt(mean_square + static_cast<T>(epsilon));
    inverse_rms_N[n] = inverse_rms;
    for (size_t i = 0; i < width; ++i) y[i] = x[i] * inverse_rms * weight_D[i];
  }
}

template <class T>
void rms_norm_input_gradient(const Cpu&, RowShape shape, const T* dy_ND, const T* x_ND,
                             const T* weight_D, const T* inverse_rms_N, T* dx_ND) {
  const size_t width = shape.width;
  for (size_t n = 0; n < shape.rows; ++n) {
    const T* dy = dy_ND + n * width;
    const T* x = x_ND + n * width;
    T* dx = dx_ND + n * width;
    const T r = inverse_rms_N[n];
    const T along_x = row_sum<T>(width, [&](size_t i) { return dy[i] * weight_D[i] * x[i]; });
    const T pull = along_x * r * r * r / static_cast<T>(width);
    for (size_t i = 0; i < width; ++i) dx[i] += dy[i] * weight_D[i] * r - x[i] * pull;
  }
}

template <class T>
void rms_norm_weight_gradient(const Cpu&, RowShape shape, const T* dy_ND, const T* x_ND,
                              const T* inverse_rms_N, Into into, T* dweight_D) {
  const size_t width = shape.width;
  if (into == Into::kOverwrite) std::fill_n(dweight_D, width, T{});
  for (size_t n = 0; n < shape.rows; ++n) {
    const T* dy = dy_ND + n * width;
    const T* x = x_ND + n * width;
    const T r = inverse_rms_N[n];
    for (size_t i = 0; i < width; ++i) dweight_D[i] += dy[i] * x[i] * r;
  }
}

#define INSTANTIATE(T)                                                                           \
  template void rms_norm<T>(const Cpu&, RowShape, const T*, const T*, double, T*, T*);           \
  template void rms_norm_input_gradient<T>(const Cpu&, RowShape, const T*, const T*, const T*,   \
                                           const T*, T*);                                        \
  template void rms_norm_weight_gradient<T>(const Cpu&, RowShape, const T*, const T*, const T*,  \
                                            Into, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
