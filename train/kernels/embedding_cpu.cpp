#include <algorithm>

#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

template <class T>
void embedding(const Cpu&, RowShape shape, const int32_t* tokens_N, const T* table_VD, T* x_ND) {
  for (size_t n = 0; n < shape.rows; ++n)
    std::copy_n(table_VD + static_cast<size_t>(tokens_N[n]) * shape.width, shape.width,
                x_ND + n * shape.width);
}

template <class T>
void embedding_weight_gradient(const Cpu&, RowShape shape, size_t vocabulary,
                               const int32_t* tokens_N, const T* dx_ND, Into into, T* dtable_VD) {
  if (into == Into::kOverwrite) std::fill_n(dtable_VD, vocabulary * shape.width, T{});
  for (size_t n = 0; n < shape.rows; ++n) {
    const T* dx = dx_ND + n * shape.width;
    T* dtable = dtable_VD + static_cast<size_t>(tokens_N[n]) * shape.width;
    for (size_t i = 0; i < shape.width; ++i) dtable[i] += dx[i];
  }
}

#define INSTANTIATE(T)                                                                         \
  template void embedding<T>(const Cpu&, RowShape, const int32_t*, const T*, T*);              \
  template void embedding_weight_gradient<T>(const Cpu&, RowShape, size_t, const int32_t*,     \
                                             const T*, Into, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
