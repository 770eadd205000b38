// One head at a time, scores materialised: T x T is small on the CPU.
#include <cmath>

#include "base/check.h"
#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {
namespace {

// Where one (sequence, head) lies in the tensors.
struct HeadAt {
  size_t query;          // element offset in q, out
  size_t key;            // element offset in k, v
  size_t probabilities;  // element offset in probabilities
};

template <class Body>
void for_each_head(const AttentionShape& s, Body body) {
  CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0);
  const size_t share = s.heads / s.kv_heads;
  for (size_t b = 0; b < s.sequences; ++b) {
    const size_t token = b * s.context;
    for (size_t h = 0; h < s.heads; ++h) {
      body(HeadAt{(token * s.heads + h) * s.head_width,
                  (token * s.kv_heads + h / share) * s.head_width,
                  (b * s.heads + h) * s.context * s.context},
           h % share == 0);
    }
  }
}

template <class T>
T score_scale(const AttentionShape& s) {
  return T{1} / std::sqrt(static_cast<T>(s.head_width));
}

}  // namespace

template <class T>
void attention(AttentionShape shape, const T* q_NHA, const T* k_NGA, const T* v_NGA,
               T* probabilities_BHTT, T* out_NHA) {
  const size_t t = shape.context;
  const size_t a = shape.head_width;
  const size_t query_stride = shape.heads * a;
  const size_t key_stride = shape.kv_heads * a;
  for_each_head(shape, [&](HeadAt at, bool) {
    T* p_TT = probabilities_BHTT + at.probabilities;
    gemm<T>(t, t, a, score_scale<T>(shape), {q_NHA + at.query, query_stride},
            {k_NGA + at.key, key_stride, Op::kTranspose}, Into::kOverwrite, {p_TT, t});
    for (size_t row = 0; row < t; ++row) {
      softmax_row(row + 1, p_TT + row * t);
      std::fill(p_TT + row * t + row + 1, p_TT + (row + 1) * t, T{});
    }
    gemm<T>(t, a, t, T{1}, {p_TT, t}, {v_NGA + at.key, key_stride}, Into::kOverwrite,
            {out_NHA + at.query, query_stride});
  });
}

template <class T>
void attention_input_gradient(AttentionShape shape, const T* dout_NHA, const T* q_NHA,
                              const T* k_NGA, const T* v_NGA, const T* probabilities_BHTT,
                              T* dq_NHA, T* dk_NGA, T* dv_NGA) {
  const size_t t = shape.context;
  const size_t a = shape.head_width;
  const size_t query_stride = shape.heads * a;
  const size_t key_stride = shape.kv_heads * a;
  const T scale = score_scale<T>(shape);
  Buffer<T> dscores(t * t);
  for_each_head(shape, [&](HeadAt at, bool first_of_group) {
    const T* p_TT = probabilities_BHTT + at.probabilities;
    const Into into = first_of_group ? Into::kOverwrite : Into::kAdd;
    T* ds_TT = dscores.data();
    gemm<T>(t, a, t, T{1}, {p_TT, t, Op::kTranspose}, {dout_NHA + at.query, query_stride}, into,
            {dv_NGA + at.key, key_stride});
    gemm<T>(t, t, a, T{1}, {dout_NHA + at.query, query_stride},
            {v_NGA + at.key, key_stride, Op::kTranspose}, Into::kOverwrite, {ds_TT, t});
    for (size_t row = 0; row < t; ++row) {
      const T* p = p_TT + row * t;
      T* ds = ds_TT + row * t;
      const T mean = dot(row + 1, p, ds);
      for (size_t i = 0; i < t; ++i) ds[i] = p[i] * (ds[i] - mean);  // p is 0 above the diagonal
    }
    gemm<T>(t, a, t, scale, {ds_TT, t}, {k_NGA + at.key, key_stride}, Into::kOverwrite,
            {dq_NHA + at.query, query_stride});
    gemm<T>(t, a, t, scale, {ds_TT, t, Op::kTranspose}, {q_NHA + at.query, query_stride}, into,
            {dk_NGA + at.key, key_stride});
  });
}

#define INSTANTIATE(T)                                                                    \
  template void attention<T>(AttentionShape, const T*, const T*, const T*, T*, T*);       \
  template void attention_input_gradient<T>(AttentionShape, const T*, const T*, const T*, \
                                            const T*, const T*, T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
