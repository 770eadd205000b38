// Sums and exponentials over one row, shared by the operations of this folder only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace holdfast::train::kernels {

// The sum of term(0) .. term(n - 1) as 16 partial sums: an order that is fixed and that the
// compiler can vectorise without being allowed to reassociate.
template <class T, class Term>
inline T row_sum(size_t n, Term term) {
  constexpr size_t kPartials = 16;
  T partial[kPartials] = {};
  size_t i = 0;
  for (; i + kPartials <= n; i += kPartials)
    for (size_t j = 0; j < kPartials; ++j) partial[j] += term(i + j);
  for (size_t j = 0; i < n; ++i, ++j) partial[j] += term(i);
  for (size_t half = kPartials / 2; half > 0; half /= 2)
    for (size_t j = 0; j < half; ++j) partial[j] += partial[j + half];
  return partial[0];
}

template <class T>
inline T dot(size_t n, const T* a, const T* b) {
  return row_sum<T>(n, [a, b](size_t i) { return a[i] * b[i]; });
}

// Softmax of x[0 .. n) in place; returns log(sum(exp(x))).
template <class T>
inline T softmax_row(size_t n, T* x) {
  const T largest = *std::max_element(x, x + n);
  for (size_t i = 0; i < n; ++i) x[i] = std::exp(x[i] - largest);
  const T sum = row_sum<T>(n, [x](size_t i) { return x[i]; });
  const T inverse = T{1} / sum;
  for (size_t i = 0; i < n; ++i) x[i] *= inverse;
  return largest + std::log(sum);
}

}  // namespace holdfast::train::kernels
