// The attention half of a block: x + attention(norm(x)) wo^T. Dense: runs on the lane of the
// micro-batch, without communication. Shapes as in train/kernels/shapes.h.
#pragma once

#include "train/kernels/shapes.h"
#include "train/model/gradient_sink.h"
#include "train/model/tensors.h"

namespace holdfast::train {

struct AttentionSizes {
  kernels::AttentionShape shape;
  double norm_epsilon;
  kernels::RowShape rows() const { return {shape.tokens(), shape.width()}; }
  kernels::LinearShape qkv() const {
    return {shape.tokens(), shape.width(), shape.packed_width()};
  }
  kernels::LinearShape out() const { return {shape.tokens(), shape.width(), shape.width()}; }
};

template <class B>
struct AttentionStash {
  template <class E>
  using Room = typename B::template Room<E>;
  using V = typename B::Value;
  using S = typename B::Stat;
  // F
  Room<V> x_ND;  // the block's input, filled by the caller
  Room<S> inverse_rms_N;
  Room<V> normed_ND, qkv_NPA, heads_NHA;
  Room<S> kept;
  // I: the output gradient of every linear and of the norm
  Room<V> dprojected_ND, dqkv_NPA, dnormed_ND;
};

template <class B>
void attention_forward(typename B::Device& device, const AttentionSizes& sizes,
                       const typename B::Rotary& rotary,
                       const AttentionTensors<const typename B::Value*>& weights,
                       AttentionStash<B>& stash, typename B::Value* y_ND);
// residual_ND: in, the gradient of y; out, the gradient of x. `scratch` is for one [N, D].
template <class B>
void attention_input_gradient(typename B::Device& device, const AttentionSizes& sizes,
                              const typename B::Rotary& rotary,
                              const AttentionTensors<const typename B::Value*>& weights,
                              AttentionStash<B>& stash,
                              typename B::template Room<typename B::Value>& scratch,
                              typename B::Value* residual_ND);
template <class B>
void attention_weight_gradient(typename B::Device& device, const AttentionSizes& sizes,
                               const AttentionStash<B>& stash, const GroupSpec& group,
                               const GradientTarget<typename B::Gradient>& target);

}  // namespace holdfast::train
