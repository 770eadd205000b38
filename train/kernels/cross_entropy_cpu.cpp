#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {

template <class T>
void cross_entropy(const Cpu&, RowShape shape, const int32_t* targets_N,
                   std::optional<double> gradient_scale, T* logits_NV, T* losses_N, double* mean) {
  *mean = 0;
  if (shape.rows == 0) return;
  const double rows = static_cast<double>(shape.rows);
  const T per_row = static_cast<T>(gradient_scale.value_or(0) / rows);
  for (size_t n = 0; n < shape.rows; ++n) {
    T* row = logits_NV + n * shape.width;
    const T target_logit = row[targets_N[n]];
    // From the logit, not from the probability, which may have become zero.
    losses_N[n] = softmax_row(shape.width, row) - target_logit;
    *mean += static_cast<double>(losses_N[n]);
    if (!gradient_scale) continue;
    row[targets_N[n]] -= T{1};
    for (size_t v = 0; v < shape.width; ++v) row[v] *= per_row;
  }
  *mean /= rows;
}

template void cross_entropy<float>(const Cpu&, RowShape, const int32_t*, std::optional<double>,
                                   float*, float*, double*);
template void cross_entropy<double>(const Cpu&, RowShape, const int32_t*, std::optional<double>,
                                    double*, double*, double*);

}  // namespace holdfast::train::kernels
