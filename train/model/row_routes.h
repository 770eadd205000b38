// Where the rows of one layer's micro-batch go, where the backend computes. Filled in by one of
// three ways, after which rows travel alike:
//   HostDispatch    lanes tell each other over the host how many rows they have, and the host plans
//   AloneDispatch   one lane: nothing travels, the device plans
//   RoomDispatch    capacity mode: rooms of fixed size, the device plans
// Shapes as in train/kernels/shapes.h.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "train/comm/payload.h"
#include "train/kernels/shapes.h"
#include "train/model/dispatch.h"

namespace holdfast::train {

// Whom a layer's rows travel through, and how.
struct DispatchRoute {
  Communicator& comm;
  PayloadExchange& payload;
  const LayerPlacement& placement;
  bool reproducible;
  std::span<const uint32_t> most_E = {};  // capacity; empty: dropless
  bool rooms = false;                     // of fixed size; with a capacity only
};

// What this lane's micro-batch chose, where the backend computes.
struct ChoicesView {
  const uint32_t* choices_NK;
  const uint32_t* rank_NK;  // see count_choices
  const uint32_t* counts_E;
};

template <class B>
struct RowRoutes {
  template <class E>
  using Room = typename B::template Room<E>;

  size_t sent = 0, received = 0;  // rows, those that hold no choice too
  size_t hosted = 0;              // experts
  Room<uint32_t> row_of_choice_NK, token_of_row_R, place_of_row_R;
  Room<uint32_t> first_row;                      // of each hosted expert, and the end
  std::vector<size_t> sent_rows, received_rows;  // by lane
  std::vector<kernels::ExpertRows> products;     // of backends in host memory

  typename B::ExpertRows experts() const {
    if constexpr (B::kHostMemory) {
      return {products};
    } else {
      return {hosted, received, first_row.data()};
    }
  }
  // One product for each expert that has rows, once first_row is known.
  void products_of_rows() {
    if constexpr (B::kHostMemory) {
      products.clear();
      for (size_t i = 0; i < hosted; ++i) {
        const size_t begin = first_row.data()[i], end = first_row.data()[i + 1];
        if (begin < end) products.push_back({static_cast<uint32_t>(i), begin, end - begin});
      }
    }
  }
};

// A small table that the host fills and the backend reads. Copied only when it has changed; the
// device has finished with what it was used for before.
template <class B>
class BackendTable {
 public:
  void put(typename B::Device& device, std::span<const uint32_t> table) {
    const auto held = staging_.span();
    if (std::equal(table.begin(), table.end(), held.begin(), held.end())) return;
    staging_.resize(table.size());
    at_.resize(table.size());
    std::copy(table.begin(), table.end(), staging_.data());
    upload(device, staging_.data(), table.size(), at_.data());
  }
  const uint32_t* data() const { return at_.data(); }

 private:
  typename B::template HostRoom<uint32_t> staging_;
  typename B::template Room<uint32_t> at_;
};

}  // namespace holdfast::train
