#include "train/model/dispatched.h"

#include <numeric>

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
Status Dispatched<B>::plan(typename B::Device& device, kernels::RouterShape shape,
                           ChoicesView chosen, size_t width, const DispatchRoute& route) {
  if (!B::kHostMemory && route.comm.size() == 1)
    way_ = Way::kAlone;
  else
    way_ = route.rooms && !route.most_E.empty() ? Way::kRooms : Way::kHost;
  switch (way_) {
    case Way::kHost:
      return host_.plan(device, shape, chosen, route, routes_);
    case Way::kAlone:
      alone_.plan(device, shape, chosen, route.most_E, routes_);
      break;
    case Way::kRooms:
      rooms_.plan(device, shape, chosen, width * sizeof(V), route, routes_);
      break;
  }
  return device.check();
}

template <class B>
Status Dispatched<B>::assemble(typename B::Device& device, const DispatchRoute& route,
                               std::span<const Dispatched* const> from) {
  way_ = Way::kHost;
  std::vector<const HostDispatch<B>*> plans;
  for (const Dispatched* one : from) {
    CHECK(one == nullptr || one->way_ == Way::kHost, "only plans of the host can be put together");
    plans.push_back(one == nullptr ? nullptr : &one->host_);
  }
  const Dispatched* own = from[route.comm.rank()];
  host_.assemble(device, route, own == nullptr ? nullptr : &own->routes_, plans, routes_);
  return device.check();
}

template <class B>
size_t Dispatched<B>::first_received(uint32_t lane) const {
  return std::accumulate(routes_.received_rows.begin(),
                         routes_.received_rows.begin() + static_cast<long>(lane), size_t{0});
}

template <class B>
void Dispatched<B>::take_rows(typename B::Device& device, uint32_t lane, size_t width,
                              const Dispatched& from, const V* rows, Room<V>& travel,
                              V* ordered) const {
  const size_t count = routes_.received_rows[lane];
  CHECK(count == from.routes_.received_rows[lane], "{} rows of lane {}, {} where they lie", count,
        lane, from.routes_.received_rows[lane]);
  travel.resize(count * width);
  gather_rows(device, {count, width},
              from.routes_.place_of_row_R.data() + from.first_received(lane), rows, travel.data());
  scatter_rows(device, {count, width}, routes_.place_of_row_R.data() + first_received(lane),
               travel.data(), ordered);
}

template <class B>
Status Dispatched<B>::dispatch(typename B::Device& device, PayloadExchange& payload,
                               ChoicesView chosen, size_t width, const V* x_ND, Room<V>& sent_RD,
                               Room<V>& travel, Room<V>& ordered_RD) {
  const size_t row_bytes = width * sizeof(V);
  ordered_RD.resize(received() * width);
  Room<V>& leaving = stays() ? ordered_RD : sent_RD;
  leaving.resize(sent() * width);
  gather_rows(device, {sent(), width}, routes_.token_of_row_R.data(), x_ND, leaving.data());
  if (stays()) return device.check();
  if (way_ == Way::kRooms) rooms_.announce(device, chosen, row_bytes, sent_RD.data());
  RETURN_IF_ERROR(travel_to_hosts(payload, width, sent_RD.data(), travel));
  if (way_ == Way::kRooms) rooms_.arrive(device, row_bytes, travel.data(), routes_);
  scatter_rows(device, {received(), width}, routes_.place_of_row_R.data(), travel.data(),
               ordered_RD.data());
  return device.check();
}

template <class B>
Status Dispatched<B>::to_hosts(typename B::Device& device, PayloadExchange& payload, size_t width,
                               V* sent_RD, Room<V>& travel, V* ordered_RD) const {
  CHECK(!stays());
  if (way_ == Way::kRooms)
    clear_rows(device, {sent(), width}, routes_.token_of_row_R.data(), sent_RD);
  RETURN_IF_ERROR(travel_to_hosts(payload, width, sent_RD, travel));
  scatter_rows(device, {received(), width}, routes_.place_of_row_R.data(), travel.data(),
               ordered_RD);
  return device.check();
}

template <class B>
Status Dispatched<B>::travel_to_hosts(PayloadExchange& payload, size_t width, const V* sent_RD,
                                      Room<V>& travel) const {
  travel.resize(received() * width);
  return payload.all_to_all(reinterpret_cast<const std::byte*>(sent_RD),
                            bytes_of(routes_.sent_rows, width * sizeof(V)),
                            reinterpret_cast<std::byte*>(travel.data()),
                            bytes_of(routes_.received_rows, width * sizeof(V)));
}

template <class B>
Status Dispatched<B>::to_sources(typename B::Device& device, PayloadExchange& payload, size_t width,
                                 const V* ordered_RD, Room<V>& travel, V* returned_RD) const {
  CHECK(!stays());
  travel.resize(received() * width);
  gather_rows(device, {received(), width}, routes_.place_of_row_R.data(), ordered_RD,
              travel.data());
  return payload.all_to_all(reinterpret_cast<const std::byte*>(travel.data()),
                            bytes_of(routes_.received_rows, width * sizeof(V)),
                            reinterpret_cast<std::byte*>(returned_RD),
                            bytes_of(routes_.sent_rows, width * sizeof(V)));
}

#define INSTANTIATE(B) template class Dispatched<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
