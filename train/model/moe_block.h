// The mixture-of-experts half of a block: x + sum_k gate_k expert_k(norm(x)). F and I talk to the
// group: every lane calls them together, a lane without a micro-batch with zero tokens. Shapes as
// in train/kernels/ops.h.
#pragma once

#include "train/kernels/ops.h"
#include "train/model/experts.h"

namespace holdfast::train {

struct MoeSizes {
  kernels::RouterShape router;  // tokens, experts, top_k
  ExpertSizes expert;
  double norm_epsilon;
  // Of the two losses: their weights in F, weights times the loss scale in I.
  kernels::RouterLosses loss_weights;
  kernels::RowShape rows() const { return {router.tokens, expert.width}; }
  kernels::CombineShape combine() const { return {router.tokens, router.top_k, expert.width}; }
};

template <class T>
struct MoeStash {
  // F, at the source
  Buffer<T> x_ND;  // the block's input, filled by the caller
  Buffer<T> inverse_rms_N, normed_ND;
  Buffer<T> probabilities_NE, logsumexp_N, gates_NK;
  Buffer<uint32_t> choices_NK;
  std::vector<uint32_t> counts_E;
  DispatchPlan plan;
  Buffer<T> returned_RD;  // the experts' outputs, a row per choice
  // F and I, on the host
  ExpertStash<T> experts;
  // I, at the source
  Buffer<T> dlogits_NE, dnormed_ND;
};

// Room that only lives within one call; one per model.
template <class T>
struct MoeScratch {
  Buffer<T> sent_RD, received_RD, ordered_RD, hidden_RF, dgates_NK;
};

// What a block needs from outside for one layer.
template <class T>
struct MoeLayer {
  RouterTensors<const T*> router;
  const Weights<T>& weights;  // of the experts
  ExpertGroup group;
  const LayerPlacement& placement;
  Communicator& comm;
  bool reproducible;
};

// Returns the two losses, weighted. Errors: the communicator's.
template <class T>
Result<kernels::RouterLosses> moe_forward(const MoeSizes& sizes, const MoeLayer<T>& layer,
                                          MoeStash<T>& stash, MoeScratch<T>& scratch, T* y_ND);
// residual_ND: in, the gradient of y; out, the gradient of x.
template <class T>
Status moe_input_gradient(const MoeSizes& sizes, const MoeLayer<T>& layer, MoeStash<T>& stash,
                          MoeScratch<T>& scratch, T* residual_ND);
template <class T>
void router_weight_gradient(const MoeSizes& sizes, const MoeStash<T>& stash,
                            const RouterTensors<T*>& gradients);

}  // namespace holdfast::train
