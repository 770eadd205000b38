// The mixture-of-experts half of a block: x + sum_k gate_k expert_k(norm(x)). F and I talk to the
// group: every lane calls them together, a lane without a micro-batch with zero tokens. Shapes as
// in train/kernels/shapes.h.
#pragma once

#include "train/model/dispatched.h"
#include "train/model/gradient_sink.h"
#include "train/model/tensors.h"

namespace holdfast::train {

struct MoeSizes {
  kernels::RouterShape router;
  kernels::ExpertShape expert;
  double norm_epsilon;
  // Of the two losses: their weights in F, weights times the loss scale in I.
  kernels::RouterLosses loss_weights;
  kernels::RowShape rows() const { return {router.tokens, expert.width}; }
  kernels::LinearShape router_linear() const {
    return {router.tokens, expert.width, router.experts};
  }
  kernels::CombineShape combine() const { return {router.tokens, router.top_k, expert.width}; }
};

// Of this lane's micro-batch.
template <class B>
struct MoeStash {
  template <class E>
  using Room = typename B::template Room<E>;
  using V = typename B::Value;
  using S = typename B::Stat;
  // F
  Room<V> x_ND;  // the block's input, filled by the caller
  Room<S> inverse_rms_N;
  Room<V> normed_ND;
  Room<S> probabilities_NE, logsumexp_N, gates_NK;
  Room<uint32_t> choices_NK, rank_NK;
  Room<V> returned_RD;  // the experts' outputs, a row per choice
  // I
  Room<V> dlogits_NE, dnormed_ND;
};

// What a round brought to the experts hosted here, rows in expert order, and the way it came.
template <class B>
struct MoeHosted {
  template <class E>
  using Room = typename B::template Room<E>;
  using V = typename B::Value;
  Dispatched<B> dispatched;
  Room<V> x_RD, gate_up_R2F, hidden_RF;  // F; I makes gradients of gate_up
  Room<V> dy_RD;                         // I
};

// Room that only lives within one call; one per model.
template <class B>
struct MoeScratch {
  template <class E>
  using Room = typename B::template Room<E>;
  Room<typename B::Value> sent_RD, travel_RD, ordered_RD, dhidden_RF;
  Room<typename B::Stat> dgates_NK;
};

// What a block needs from outside for one layer.
template <class B>
struct MoeLayer {
  RouterTensors<const typename B::Value*> router;
  kernels::ExpertTensors<const typename B::Value*> experts;  // hosted here
  DispatchRoute route;
};

// What F tells of one layer, where the backend computes.
struct MoeReport {
  double* losses;      // += load balance and z, weighted
  uint32_t* counts_E;  // choices of each expert
};

// Errors: the communicator's, the device's.
template <class B>
Status moe_forward(typename B::Device& device, const MoeSizes& sizes, const MoeLayer<B>& layer,
                   MoeReport report, MoeStash<B>& stash, MoeHosted<B>& hosted,
                   MoeScratch<B>& scratch, typename B::Value* y_ND);
// What I needs at the hosts, put together from the F rounds that the I round's micro-batches ran in:
// from[lane], nullptr: that lane has none. No communication.
template <class B>
Status moe_assemble(typename B::Device& device, const MoeSizes& sizes, const DispatchRoute& route,
                    std::span<const MoeHosted<B>* const> from, MoeScratch<B>& scratch,
                    MoeHosted<B>& hosted);
// residual_ND: in, the gradient of y; out, the gradient of x. counts_E as F reported them.
template <class B>
Status moe_input_gradient(typename B::Device& device, const MoeSizes& sizes,
                          const MoeLayer<B>& layer, const uint32_t* counts_E, MoeStash<B>& stash,
                          MoeHosted<B>& hosted, MoeScratch<B>& scratch, typename B::Value* residual_ND);
template <class B>
void router_weight_gradient(typename B::Device& device, const MoeSizes& sizes,
                            const MoeStash<B>& stash, const GroupSpec& group,
                            const GradientTarget<typename B::Gradient>& target);
template <class B>
Status moe_expert_weight_gradient(typename B::Device& device, const MoeSizes& sizes,
                                  const MoeHosted<B>& hosted,
                                  typename B::ExpertGradients gradients);

}  // namespace holdfast::train
