#include "train/model/attention_block.h"

#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
void attention_forward(typename B::Device& device, const AttentionSizes& sizes,
                       const typename B::Rotary& table,
                       const AttentionTensors<const typename B::Value*>& weights,
                       AttentionStash<B>& stash, typename B::Value* y_ND) {
  const auto [n, width] = sizes.rows();
  stash.inverse_rms_N.resize(n);
  stash.normed_ND.resize(n * width);
  stash.qkv_NPA.resize(n * sizes.shape.packed_width());
  stash.kept.resize(attention_kept(device, sizes.shape));
  stash.heads_NHA.resize(n * width);

  const typename B::Value* x = stash.x_ND.data();
  rms_norm(device, sizes.rows(), x, weights.norm, sizes.norm_epsilon, stash.inverse_rms_N.data(),
           stash.normed_ND.data());
  linear(device, sizes.qkv(), stash.normed_ND.data(), weights.wqkv, stash.qkv_NPA.data());
  rotary(device, sizes.shape, table, stash.qkv_NPA.data());
  attention(device, sizes.shape, stash.qkv_NPA.data(), stash.kept.data(), stash.heads_NHA.data());
  linear(device, sizes.out(), stash.heads_NHA.data(), weights.wo, x, y_ND);
}

template <class B>
void attention_input_gradient(typename B::Device& device, const AttentionSizes& sizes,
                              const typename B::Rotary& table,
                              const AttentionTensors<const typename B::Value*>& weights,
                              AttentionStash<B>& stash,
                              typename B::template Room<typename B::Value>& scratch,
                              typename B::Value* residual_ND) {
  const auto [n, width] = sizes.rows();
  const typename B::Value* const nothing = nullptr;
  stash.dprojected_ND.resize(n * width);
  stash.dqkv_NPA.resize(stash.qkv_NPA.size());
  stash.dnormed_ND.resize(n * width);
  scratch.resize(n * width);

  copy(device, residual_ND, n * width, stash.dprojected_ND.data());
  linear_input_gradient(device, sizes.out(), stash.dprojected_ND.data(), weights.wo, nothing,
                        scratch.data());
  attention_input_gradient(device, sizes.shape, scratch.data(), stash.qkv_NPA.data(),
                           stash.heads_NHA.data(), stash.kept.data(), stash.dqkv_NPA.data());
  rotary_input_gradient(device, sizes.shape, table, stash.dqkv_NPA.data());
  linear_input_gradient(device, sizes.qkv(), stash.dqkv_NPA.data(), weights.wqkv, nothing,
                        stash.dnormed_ND.data());
  rms_norm_input_gradient(device, sizes.rows(), stash.dnormed_ND.data(), stash.x_ND.data(),
                          weights.norm, stash.inverse_rms_N.data(), residual_ND);
}

template <class B>
void attention_weight_gradient(typename B::Device& device, const AttentionSizes& sizes,
                               const AttentionStash<B>& stash, const GroupSpec& group,
                               const GradientTarget<typename B::Gradient>& target) {
  const auto gradients = attention_tensors(group, target.at);
  rms_norm_weight_gradient(device, sizes.rows(), stash.dnormed_ND.data(), stash.x_ND.data(),
                           stash.inverse_rms_N.data(), target.into, gradients.norm);
  linear_weight_gradient(device, sizes.qkv(), stash.dqkv_NPA.data(), stash.normed_ND.data(),
                         target.into, gradients.wqkv);
  linear_weight_gradient(device, sizes.out(), stash.dprojected_ND.data(), stash.heads_NHA.data(),
                         target.into, gradients.wo);
}

#define INSTANTIATE(B)                                                                           \
  template void attention_forward<B>(B::Device&, const AttentionSizes&, const B::Rotary&,        \
                                     const AttentionTensors<const B::Value*>&,                   \
                                     AttentionStash<B>&, B::Value*);                             \
  template void attention_input_gradient<B>(B::Device&, const AttentionSizes&, const B::Rotary&, \
                                            const AttentionTensors<const B::Value*>&,            \
                                            AttentionStash<B>&, B::Room<B::Value>&, B::Value*);  \
  template void attention_weight_gradient<B>(B::Device&, const AttentionSizes&,                  \
                                             const AttentionStash<B>&, const GroupSpec&,         \
                                             const GradientTarget<B::Gradient>&);
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
