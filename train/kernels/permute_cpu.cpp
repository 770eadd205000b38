#include <algorithm>

#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {

template <class T>
void gather_rows(RowShape shape, const uint32_t* index_R, const T* in, T* out_RX) {
  for (size_t r = 0; r < shape.rows; ++r)
    std::copy_n(in + index_R[r] * shape.width, shape.width, out_RX + r * shape.width);
}

template <class T>
void scatter_rows(RowShape shape, const uint32_t* index_R, const T* in_RX, T* out) {
  for (size_t r = 0; r < shape.rows; ++r)
    std::copy_n(in_RX + r * shape.width, shape.width, out + index_R[r] * shape.width);
}

template <class T>
void combine(CombineShape shape, const uint32_t* row_NK, const T* gates_NK, const T* rows_RD,
             T* y_ND) {
  for (size_t choice = 0; choice < shape.tokens * shape.top_k; ++choice) {
    const T* row = rows_RD + row_NK[choice] * shape.width;
    const T gate = gates_NK[choice];
    T* y = y_ND + choice / shape.top_k * shape.width;
    for (size_t i = 0; i < shape.width; ++i) y[i] += gate * row[i];
  }
}

template <class T>
void combine_input_gradient(CombineShape shape, const uint32_t* row_NK, const T* gates_NK,
                            const T* rows_RD, const T* dy_ND, T* drows_RD, T* dgates_NK) {
  for (size_t choice = 0; choice < shape.tokens * shape.top_k; ++choice) {
    const T* dy = dy_ND + choice / shape.top_k * shape.width;
    const T gate = gates_NK[choice];
    T* drow = drows_RD + row_NK[choice] * shape.width;
    for (size_t i = 0; i < shape.width; ++i) drow[i] = gate * dy[i];
    dgates_NK[choice] = dot(shape.width, dy, rows_RD + row_NK[choice] * shape.width);
  }
}

template <class T>
void dispatch_input_gradient(CombineShape shape, const uint32_t* row_NK, const T* drows_RD,
                             T* dx_ND) {
  for (size_t n = 0; n < shape.tokens; ++n) {
    T* dx = dx_ND + n * shape.width;
    std::fill_n(dx, shape.width, T{});
    for (size_t k = 0; k < shape.top_k; ++k) {
      const T* drow = drows_RD + row_NK[n * shape.top_k + k] * shape.width;
      for (size_t i = 0; i < shape.width; ++i) dx[i] += drow[i];
    }
  }
}

#define INSTANTIATE(T)                                                                       \
  template void gather_rows<T>(RowShape, const uint32_t*, const T*, T*);                     \
  template void scatter_rows<T>(RowShape, const uint32_t*, const T*, T*);                    \
  template void combine<T>(CombineShape, const uint32_t*, const T*, const T*, T*);           \
  template void combine_input_gradient<T>(CombineShape, const uint32_t*, const T*, const T*, \
                                          const T*, T*, T*);                                 \
  template void dispatch_input_gradient<T>(CombineShape, const uint32_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
