// One head at a time, scores materialised: T x T is small on the CPU.
#include <cmath>

#include "base/check.h"
#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"
#include "train/kernels/row_math.h"

namespace holdfast::train::kernels {
namespace {

// Where one (sequence, head) lies in the tensors: element offsets.
struct HeadAt {
  size_t out;
  size_t query, key, value;  // in q, k, v
  size_t probabilities;
};

template <class Body>
void for_each_head(const AttentionShape& s, Body body) {
  CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0);
  const size_t share = s.heads / s.kv_heads;
  for (size_t b = 0; b < s.sequences; ++b) {
    const size_t token = b * s.context;
    const size_t row = token * s.packed_width();
    for (size_t h = 0; h < s.heads; ++h) {
      body(HeadAt{(token * s.heads + h) * s.head_width, row + h * s.head_width,
                  row + (s.heads + h / share) * s.head_width,
                  row + (s.heads + s.kv_heads + h / share) * s.head_width,
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

size_t attention_kept(const Cpu&, AttentionShape shape) {
  return shape.sequences * shape.heads * shape.context * shape.context;
}

template <class T>
void attention(const Cpu&, AttentionShape shape, const T* qkv_NPA, T* kept, T* out_NHA) {
  const size_t t = shape.context;
  const size_t a = shape.head_width;
  const size_t stride = shape.packed_width();
  for_each_head(shape, [&](HeadAt at, bool) {
    T* p_TT = kept + at.probabilities;
    gemm<T>(t, t, a, score_scale<T>(shape), {qkv_NPA + at.query, stride},
            {qkv_NPA + at.key, stride, Op::kTranspose}, Into::kOverwrite, {p_TT, t});
    for (size_t row = 0; row < t; ++row) {
      softmax_row(row + 1, p_TT + row * t);
      std::fill(p_TT + row * t + row + 1, p_TT + (row + 1) * t, T{});
    }
    gemm<T>(t, a, t, T{1}, {p_TT, t}, {qkv_NPA + at.value, stride}, Into::kOverwrite,
            {out_NHA + at.out, shape.width()});
  });
}

template <class T>
void attention_input_gradient(const Cpu&, AttentionShape shape, const T* dout_NHA,
                              const T* qkv_NPA, const T*, const T* kept, T* dqkv_NPA) {
  const size_t t = shape.context;
  const size_t a = shape.head_width;
  const size_t stride = shape.packed_width();
  const T scale = score_scale<T>(shape);
  Buffer<T> dscores(t * t);
  for_each_head(shape, [&](HeadAt at, bool first_of_group) {
    const T* p_TT = kept + at.probabilities;
    const Into into = first_of_group ? Into::kOverwrite : Into::kAdd;
    T* ds_TT = dscores.data();
    gemm<T>(t, a, t, T{1}, {p_TT, t, Op::kTranspose}, {dout_NHA + at.out, shape.width()}, into,
            {dqkv_NPA + at.value, stride});
    gemm<T>(t, t, a, T{1}, {dout_NHA + at.out, shape.width()},
            {qkv_NPA + at.value, stride, Op::kTranspose}, Into::kOverwrite, {ds_TT, t});
    for (size_t row = 0; row < t; ++row) {
      const T* p = p_TT + row * t;
      T* ds = ds_TT + row * t;
      const T mean = dot(row + 1, p, ds);
      for (size_t i = 0; i < t; ++i) ds[i] = p[i] * (ds[i] - mean);  // p is 0 above the diagonal
    }
    gemm<T>(t, a, t, scale, {ds_TT, t}, {qkv_NPA + at.key, stride}, Into::kOverwrite,
            {dqkv_NPA + at.query, stride});
    gemm<T>(t, a, t, scale, {ds_TT, t, Op::kTranspose}, {qkv_NPA + at.query, stride}, into,
            {dqkv_NPA + at.key, stride});
  });
}

#define INSTANTIATE(T)                                                                    \
  template void attention<T>(const Cpu&, AttentionShape, const T*, T*, T*);               \
  template void attention_input_gradient<T>(const Cpu&, AttentionShape, const T*, const T*, \
                                            const T*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train::kernels
