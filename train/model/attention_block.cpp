#include "train/model/attention_block.h"

#include <algorithm>

#include "train/kernels/gemm.h"

namespace holdfast::train {
namespace {

struct Linears {
  kernels::LinearShape full;  // wq, wo
  kernels::LinearShape kv;    // wk, wv
};
Linears linears(const AttentionSizes& s) {
  return {{s.tokens(), s.width(), s.width()}, {s.tokens(), s.width(), s.kv_width()}};
}

}  // namespace

using kernels::Into;

template <class T>
void attention_forward(const AttentionSizes& sizes, const kernels::RotaryTable<T>& rotary,
                       const AttentionTensors<const T*>& weights, AttentionStash<T>& stash,
                       T* y_ND) {
  const size_t n = sizes.tokens();
  const Linears shapes = linears(sizes);
  for (Buffer<T>* buffer : {&stash.normed_ND, &stash.q_NHA, &stash.heads_ND})
    buffer->resize(n * sizes.width());
  stash.k_NGA.resize(n * sizes.kv_width());
  stash.v_NGA.resize(n * sizes.kv_width());
  stash.inverse_rms_N.resize(n);
  stash.probabilities_BHTT.resize(sizes.shape.probabilities());

  kernels::rms_norm<T>({n, sizes.width()}, stash.x_ND.data(), weights.norm, sizes.norm_epsilon,
                       stash.inverse_rms_N.data(), stash.normed_ND.data());
  const T* normed = stash.normed_ND.data();
  kernels::linear(shapes.full, normed, weights.wq, Into::kOverwrite, stash.q_NHA.data());
  kernels::linear(shapes.kv, normed, weights.wk, Into::kOverwrite, stash.k_NGA.data());
  kernels::linear(shapes.kv, normed, weights.wv, Into::kOverwrite, stash.v_NGA.data());
  kernels::rotary({n, sizes.width()}, sizes.shape.context, rotary, stash.q_NHA.data());
  kernels::rotary({n, sizes.kv_width()}, sizes.shape.context, rotary, stash.k_NGA.data());
  kernels::attention<T>(sizes.shape, stash.q_NHA.data(), stash.k_NGA.data(), stash.v_NGA.data(),
                        stash.probabilities_BHTT.data(), stash.heads_ND.data());
  std::copy_n(stash.x_ND.data(), n * sizes.width(), y_ND);
  kernels::linear<T>(shapes.full, stash.heads_ND.data(), weights.wo, Into::kAdd, y_ND);
}

template <class T>
void attention_input_gradient(const AttentionSizes& sizes, const kernels::RotaryTable<T>& rotary,
                              const AttentionTensors<const T*>& weights, AttentionStash<T>& stash,
                              Buffer<T>& scratch, T* residual_ND) {
  const size_t n = sizes.tokens();
  const Linears shapes = linears(sizes);
  stash.dprojected_ND.assign(residual_ND, n * sizes.width());
  stash.dnormed_ND.resize(n * sizes.width());
  stash.dq_NHA.resize(n * sizes.width());
  stash.dk_NGA.resize(n * sizes.kv_width());
  stash.dv_NGA.resize(n * sizes.kv_width());
  scratch.resize(n * sizes.width());

  kernels::linear_input_gradient(shapes.full, residual_ND, weights.wo, Into::kOverwrite,
                                 scratch.data());
  kernels::attention_input_gradient<T>(sizes.shape, scratch.data(), stash.q_NHA.data(),
                                       stash.k_NGA.data(), stash.v_NGA.data(),
                                       stash.probabilities_BHTT.data(), stash.dq_NHA.data(),
                                       stash.dk_NGA.data(), stash.dv_NGA.data());
  kernels::rotary_input_gradient({n, sizes.width()}, sizes.shape.context, rotary,
                                 stash.dq_NHA.data());
  kernels::rotary_input_gradient({n, sizes.kv_width()}, sizes.shape.context, rotary,
                                 stash.dk_NGA.data());
  T* dnormed = stash.dnormed_ND.data();
  kernels::linear_input_gradient<T>(shapes.full, stash.dq_NHA.data(), weights.wq, Into::kOverwrite,
                                    dnormed);
  kernels::linear_input_gradient<T>(shapes.kv, stash.dk_NGA.data(), weights.wk, Into::kAdd,
                                    dnormed);
  kernels::linear_input_gradient<T>(shapes.kv, stash.dv_NGA.data(), weights.wv, Into::kAdd,
                                    dnormed);
  kernels::rms_norm_input_gradient<T>({n, sizes.width()}, dnormed, stash.x_ND.data(), weights.norm,
                                      stash.inverse_rms_N.data(), residual_ND);
}

template <class T>
void attention_weight_gradient(const AttentionSizes& sizes, const AttentionStash<T>& stash,
                               const AttentionTensors<T*>& gradients) {
  const Linears shapes = linears(sizes);
  const T* normed = stash.normed_ND.data();
  kernels::rms_norm_weight_gradient({sizes.tokens(), sizes.width()}, stash.dnormed_ND.data(),
                                    stash.x_ND.data(), stash.inverse_rms_N.data(), gradients.norm);
  kernels::linear_weight_gradient(shapes.full, stash.dq_NHA.data(), normed, gradients.wq);
  kernels::linear_weight_gradient(shapes.kv, stash.dk_NGA.data(), normed, gradients.wk);
  kernels::linear_weight_gradient(shapes.kv, stash.dv_NGA.data(), normed, gradients.wv);
  kernels::linear_weight_gradient(shapes.full, stash.dprojected_ND.data(), stash.heads_ND.data(),
                                  gradients.wo);
}

#define INSTANTIATE(T)                                                                             \
  template void attention_forward<T>(const AttentionSizes&, const kernels::RotaryTable<T>&,        \
                                     const AttentionTensors<const T*>&, AttentionStash<T>&, T*);   \
  template void attention_input_gradient<T>(const AttentionSizes&, const kernels::RotaryTable<T>&, \
                                            const AttentionTensors<const T*>&, AttentionStash<T>&, \
                                            Buffer<T>&, T*);                                       \
  template void attention_weight_gradient<T>(const AttentionSizes&, const AttentionStash<T>&,      \
                                             const AttentionTensors<T*>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train
