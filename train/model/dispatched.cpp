#include "train/model/dispatched.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {
namespace {

std::vector<size_t> bytes_of(const std::vector<size_t>& rows, size_t row_bytes) {
  std::vector<size_t> bytes(rows);
  for (size_t& count : bytes) count *= row_bytes;
  return bytes;
}

}  // namespace

template <class B>
typename B::ExpertRows Dispatched<B>::rows() const {
  if constexpr (B::kHostMemory) {
    return {products_};
  } else {
    return {hosted_, received_, first_row_.data()};
  }
}

template <class B>
Status Dispatched<B>::plan(typename B::Device& device, kernels::RouterShape shape,
                           ChoicesView chosen, const DispatchRoute& route) {
  if (B::kHostMemory || route.comm.size() > 1) return plan_on_host(device, shape, chosen, route);
  stays_ = true;
  sent_ = received_ = shape.choices();
  hosted_ = shape.experts;
  row_of_choice_NK_.resize(sent_);
  token_of_row_R_.resize(sent_);
  first_row_.resize(hosted_ + 1);
  first_rows(device, shape.experts, chosen.counts_E, first_row_.data());
  place_choices(device, shape, chosen.choices_NK, chosen.rank_NK, first_row_.data(),
                row_of_choice_NK_.data(), token_of_row_R_.data());
  return {};
}

template <class B>
Status Dispatched<B>::plan_on_host(typename B::Device& device, kernels::RouterShape shape,
                                   ChoicesView chosen, const DispatchRoute& route) {
  const size_t choices = shape.choices();
  staging_.resize(choices + shape.experts);
  download(device, chosen.choices_NK, choices, staging_.data());
  download(device, chosen.counts_E, shape.experts, staging_.data() + choices);
  RETURN_IF_ERROR(device.finish());
  ASSIGN_OR_RETURN(const std::vector<uint32_t> counts,
                   gather_counts(route.comm, {staging_.data() + choices, shape.experts}));
  keep(device,
       plan_dispatch({staging_.data(), choices}, static_cast<uint32_t>(shape.top_k), counts,
                     route.placement, {route.comm.rank(), route.reproducible}),
       hosted_experts(route.placement, route.comm.rank()).size());
  return device.check();
}

template <class B>
void Dispatched<B>::keep(typename B::Device& device, const DispatchPlan& plan, size_t hosted) {
  stays_ = false;
  sent_ = plan.sent();
  received_ = plan.received();
  hosted_ = hosted;
  sent_rows_ = plan.sent_rows;
  received_rows_ = plan.received_rows;
  products_ = plan.products;
  std::vector<uint32_t> first_row(hosted + 1);
  for (const kernels::ExpertRows& product : products_)
    first_row[product.hosted + 1] += static_cast<uint32_t>(product.rows);
  for (size_t i = 0; i < hosted; ++i) first_row[i + 1] += first_row[i];

  const std::pair<const std::vector<uint32_t>&, Room<uint32_t>&> all[] = {
      {plan.row_of_choice, row_of_choice_NK_},
      {plan.token_of_row, token_of_row_R_},
      {plan.place_of_row, place_of_row_R_},
      {first_row, first_row_}};
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

template <class B>
Status Dispatched<B>::to_hosts(typename B::Device& device, PayloadExchange& payload, size_t width,
                               const V* sent_RD, Room<V>& travel, V* ordered_RD) const {
  CHECK(!stays_);
  travel.resize(received_ * width);
  RETURN_IF_ERROR(payload.all_to_all(reinterpret_cast<const std::byte*>(sent_RD),
                                     bytes_of(sent_rows_, width * sizeof(V)),
                                     reinterpret_cast<std::byte*>(travel.data()),
                                     bytes_of(received_rows_, width * sizeof(V))));
  scatter_rows(device, {received_, width}, place_of_row_R_.data(), travel.data(), ordered_RD);
  return device.check();
}

template <class B>
Status Dispatched<B>::to_sources(typename B::Device& device, PayloadExchange& payload, size_t width,
                                 const V* ordered_RD, Room<V>& travel, V* returned_RD) const {
  CHECK(!stays_);
  travel.resize(received_ * width);
  gather_rows(device, {received_, width}, place_of_row_R_.data(), ordered_RD, travel.data());
  return payload.all_to_all(reinterpret_cast<const std::byte*>(travel.data()),
                            bytes_of(received_rows_, width * sizeof(V)),
                            reinterpret_cast<std::byte*>(returned_RD),
                            bytes_of(sent_rows_, width * sizeof(V)));
}

#define INSTANTIATE(B) template class Dispatched<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
