#include <cblas.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "base/check.h"
#include "train/kernels/gemm.h"

namespace holdfast::train::kernels {
namespace {

CBLAS_TRANSPOSE transpose(Op op) { return op == Op::kTranspose ? CblasTrans : CblasNoTrans; }

blasint narrow(size_t extent) {
  CHECK(extent <= static_cast<size_t>(std::numeric_limits<blasint>::max()), "{} elements", extent);
  return static_cast<blasint>(extent);
}

void product(size_t m, size_t n, size_t k, float scale, MatrixIn<float> a, MatrixIn<float> b,
             float keep, MatrixOut<float> c) {
  cblas_sgemm(CblasRowMajor, transpose(a.op), transpose(b.op), narrow(m), narrow(n), narrow(k),
              scale, a.data, narrow(a.stride), b.data, narrow(b.stride), keep, c.data,
              narrow(c.stride));
}
void product(size_t m, size_t n, size_t k, double scale, MatrixIn<double> a, MatrixIn<double> b,
             double keep, MatrixOut<double> c) {
  cblas_dgemm(CblasRowMajor, transpose(a.op), transpose(b.op), narrow(m), narrow(n), narrow(k),
              scale, a.data, narrow(a.stride), b.data, narrow(b.stride), keep, c.data,
              narrow(c.stride));
}

}  // namespace

void use_one_blas_thread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

template <class T>
void gemm(size_t m, size_t n, size_t k, T scale, MatrixIn<T> a, MatrixIn<T> b, Into into,
          MatrixOut<T> c) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (into == Into::kOverwrite)
      for (size_t row = 0; row < m; ++row) std::fill_n(c.data + row * c.stride, n, T{});
    return;
  }
  product(m, n, k, scale, a, b, into == Into::kAdd ? T{1} : T{0}, c);
}

namespace {

// The accumulator of a product that is added to `add`.
template <class T>
Into start_from(const T* add, size_t elements, T* y) {
  if (add == nullptr) return Into::kOverwrite;
  if (add != y) std::copy_n(add, elements, y);
  return Into::kAdd;
}

}  // namespace

template <class T>
void linear(const Cpu&, LinearShape shape, const T* x_NI, const T* w_OI, const T* add_NO,
            T* y_NO) {
  const Into into = start_from(add_NO, shape.rows * shape.out, y_NO);
  gemm<T>(shape.rows, shape.out, shape.in, T{1}, {x_NI, shape.in}, {w_OI, shape.in, Op::kTranspose},
          into, {y_NO, shape.out});
}

template <class T>
void linear_input_gradient(const Cpu&, LinearShape shape, const T* dy_NO, const T* w_OI,
                           const T* add_NI, T* dx_NI) {
  const Into into = start_from(add_NI, shape.rows * shape.in, dx_NI);
  gemm<T>(shape.rows, shape.in, shape.out, T{1}, {dy_NO, shape.out}, {w_OI, shape.in}, into,
          {dx_NI, shape.in});
}

template <class T>
void linear_weight_gradient(const Cpu&, LinearShape shape, const T* dy_NO, const T* x_NI,
                            Into into, T* dw_OI) {
  gemm<T>(shape.out, shape.in, shape.rows, T{1}, {dy_NO, shape.out, Op::kTranspose},
          {x_NI, shape.in}, into, {dw_OI, shape.in});
}

#define INSTANTIATE(T)                                                                            \
  template void gemm<T>(size_t, size_t, size_t, T, MatrixIn<T>, MatrixIn<T>, Into, MatrixOut<T>); \
  template void linear<T>(const Cpu&, LinearShape, const T*, const T*, const T*, T*);             \
  template void linear_input_gradient<T>(const Cpu&, LinearShape, const T*, const T*, const T*,   \
                                         T*);                                                     \
  template void linear_weight_gradient<T>(const Cpu&, LinearShape, const T*, const T*, Into, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
