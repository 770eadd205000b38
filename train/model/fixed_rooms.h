// Where the rooms of fixed size lie (train/kernels/rooms.h): a pure function of placement and
// capacity, so that all lanes agree on every size without a word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "train/kernels/rooms.h"
#include "train/placement/placement.h"

namespace holdfast::train {

// Tables as kernels::SendRooms and kernels::ReceiveRooms, of one lane.
struct FixedRooms {
  std::vector<uint32_t> most_E, first_slot_E1, room_S, room_begin_S, chunk_C;
  std::vector<uint32_t> expert_H, slots_H, begin_H, end_H, room_H1;
  std::vector<size_t> sent_rows;      // to each lane
  std::vector<size_t> received_rows;  // from each lane, the same from all

  size_t chunk_rows() const { return received_rows.front(); }
  // All tables one after the other, and pointers to them where that copy begins at `base`.
  std::vector<uint32_t> flat() const;
  kernels::SendRooms sending(const uint32_t* base) const;
  kernels::ReceiveRooms receiving(const uint32_t* base) const;
};

// most_E: choices of one micro-batch that an expert takes. A room has the most rows that an even
// split over the expert's slots can bring; head_rows lie before the rooms of each chunk.
FixedRooms plan_rooms(const LayerPlacement& placement, uint32_t lane,
                      std::span<const uint32_t> most_E, size_t head_rows);

}  // namespace holdfast::train
