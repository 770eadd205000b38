// The way of a micro-batch's rows to the experts of one layer and back along it, where the backend
// computes. Kept in the stash: I takes the way that F took. Shapes as in train/kernels/shapes.h.
#pragma once

#include "train/model/alone_dispatch.h"
#include "train/model/host_dispatch.h"
#include "train/model/room_dispatch.h"

namespace holdfast::train {

template <class B>
class Dispatched {
 public:
  using V = typename B::Value;
  template <class E>
  using Room = typename B::template Room<E>;

  // F, with one capacity and one number of lanes on all of them; several lanes call it together.
  // Errors: the communicator's, the device's.
  Status plan(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
              size_t width, const DispatchRoute& route);

  // I of a round whose micro-batches ran in several F rounds. from[lane]: the way that lane's micro-batch
  // took, nullptr: it has none. No communication; for ways that the host planned.
  Status assemble(typename B::Device& device, const DispatchRoute& route,
                  std::span<const Dispatched* const> from);
  // Rows of one lane's micro-batch, from where they lie in `from`'s expert order to here. `travel` is
  // scratch.
  void take_rows(typename B::Device& device, uint32_t lane, size_t width, const Dispatched& from,
                 const V* rows, Room<V>& travel, V* ordered) const;

  size_t sent() const { return routes_.sent; }
  size_t received() const { return routes_.received; }
  const uint32_t* row_of_choice() const { return routes_.row_of_choice_NK.data(); }
  typename B::ExpertRows rows() const { return routes_.experts(); }

  // F: the tokens' rows to the experts, in expert order. `sent` and `travel` are scratch.
  Status dispatch(typename B::Device& device, PayloadExchange& payload, ChoicesView chosen,
                  size_t width, const V* x_ND, Room<V>& sent_RD, Room<V>& travel,
                  Room<V>& ordered_RD);
  // I: rows of choices, in sent order, to their hosts; there into expert order. What holds no choice is
  // cleared in sent_RD.
  Status to_hosts(typename B::Device& device, PayloadExchange& payload, size_t width, V* sent_RD,
                  Room<V>& travel, V* ordered_RD) const;
  // The way back of both: rows in expert order to the lanes they came from, in sent order.
  Status to_sources(typename B::Device& device, PayloadExchange& payload, size_t width,
                    const V* ordered_RD, Room<V>& travel, V* returned_RD) const;
  // Nothing travels: sent order is expert order.
  bool stays() const { return way_ == Way::kAlone; }

 private:
  enum class Way : uint8_t { kHost, kAlone, kRooms };
  // Where the rows of a lane begin among those received.
  size_t first_received(uint32_t lane) const;
  Status travel_to_hosts(PayloadExchange& payload, size_t width, const V* sent_RD,
                         Room<V>& travel) const;

  Way way_ = Way::kHost;
  RowRoutes<B> routes_;
  HostDispatch<B> host_;
  AloneDispatch<B> alone_;
  RoomDispatch<B> rooms_;
};

}  // namespace holdfast::train
