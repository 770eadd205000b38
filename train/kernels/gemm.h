// Products of row-major matrices on one thread of OpenBLAS. For one shape the result is the same on
// every call, whatever the addresses; another row count may round differently, which is why
// reproducible mode never lets rows of two micro-batches share a product.
#pragma once

#include <cstddef>
#include <cstdint>

#include "train/kernels/ops.h"

namespace holdfast::train::kernels {

// Sets OpenBLAS to one thread, once for the process; cheap to call again, from any thread. Every
// MoeModel calls it before its first product.
void use_one_blas_thread();

enum class Op : uint8_t { kNone, kTranspose };

template <class T>
struct MatrixIn {
  const T* data;
  size_t stride;  // elements from one stored row to the next
  Op op = Op::kNone;
};
template <class T>
struct MatrixOut {
  T* data;
  size_t stride;
};

// c_MN (+)= scale * op(a)_MK op(b)_KN. Empty shapes are allowed; K = 0 overwrites with zeros.
template <class T>
void gemm(size_t m, size_t n, size_t k, T scale, MatrixIn<T> a, MatrixIn<T> b, Into into,
          MatrixOut<T> c);

// A linear layer y_NO = x_NI w_OI^T, plus `add` where that is not null (y itself is allowed).
template <class T>
void linear(const Cpu&, LinearShape shape, const T* x_NI, const T* w_OI, const T* add_NO,
            T* y_NO);
template <class T>
void linear(const Cpu& cpu, LinearShape shape, const T* x_NI, const T* w_OI, T* y_NO) {
  linear<T>(cpu, shape, x_NI, w_OI, nullptr, y_NO);
}
// dx_NI = dy_NO w_OI, plus `add`.
template <class T>
void linear_input_gradient(const Cpu&, LinearShape shape, const T* dy_NO, const T* w_OI,
                           const T* add_NI, T* dx_NI);
// dw_OI (+)= dy_NO^T x_NI
template <class T>
void linear_weight_gradient(const Cpu&, LinearShape shape, const T* dy_NO, const T* x_NI,
                            Into into, T* dw_OI);

}  // namespace holdfast::train::kernels
