#include <algorithm>

#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {

void first_rows(const Cpu&, size_t experts, const uint32_t* counts_E, const uint32_t* most_E,
                uint32_t* first_row) {
  first_row[0] = 0;
  for (size_t e = 0; e < experts; ++e)
    first_row[e + 1] =
        first_row[e] + (most_E == nullptr ? counts_E[e] : std::min(counts_E[e], most_E[e]));
}

void place_choices(const Cpu&, RouterShape shape, const uint32_t* choices_NK,
                   const uint32_t* rank_NK, const uint32_t* first_row, uint32_t* row_of_choice_NK,
                   uint32_t* token_of_row_R) {
  for (size_t i = 0; i < shape.choices(); ++i) {
    const uint32_t* first = first_row + choices_NK[i];
    const bool kept = rank_NK[i] < first[1] - first[0];
    row_of_choice_NK[i] = kept ? first[0] + rank_NK[i] : kNoRow;
    if (kept) token_of_row_R[row_of_choice_NK[i]] = static_cast<uint32_t>(i / shape.top_k);
  }
}

template <class T>
void gather_rows(const Cpu&, RowShape shape, const uint32_t* index_R, const T* in, T* out_RX) {
  for (size_t r = 0; r < shape.rows; ++r) {
    T* out = out_RX + r * shape.width;
    if (index_R[r] == kNoRow)
      std::fill_n(out, shape.width, T{});
    else
      std::copy_n(in + index_R[r] * shape.width, shape.width, out);
  }
}

template <class T>
void scatter_rows(const Cpu&, RowShape shape, const uint32_t* index_R, const T* in_RX, T* out) {
  for (size_t r = 0; r < shape.rows; ++r)
    if (index_R[r] != kNoRow)
      std::copy_n(in_RX + r * shape.width, shape.width, out + index_R[r] * shape.width);
}

template <class T>
void clear_rows(const Cpu&, RowShape shape, const uint32_t* index_R, T* out_RX) {
  for (size_t r = 0; r < shape.rows; ++r)
    if (index_R[r] == kNoRow) std::fill_n(out_RX + r * shape.width, shape.width, T{});
}

template <class T>
void combine(const Cpu&, CombineShape shape, const uint32_t* row_NK, const T* gates_NK,
             const T* rows_RD, const T* x_ND, T* y_ND) {
  std::copy_n(x_ND, shape.tokens * shape.width, y_ND);
  for (size_t choice = 0; choice < shape.tokens * shape.top_k; ++choice) {
    if (row_NK[choice] == kNoRow) continue;
    const T* row = rows_RD + row_NK[choice] * shape.width;
    const T gate = gates_NK[choice];
    T* y = y_ND + choice / shape.top_k * shape.width;
    for (size_t i = 0; i < shape.width; ++i) y[i] += gate * row[i];
  }
}

template <class T>
void combine_input_gradient(const Cpu&, CombineShape shape, const uint32_t* row_NK,
                            const T* gates_NK, const T* rows_RD, const T* dy_ND, T* drows_RD,
                            T* dgates_NK) {
  for (size_t choice = 0; choice < shape.tokens * shape.top_k; ++choice) {
    dgates_NK[choice] = T{};
    if (row_NK[choice] == kNoRow) continue;
    const T* dy = dy_ND + choice / shape.top_k * shape.width;
    const T gate = gates_NK[choice];
    T* drow = drows_RD + row_NK[choice] * shape.width;
    for (size_t i = 0; i < shape.width; ++i) drow[i] = gate * dy[i];
    dgates_NK[choice] = dot(shape.width, dy, rows_RD + row_NK[choice] * shape.width);
  }
}

template <class T>
void dispatch_input_gradient(const Cpu&, CombineShape shape, const uint32_t* row_NK,
                             const T* drows_RD, T* dx_ND) {
  for (size_t n = 0; n < shape.tokens; ++n) {
    T* dx = dx_ND + n * shape.width;
    std::fill_n(dx, shape.width, T{});
    for (size_t k = 0; k < shape.top_k; ++k) {
      const uint32_t row = row_NK[n * shape.top_k + k];
      if (row == kNoRow) continue;
      const T* drow = drows_RD + row * shape.width;
      for (size_t i = 0; i < shape.width; ++i) dx[i] += drow[i];
    }
  }
}

#define INSTANTIATE(T)                                                                           \
  template void gather_rows<T>(const Cpu&, RowShape, const uint32_t*, const T*, T*);             \
  template void scatter_rows<T>(const Cpu&, RowShape, const uint32_t*, const T*, T*);            \
  template void clear_rows<T>(const Cpu&, RowShape, const uint32_t*, T*);                        \
  template void combine<T>(const Cpu&, CombineShape, const uint32_t*, const T*, const T*,        \
                           const T*, T*);                                                        \
  template void combine_input_gradient<T>(const Cpu&, CombineShape, const uint32_t*, const T*,   \
                                          const T*, const T*, T*, T*);                           \
  template void dispatch_input_gradient<T>(const Cpu&, CombineShape, const uint32_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
