#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {

template <class T>
double cross_entropy(RowShape shape, const int32_t* targets_N, T* probabilities_NV) {
  double sum = 0;
  for (size_t n = 0; n < shape.rows; ++n) {
    T* row = probabilities_NV + n * shape.width;
    const T target_logit = row[targets_N[n]];
    // From the logit, not from the probability, which may have become zero.
    sum += static_cast<double>(softmax_row(shape.width, row) - target_logit);
  }
  return shape.rows == 0 ? 0 : sum / static_cast<double>(shape.rows);
}

template <class T>
void cross_entropy_input_gradient(RowShape shape, const int32_t* targets_N, double scale,
                                  T* probabilities_NV) {
  if (shape.rows == 0) return;
  const T per_row = static_cast<T>(scale / static_cast<double>(shape.rows));
  for (size_t n = 0; n < shape.rows; ++n) {
    T* row = probabilities_NV + n * shape.width;
    row[targets_N[n]] -= T{1};
    for (size_t v = 0; v < shape.width; ++v) row[v] *= per_row;
  }
}

#define INSTANTIATE(T)                                            \
  template double cross_entropy<T>(RowShape, const int32_t*, T*); \
  template void cross_entropy_input_gradient<T>(RowShape, const int32_t*, double, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
