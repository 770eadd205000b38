#include <algorithm>
#include <cstring>

#include "train/kernels/ops.h"
#include "train/kernels/rooms.h"

namespace holdfast::train::kernels {
namespace {

// The first of m choices that goes to slot j of `slots`, or to one behind it.
uint64_t first_of_slot(uint64_t j, uint64_t m, uint64_t slots) { return j * m / slots; }

}  // namespace

void place_in_rooms(const Cpu&, RouterShape shape, const SendRooms& rooms,
                    const uint32_t* choices_NK, const uint32_t* rank_NK, const uint32_t* counts_E,
                    uint32_t* row_of_choice_NK, uint32_t* token_of_row_R) {
  for (size_t i = 0; i < shape.choices(); ++i) {
    const uint32_t e = choices_NK[i];
    const uint64_t rank = rank_NK[i], m = std::min(counts_E[e], rooms.most_E[e]);
    row_of_choice_NK[i] = kNoRow;
    if (rank >= m) continue;
    const uint64_t slots = rooms.first_slot_E1[e + 1] - rooms.first_slot_E1[e];
    // The last j with j m / slots <= rank: j m < (rank + 1) slots.
    const uint64_t slot = rooms.first_slot_E1[e] + ((rank + 1) * slots - 1) / m;
    const auto row = static_cast<uint32_t>(rooms.room_S[slot] + rank -
                                           first_of_slot(rooms.room_begin_S[slot], m, slots));
    row_of_choice_NK[i] = row;
    token_of_row_R[row] = static_cast<uint32_t>(i / shape.top_k);
  }
}

void write_heads(const Cpu&, const SendRooms& rooms, const uint32_t* counts_E, size_t row_bytes,
                 void* sent) {
  for (size_t lane = 0; lane < rooms.lanes; ++lane) {
    auto* head = static_cast<std::byte*>(sent) + rooms.chunk_C[lane] * row_bytes;
    for (size_t e = 0; e < rooms.experts; ++e) {
      const uint32_t kept = std::min(counts_E[e], rooms.most_E[e]);
      std::memcpy(head + e * sizeof kept, &kept, sizeof kept);
    }
  }
}

void read_heads(const Cpu&, const ReceiveRooms& rooms, size_t row_bytes, const void* received,
                uint32_t* rows_HC) {
  for (size_t h = 0; h < rooms.hosted; ++h)
    for (size_t lane = 0; lane < rooms.lanes; ++lane) {
      const auto* head =
          static_cast<const std::byte*>(received) + lane * rooms.chunk_rows * row_bytes;
      uint32_t kept = 0;
      std::memcpy(&kept, head + rooms.expert_H[h] * sizeof kept, sizeof kept);
      rows_HC[h * rooms.lanes + lane] =
          std::min(static_cast<uint32_t>(first_of_slot(rooms.end_H[h], kept, rooms.slots_H[h]) -
                                         first_of_slot(rooms.begin_H[h], kept, rooms.slots_H[h])),
                   rooms.room_H1[h + 1] - rooms.room_H1[h]);
    }
}

void place_received(const Cpu&, const ReceiveRooms& rooms, const uint32_t* begin_HC1,
                    uint32_t* place_of_row_R, uint32_t* first_row_H1) {
  std::fill_n(place_of_row_R, rooms.rows(), kNoRow);
  for (size_t lane = 0; lane < rooms.lanes; ++lane)
    for (size_t h = 0; h < rooms.hosted; ++h) {
      const uint32_t* begin = begin_HC1 + h * rooms.lanes + lane;
      uint32_t* place = place_of_row_R + lane * rooms.chunk_rows + rooms.room_H1[h];
      for (uint32_t i = 0; i < begin[1] - begin[0]; ++i) place[i] = begin[0] + i;
    }
  for (size_t h = 0; h <= rooms.hosted; ++h) first_row_H1[h] = begin_HC1[h * rooms.lanes];
}

}  // namespace holdfast::train::kernels
