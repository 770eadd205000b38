#include "train/model/moe_block.h"

#include "train/kernels/backends.h"

namespace holdfast::train {
namespace {

// norm and router of this lane's micro-batch.
template <class B>
void choose_experts(typename B::Device& device, const MoeSizes& sizes,
                    const RouterTensors<const typename B::Value*>& weights, MoeReport report,
                    MoeStash<B>& stash) {
  const kernels::RouterShape shape = sizes.router;
  stash.inverse_rms_N.resize(shape.tokens);
  stash.normed_ND.resize(shape.tokens * sizes.expert.width);
  stash.probabilities_NE.resize(shape.tokens * shape.experts);
  stash.logsumexp_N.resize(shape.tokens);
  stash.choices_NK.resize(shape.choices());
  stash.rank_NK.resize(shape.choices());
  stash.gates_NK.resize(shape.choices());
  const typename B::Value* x = stash.x_ND.data();
  rms_norm(device, sizes.rows(), x, weights.norm, sizes.norm_epsilon, stash.inverse_rms_N.data(),
           stash.normed_ND.data());
  linear(device, sizes.router_linear(), stash.normed_ND.data(), weights.router,
         stash.probabilities_NE.data());
  route(device, shape, stash.probabilities_NE.data(), stash.logsumexp_N.data(),
        stash.choices_NK.data(), stash.gates_NK.data());
  count_choices(device, shape, stash.choices_NK.data(), report.counts_E, stash.rank_NK.data());
  router_losses(device, shape, stash.probabilities_NE.data(), stash.logsumexp_N.data(),
                report.counts_E, sizes.loss_weights, report.losses);
}

}  // namespace

template <class B>
Status moe_forward(typename B::Device& device, const MoeSizes& sizes, const MoeLayer<B>& layer,
                   MoeReport report, MoeStash<B>& stash, MoeHosted<B>& hosted,
                   MoeScratch<B>& scratch, typename B::Value* y_ND) {
  const auto [d, f] = sizes.expert;
  Dispatched<B>& plan = hosted.dispatched;
  choose_experts(device, sizes, layer.router, report, stash);
  const ChoicesView chosen{stash.choices_NK.data(), stash.rank_NK.data(), report.counts_E};
  RETURN_IF_ERROR(plan.plan(device, sizes.router, chosen, d, layer.route));
  hosted.gate_up_R2F.resize(plan.received() * 2 * f);
  hosted.hidden_RF.resize(plan.received() * f);
  stash.returned_RD.resize(plan.sent() * d);
  RETURN_IF_ERROR(plan.dispatch(device, layer.route.payload, chosen, d, stash.normed_ND.data(),
                                scratch.sent_RD, scratch.travel_RD, hosted.x_RD));
  auto& arrived = plan.stays() ? stash.returned_RD : scratch.ordered_RD;
  arrived.resize(plan.received() * d);
  experts(device, sizes.expert, plan.rows(), layer.experts, hosted.x_RD.data(),
          hosted.gate_up_R2F.data(), hosted.hidden_RF.data(), arrived.data());
  if (!plan.stays())
    RETURN_IF_ERROR(plan.to_sources(device, layer.route.payload, d, scratch.ordered_RD.data(),
                                    scratch.travel_RD, stash.returned_RD.data()));
  combine(device, sizes.combine(), plan.row_of_choice(), stash.gates_NK.data(),
          stash.returned_RD.data(), stash.x_ND.data(), y_ND);
  return device.check();
}

template <class B>
Status moe_assemble(typename B::Device& device, const MoeSizes& sizes, const DispatchRoute& route,
                    std::span<const MoeHosted<B>* const> from, MoeScratch<B>& scratch,
                    MoeHosted<B>& hosted) {
  const auto [d, f] = sizes.expert;
  std::vector<const Dispatched<B>*> ways;
  for (const MoeHosted<B>* one : from) ways.push_back(one == nullptr ? nullptr : &one->dispatched);
  Dispatched<B>& way = hosted.dispatched;
  RETURN_IF_ERROR(way.assemble(device, route, ways));
  hosted.x_RD.resize(way.received() * d);
  hosted.gate_up_R2F.resize(way.received() * 2 * f);
  hosted.hidden_RF.resize(way.received() * f);
  for (uint32_t lane = 0; lane < from.size(); ++lane) {
    if (from[lane] == nullptr) continue;
    const auto take = [&](size_t width, const auto& rows, auto& to) {
      way.take_rows(device, lane, width, *ways[lane], rows.data(), scratch.travel_RD, to.data());
    };
    take(d, from[lane]->x_RD, hosted.x_RD);
    take(2 * f, from[lane]->gate_up_R2F, hosted.gate_up_R2F);
    take(f, from[lane]->hidden_RF, hosted.hidden_RF);
  }
  return device.check();
}

template <class B>
Status moe_input_gradient(typename B::Device& device, const MoeSizes& sizes,
                          const MoeLayer<B>& layer, const uint32_t* counts_E, MoeStash<B>& stash,
                          MoeHosted<B>& hosted, MoeScratch<B>& scratch,
                          typename B::Value* residual_ND) {
  const auto [d, f] = sizes.expert;
  const kernels::RouterShape router = sizes.router;
  const Dispatched<B>& plan = hosted.dispatched;
  hosted.dy_RD.resize(plan.received() * d);
  auto& leaving = plan.stays() ? hosted.dy_RD : scratch.sent_RD;
  leaving.resize(plan.sent() * d);
  scratch.dgates_NK.resize(router.choices());
  combine_input_gradient(device, sizes.combine(), plan.row_of_choice(), stash.gates_NK.data(),
                         stash.returned_RD.data(), residual_ND, leaving.data(),
                         scratch.dgates_NK.data());
  if (!plan.stays())
    RETURN_IF_ERROR(plan.to_hosts(device, layer.route.payload, d, scratch.sent_RD.data(),
                                  scratch.travel_RD, hosted.dy_RD.data()));
  scratch.ordered_RD.resize(plan.received() * d);
  scratch.dhidden_RF.resize(plan.received() * f);
  experts_input_gradient(device, sizes.expert, plan.rows(), layer.experts, hosted.dy_RD.data(),
                         hosted.gate_up_R2F.data(), scratch.dhidden_RF.data(),
                         scratch.ordered_RD.data());
  const auto* drows_RD = scratch.ordered_RD.data();
  if (!plan.stays()) {
    RETURN_IF_ERROR(plan.to_sources(device, layer.route.payload, d, scratch.ordered_RD.data(),
                                    scratch.travel_RD, scratch.sent_RD.data()));
    drows_RD = scratch.sent_RD.data();
  }
  stash.dnormed_ND.resize(router.tokens * d);
  stash.dlogits_NE.resize(router.tokens * router.experts);
  dispatch_input_gradient(device, sizes.combine(), plan.row_of_choice(), drows_RD,
                          stash.dnormed_ND.data());
  router_input_gradient(device, router, stash.probabilities_NE.data(), stash.logsumexp_N.data(),
                        stash.choices_NK.data(), stash.gates_NK.data(), scratch.dgates_NK.data(),
                        counts_E, sizes.loss_weights, stash.dlogits_NE.data());
  const typename B::Value* dnormed = stash.dnormed_ND.data();
  linear_input_gradient(device, sizes.router_linear(), stash.dlogits_NE.data(),
                        layer.router.router, dnormed, stash.dnormed_ND.data());
  rms_norm_input_gradient(device, sizes.rows(), dnormed, stash.x_ND.data(), layer.router.norm,
                          stash.inverse_rms_N.data(), residual_ND);
  return device.check();
}

template <class B>
void router_weight_gradient(typename B::Device& device, const MoeSizes& sizes,
                            const MoeStash<B>& stash, const GroupSpec& group,
                            const GradientTarget<typename B::Gradient>& target) {
  const auto gradients = router_tensors(group, target.at);
  rms_norm_weight_gradient(device, sizes.rows(), stash.dnormed_ND.data(), stash.x_ND.data(),
                           stash.inverse_rms_N.data(), target.into, gradients.norm);
  linear_weight_gradient(device, sizes.router_linear(), stash.dlogits_NE.data(),
                         stash.normed_ND.data(), target.into, gradients.router);
}

template <class B>
Status moe_expert_weight_gradient(typename B::Device& device, const MoeSizes& sizes,
                                  const MoeHosted<B>& hosted,
                                  typename B::ExpertGradients gradients) {
  return experts_weight_gradient(device, sizes.expert, hosted.dispatched.rows(),
                                 hosted.x_RD.data(), hosted.gate_up_R2F.data(), hosted.dy_RD.data(),
                                 hosted.hidden_RF.data(), gradients);
}

#define INSTANTIATE(B)                                                                            \
  template Status moe_forward<B>(B::Device&, const MoeSizes&, const MoeLayer<B>&, MoeReport,      \
                                 MoeStash<B>&, MoeHosted<B>&, MoeScratch<B>&, B::Value*);         \
  template Status moe_assemble<B>(B::Device&, const MoeSizes&, const DispatchRoute&,              \
                                  std::span<const MoeHosted<B>* const>, MoeScratch<B>&,           \
                                  MoeHosted<B>&);                                                 \
  template Status moe_input_gradient<B>(B::Device&, const MoeSizes&, const MoeLayer<B>&,          \
                                        const uint32_t*, MoeStash<B>&, MoeHosted<B>&,             \
                                        MoeScratch<B>&, B::Value*);                               \
  template void router_weight_gradient<B>(B::Device&, const MoeSizes&, const MoeStash<B>&,        \
                                          const GroupSpec&, const GradientTarget<B::Gradient>&);  \
  template Status moe_expert_weight_gradient<B>(B::Device&, const MoeSizes&, const MoeHosted<B>&, \
                                                B::ExpertGradients);
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
