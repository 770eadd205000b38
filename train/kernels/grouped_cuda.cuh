// Grouped products on Hopper: one launch for all experts of a layer, whose numbers of rows only the
// device knows. Row-major, expert e has the rows first_row[e] .. first_row[e + 1].
#pragma once

#include <cstddef>
#include <cstdint>

#include "train/kernels/device_cuda.cuh"

namespace holdfast::train::kernels {

// One matrix per expert: of expert e at base + first_row[e] * per_row + e * per_expert elements.
template <class T>
struct GroupedOperand {
  T* base = nullptr;
  int64_t per_row = 0;     // elements, the row's width: rows of tokens
  int64_t per_expert = 0;  // elements: weights and their gradients
};

struct GroupedRows {
  int experts;
  const uint32_t* first_row;
};

// All of these need widths that are multiples of 8 and pointers that are multiples of 16 bytes.
// y [rows_e, n] = x [rows_e, k] w_e [n, k]^T
void grouped_forward(Cuda& cuda, const char* operation, GroupedRows rows, int n, int k,
                     GroupedOperand<const Bf16> x, GroupedOperand<const Bf16> w,
                     GroupedOperand<Bf16> y);
// dx [rows_e, n] = dy [rows_e, k] w_e [k, n]
void grouped_input_gradient(Cuda& cuda, const char* operation, GroupedRows rows, int n, int k,
                            GroupedOperand<const Bf16> dy, GroupedOperand<const Bf16> w,
                            GroupedOperand<Bf16> dx);
// dw_e [m, n] = dy [rows_e, m]^T x [rows_e, n], plus dw_e with `add`; not written for an expert
// without rows.
void grouped_weight_gradient(Cuda& cuda, const char* operation, GroupedRows rows, int m, int n,
                             GroupedOperand<const Bf16> dy, GroupedOperand<const Bf16> x, bool add,
                             GroupedOperand<float> dw);

}  // namespace holdfast::train::kernels
