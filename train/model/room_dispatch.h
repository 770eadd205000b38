// Capacity mode between lanes without a word between hosts: rooms of fixed size
// (train/kernels/rooms.h). How many rows there are travels in front of them, from device to device.
#pragma once

#include "train/model/fixed_rooms.h"
#include "train/model/row_routes.h"

namespace holdfast::train {

template <class B>
class RoomDispatch {
 public:
  // Of the source: which row each choice takes. Only enqueues. row_bytes is a multiple of 4.
  void plan(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
            size_t row_bytes, const DispatchRoute& route, RowRoutes<B>& routes);
  // Into the heads of `sent`: how many choices this lane keeps.
  void announce(typename B::Device& device, ChoicesView chosen, size_t row_bytes, void* sent) const;
  // From the heads of what was received: where the rows belong, and the first row of each expert.
  void arrive(typename B::Device& device, size_t row_bytes, const void* received,
              RowRoutes<B>& routes);

 private:
  struct Key {  // of what `rooms_` was made from
    LayerPlacement placement;
    uint32_t lane = 0;
    size_t head_rows = 0;
  };
  void make_rooms(typename B::Device& device, const DispatchRoute& route, size_t head_rows);

  Key key_;
  FixedRooms rooms_;
  BackendTable<B> tables_;
  typename B::template Room<uint32_t> rows_HC_, begin_HC1_;
};

}  // namespace holdfast::train
