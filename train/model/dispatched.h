// A dispatch plan where the backend computes, and the way of rows to the experts and back along it.
// Shapes as in train/kernels/shapes.h.
#pragma once

#include <vector>

#include "train/comm/payload.h"
#include "train/kernels/shapes.h"
#include "train/model/dispatch.h"

namespace holdfast::train {

// Whom a layer's rows travel through.
struct DispatchRoute {
  Communicator& comm;
  PayloadExchange& payload;
  const LayerPlacement& placement;
  bool reproducible;
};

// What this lane's micro-batch chose, where the backend computes.
struct ChoicesView {
  const uint32_t* choices_NK;
  const uint32_t* rank_NK;   // see count_choices
  const uint32_t* counts_E;
};

template <class B>
class Dispatched {
 public:
  using V = typename B::Value;
  template <class E>
  using Room = typename B::template Room<E>;

  // On one lane nothing is exchanged and the host need not know how many rows each expert has; on
  // several all lanes call it together. Errors: the communicator's, the device's.
  Status plan(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
              const DispatchRoute& route);

  size_t sent() const { return sent_; }
  size_t received() const { return received_; }
  const uint32_t* row_of_choice() const { return row_of_choice_NK_.data(); }
  const uint32_t* token_of_row() const { return token_of_row_R_.data(); }
  typename B::ExpertRows rows() const;

  // Rows of choices, in sent order, to their hosts; there into expert order. `travel` is for one
  // [received, width].
  Status to_hosts(typename B::Device& device, PayloadExchange& payload, size_t width, const V* sent_RD,
                  Room<V>& travel, V* ordered_RD) const;
  // The way back: rows in expert order to the lanes they came from, in sent order.
  Status to_sources(typename B::Device& device, PayloadExchange& payload, size_t width,
                    const V* ordered_RD, Room<V>& travel, V* returned_RD) const;
  // Nothing travels: sent order is expert order.
  bool stays() const { return stays_; }

 private:
  Status plan_on_host(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
                      const DispatchRoute& route);
  void keep(typename B::Device& device, const DispatchPlan& plan, size_t hosted);

  bool stays_ = false;
  size_t sent_ = 0, received_ = 0, hosted_ = 0;
  Room<uint32_t> row_of_choice_NK_, token_of_row_R_, place_of_row_R_;
  Room<uint32_t> first_row_;  // of each hosted expert, and the end
  std::vector<size_t> sent_rows_, received_rows_;  // by lane
  std::vector<kernels::ExpertRows> products_;
  typename B::template HostRoom<uint32_t> staging_;
};

}  // namespace holdfast::train
