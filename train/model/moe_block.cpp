#include "train/model/moe_block.h"

#include <algorithm>

#include "train/kernels/gemm.h"

namespace holdfast::train {
namespace {

using kernels::Into;
using kernels::LinearShape;
using kernels::RouterLosses;

LinearShape router_linear(const MoeSizes& s) {
  return {s.router.tokens, s.expert.width, s.router.experts};
}

// Rows of this lane's choices, in sent_RD, to the hosts; there into expert order.
template <class T>
Status to_hosts(const MoeLayer<T>& layer, const DispatchPlan& plan, size_t width,
                MoeScratch<T>& scratch, T* ordered_RD) {
  scratch.received_RD.resize(plan.received() * width);
  RETURN_IF_ERROR(exchange_rows<T>(layer.comm, width, plan.sent_rows, scratch.sent_RD.span(),
                                   plan.received_rows, scratch.received_RD.span()));
  kernels::scatter_rows<T>({plan.received(), width}, plan.place_of_row.data(),
                           scratch.received_RD.data(), ordered_RD);
  return {};
}

// The way back: rows in expert order to the lanes they came from, a row per choice.
template <class T>
Status to_sources(const MoeLayer<T>& layer, const DispatchPlan& plan, size_t width,
                  const T* ordered_RD, MoeScratch<T>& scratch, std::span<T> returned_RD) {
  scratch.received_RD.resize(plan.received() * width);
  kernels::gather_rows<T>({plan.received(), width}, plan.place_of_row.data(), ordered_RD,
                          scratch.received_RD.data());
  return exchange_rows<T>(layer.comm, width, plan.received_rows, scratch.received_RD.span(),
                          plan.sent_rows, returned_RD);
}

// norm and router of this lane's micro-batch; counts_E tells what it chose.
template <class T>
RouterLosses choose_experts(const MoeSizes& sizes, const RouterTensors<const T*>& weights,
                            MoeStash<T>& stash) {
  const auto [n, experts, top_k] = sizes.router;
  stash.inverse_rms_N.resize(n);
  stash.normed_ND.resize(n * sizes.expert.width);
  stash.probabilities_NE.resize(n * experts);
  stash.logsumexp_N.resize(n);
  stash.choices_NK.resize(n * top_k);
  stash.gates_NK.resize(n * top_k);
  kernels::rms_norm<T>(sizes.rows(), stash.x_ND.data(), weights.norm, sizes.norm_epsilon,
                       stash.inverse_rms_N.data(), stash.normed_ND.data());
  kernels::linear<T>(router_linear(sizes), stash.normed_ND.data(), weights.router, Into::kOverwrite,
                     stash.probabilities_NE.data());
  kernels::route<T>(sizes.router, stash.probabilities_NE.data(), stash.logsumexp_N.data(),
                    stash.choices_NK.data(), stash.gates_NK.data());
  stash.counts_E.assign(experts, 0);
  for (const uint32_t expert : stash.choices_NK.span()) ++stash.counts_E[expert];
  RouterLosses losses = kernels::router_losses<T>(sizes.router, stash.probabilities_NE.data(),
                                                  stash.logsumexp_N.data(), stash.counts_E);
  losses.load_balance *= sizes.loss_weights.load_balance;
  losses.z *= sizes.loss_weights.z;
  return losses;
}

}  // namespace

template <class T>
Result<RouterLosses> moe_forward(const MoeSizes& sizes, const MoeLayer<T>& layer,
                                 MoeStash<T>& stash, MoeScratch<T>& scratch, T* y_ND) {
  const size_t width = sizes.expert.width;
  const RouterLosses losses = choose_experts(sizes, layer.router, stash);
  ASSIGN_OR_RETURN(const std::vector<uint32_t> counts, gather_counts(layer.comm, stash.counts_E));
  stash.plan = plan_dispatch(stash.choices_NK.span(), static_cast<uint32_t>(sizes.router.top_k),
                             counts, layer.placement, {layer.comm.rank(), layer.reproducible});
  const DispatchPlan& plan = stash.plan;

  scratch.sent_RD.resize(plan.sent() * width);
  kernels::gather_rows<T>({plan.sent(), width}, plan.token_of_row.data(), stash.normed_ND.data(),
                          scratch.sent_RD.data());
  stash.experts.x_RD.resize(plan.received() * width);
  RETURN_IF_ERROR(to_hosts(layer, plan, width, scratch, stash.experts.x_RD.data()));

  scratch.ordered_RD.resize(plan.received() * width);
  experts_forward(sizes.expert, plan.products, layer.group, layer.weights, stash.experts,
                  scratch.ordered_RD.data());

  stash.returned_RD.resize(plan.sent() * width);
  RETURN_IF_ERROR(to_sources<T>(layer, plan, width, scratch.ordered_RD.data(), scratch,
                                stash.returned_RD.span()));
  std::copy_n(stash.x_ND.data(), sizes.router.tokens * width, y_ND);
  kernels::combine<T>(sizes.combine(), plan.row_of_choice.data(), stash.gates_NK.data(),
                      stash.returned_RD.data(), y_ND);
  return losses;
}

template <class T>
Status moe_input_gradient(const MoeSizes& sizes, const MoeLayer<T>& layer, MoeStash<T>& stash,
                          MoeScratch<T>& scratch, T* residual_ND) {
  const size_t width = sizes.expert.width;
  const size_t n = sizes.router.tokens;
  const DispatchPlan& plan = stash.plan;
  scratch.sent_RD.resize(plan.sent() * width);
  scratch.dgates_NK.resize(n * sizes.router.top_k);
  kernels::combine_input_gradient<T>(sizes.combine(), plan.row_of_choice.data(),
                                     stash.gates_NK.data(), stash.returned_RD.data(), residual_ND,
                                     scratch.sent_RD.data(), scratch.dgates_NK.data());
  stash.experts.dy_RD.resize(plan.received() * width);
  RETURN_IF_ERROR(to_hosts(layer, plan, width, scratch, stash.experts.dy_RD.data()));

  scratch.ordered_RD.resize(plan.received() * width);
  experts_input_gradient(sizes.expert, plan.products, layer.group, layer.weights, stash.experts,
                         scratch.hidden_RF, scratch.ordered_RD.data());

  // sent_RD takes the gradients of the rows that were sent.
  RETURN_IF_ERROR(to_sources<T>(layer, plan, width, scratch.ordered_RD.data(), scratch,
                                scratch.sent_RD.span()));
  stash.dnormed_ND.resize(n * width);
  stash.dlogits_NE.resize(n * sizes.router.experts);
  kernels::dispatch_input_gradient<T>(sizes.combine(), plan.row_of_choice.data(),
                                      scratch.sent_RD.data(), stash.dnormed_ND.data());
  kernels::router_input_gradient<T>(sizes.router, stash.probabilities_NE.data(),
                                    stash.logsumexp_N.data(), stash.choices_NK.data(),
                                    stash.gates_NK.data(), scratch.dgates_NK.data(), stash.counts_E,
                                    sizes.loss_weights, stash.dlogits_NE.data());
  kernels::linear_input_gradient<T>(router_linear(sizes), stash.dlogits_NE.data(),
                                    layer.router.router, Into::kAdd, stash.dnormed_ND.data());
  kernels::rms_norm_input_gradient<T>(sizes.rows(), stash.dnormed_ND.data(), stash.x_ND.data(),
                                      layer.router.norm, stash.inverse_rms_N.data(), residual_ND);
  return {};
}

template <class T>
void router_weight_gradient(const MoeSizes& sizes, const MoeStash<T>& stash,
                            const RouterTensors<T*>& gradients) {
  kernels::rms_norm_weight_gradient<T>(sizes.rows(), stash.dnormed_ND.data(), stash.x_ND.data(),
                                       stash.inverse_rms_N.data(), gradients.norm);
  kernels::linear_weight_gradient<T>(router_linear(sizes), stash.dlogits_NE.data(),
                                     stash.normed_ND.data(), gradients.router);
}

#define INSTANTIATE(T)                                                                            \
  template Result<RouterLosses> moe_forward<T>(const MoeSizes&, const MoeLayer<T>&, MoeStash<T>&, \
                                               MoeScratch<T>&, T*);                               \
  template Status moe_input_gradient<T>(const MoeSizes&, const MoeLayer<T>&, MoeStash<T>&,        \
                                        MoeScratch<T>&, T*);                                      \
  template void router_weight_gradient<T>(const MoeSizes&, const MoeStash<T>&,                    \
                                          const RouterTensors<T*>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace holdfast::train
