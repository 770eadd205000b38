// The attention half of a block: x + attention(norm(x)) wo^T. Dense: runs on the lane of the
// micro-batch, without communication. Shapes as in train/kernels/ops.h.
#pragma once

#include "train/kernels/ops.h"
#include "train/model/tensors.h"

namespace holdfast::train {

struct AttentionSizes {
  kernels::AttentionShape shape;
  double norm_epsilon;
  size_t tokens() const { return shape.sequences * shape.context; }
  size_t width() const { return shape.heads * shape.head_width; }
  size_t kv_width() const { return shape.kv_heads * shape.head_width; }
};

template <class T>
struct AttentionStash {
  // F
  Buffer<T> x_ND;  // the block's input, filled by the caller
  Buffer<T> inverse_rms_N, normed_ND;
  Buffer<T> q_NHA, k_NGA, v_NGA, probabilities_BHTT, heads_ND;
  // I: the output gradient of every linear and of the norm
  Buffer<T> dprojected_ND, dq_NHA, dk_NGA, dv_NGA, dnormed_ND;
};

template <class T>
void attention_forward(const AttentionSizes& sizes, const kernels::RotaryTable<T>& rotary,
                       const AttentionTensors<const T*>& weights, AttentionStash<T>& stash,
                       T* y_ND);
// residual_ND: in, the gradient of y; out, the gradient of x. `scratch` is for one [N, D].
template <class T>
void attention_input_gradient(const AttentionSizes& sizes, const kernels::RotaryTable<T>& rotary,
                              const AttentionTensors<const T*>& weights, AttentionStash<T>& stash,
                              Buffer<T>& scratch, T* residual_ND);
template <class T>
void attention_weight_gradient(const AttentionSizes& sizes, const AttentionStash<T>& stash,
                               const AttentionTensors<T*>& gradients);

}  // namespace holdfast::train
