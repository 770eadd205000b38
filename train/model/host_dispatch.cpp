#include "train/model/host_dispatch.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
Status HostDispatch<B>::plan(typename B::Device& device, kernels::RouterShape shape,
                             ChoicesView chosen, const DispatchRoute& route, RowRoutes<B>& routes) {
  const size_t choices = shape.choices();
  staging_.resize(choices + shape.experts);
  download(device, chosen.choices_NK, choices, staging_.data());
  download(device, chosen.counts_E, shape.experts, staging_.data() + choices);
  RETURN_IF_ERROR(device.finish());
  ASSIGN_OR_RETURN(counts_CE_, gather_counts(route.comm, {staging_.data() + choices, shape.experts}));
  keep(device,
       plan_dispatch({staging_.data(), choices}, static_cast<uint32_t>(shape.top_k), counts_CE_,
                     route.placement, {route.comm.rank(), route.reproducible, route.most_E}),
       hosted_experts(route.placement, route.comm.rank()).size(), routes);
  return device.check();
}

template <class B>
void HostDispatch<B>::assemble(typename B::Device& device, const DispatchRoute& route,
                               const RowRoutes<B>* own, std::span<const HostDispatch* const> from,
                               RowRoutes<B>& routes) {
  CHECK(from.size() == route.comm.size());
  size_t experts = 0;
  for (const HostDispatch* one : from)
    if (one != nullptr) experts = one->counts_CE_.size() / from.size();
  counts_CE_.assign(from.size() * experts, 0);
  for (size_t lane = 0; lane < from.size(); ++lane)
    if (from[lane] != nullptr)
      std::copy_n(from[lane]->counts_CE_.begin() + static_cast<long>(lane * experts), experts,
                  counts_CE_.begin() + static_cast<long>(lane * experts));
  const uint32_t rank = route.comm.rank();
  DispatchPlan plan =
      plan_arrivals(counts_CE_, route.placement, {rank, route.reproducible, route.most_E});
  plan.sent_rows.assign(from.size(), 0);
  keep(device, plan, hosted_experts(route.placement, rank).size(), routes);
  if (own == nullptr) return;
  routes.sent = own->sent;
  routes.sent_rows = own->sent_rows;
  routes.row_of_choice_NK.resize(own->row_of_choice_NK.size());
  copy(device, own->row_of_choice_NK.data(), own->row_of_choice_NK.size(),
       routes.row_of_choice_NK.data());
}

template <class B>
void HostDispatch<B>::keep(typename B::Device& device, const DispatchPlan& plan, size_t hosted,
                           RowRoutes<B>& routes) {
  routes.sent = plan.sent();
  routes.received = plan.received();
  routes.hosted = hosted;
  routes.sent_rows = plan.sent_rows;
  routes.received_rows = plan.received_rows;
  routes.products = plan.products;
  std::vector<uint32_t> first_row(hosted + 1);
  for (const kernels::ExpertRows& product : plan.products)
    first_row[product.hosted + 1] += static_cast<uint32_t>(product.rows);
  for (size_t i = 0; i < hosted; ++i) first_row[i + 1] += first_row[i];

  const std::pair<const std::vector<uint32_t>&, typename RowRoutes<B>::template Room<uint32_t>&>
      all[] = {{plan.row_of_choice, routes.row_of_choice_NK},
               {plan.token_of_row, routes.token_of_row_R},
               {plan.place_of_row, routes.place_of_row_R},
               {first_row, routes.first_row}};
  size_t total = 0;
  for (const auto& [from, to] : all) total += from.size();
  staging_.resize(total);  // what was in it has been read: see finish() before
  uint32_t* at = staging_.data();
  for (const auto& [from, to] : all) {
    std::copy(from.begin(), from.end(), at);
    to.resize(from.size());
    upload(device, at, from.size(), to.data());
    at += from.size();
  }
}

#define INSTANTIATE(B) template class HostDispatch<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
