#include "train/model/fixed_rooms.h"

#include <numeric>

#include "base/check.h"

namespace holdfast::train {
namespace {

// ceil(slots / all * most): rows that `slots` of an expert's slots get at most.
uint32_t room_rows(uint64_t slots, uint64_t all, uint64_t most) {
  return static_cast<uint32_t>((slots * most + all - 1) / all);
}

// What one expert has of the slots of every lane.
struct ExpertSlots {
  std::vector<uint32_t> of_lane;
  uint32_t all = 0;
};
std::vector<ExpertSlots> count_slots(const LayerPlacement& placement, size_t experts) {
  std::vector<ExpertSlots> slots(experts, {std::vector<uint32_t>(placement.lanes()), 0});
  for (uint32_t lane = 0; lane < placement.lanes(); ++lane)
    for (const ExpertIndex e : placement.slots[lane]) {
      ++slots[e.value].of_lane[lane];
      ++slots[e.value].all;
    }
  for (size_t e = 0; e < experts; ++e) CHECK(slots[e].all > 0, "expert {} has no slot", e);
  return slots;
}

}  // namespace

FixedRooms plan_rooms(const LayerPlacement& placement, uint32_t lane,
                      std::span<const uint32_t> most_E, size_t head_rows) {
  const std::vector<ExpertSlots> slots = count_slots(placement, most_E.size());
  FixedRooms rooms;
  rooms.most_E.assign(most_E.begin(), most_E.end());
  std::vector<std::vector<uint32_t>> room(placement.lanes());  // [lane][expert]: its first row
  uint32_t row = 0;
  for (uint32_t to = 0; to < placement.lanes(); ++to) {
    const uint32_t chunk = row;
    rooms.chunk_C.push_back(chunk);
    row += static_cast<uint32_t>(head_rows);
    for (size_t e = 0; e < most_E.size(); ++e) {
      room[to].push_back(row);
      const uint32_t here = slots[e].of_lane[to];
      if (here == 0) continue;
      if (to == lane) rooms.room_H1.push_back(row - chunk);
      row += room_rows(here, slots[e].all, most_E[e]);
    }
    if (to == lane) rooms.room_H1.push_back(row - chunk);
    rooms.sent_rows.push_back(row - chunk);
  }
  rooms.received_rows.assign(placement.lanes(), rooms.sent_rows[lane]);
  rooms.first_slot_E1.push_back(0);
  for (size_t e = 0; e < most_E.size(); ++e) {
    uint32_t begin = 0;
    for (uint32_t to = 0; to < placement.lanes(); ++to) {
      const uint32_t here = slots[e].of_lane[to];
      rooms.room_S.insert(rooms.room_S.end(), here, room[to][e]);
      rooms.room_begin_S.insert(rooms.room_begin_S.end(), here, begin);
      if (to == lane && here > 0) {
        rooms.expert_H.push_back(static_cast<uint32_t>(e));
        rooms.slots_H.push_back(slots[e].all);
        rooms.begin_H.push_back(begin);
        rooms.end_H.push_back(begin + here);
      }
      begin += here;
    }
    rooms.first_slot_E1.push_back(rooms.first_slot_E1.back() + begin);
  }
  return rooms;
}

std::vector<uint32_t> FixedRooms::flat() const {
  std::vector<uint32_t> all;
  for (const auto* table : {&most_E, &first_slot_E1, &room_S, &room_begin_S, &chunk_C, &expert_H,
                            &slots_H, &begin_H, &end_H, &room_H1})
    all.insert(all.end(), table->begin(), table->end());
  return all;
}

kernels::SendRooms FixedRooms::sending(const uint32_t* base) const {
  const uint32_t* slots = base + most_E.size();
  const uint32_t* room = slots + first_slot_E1.size();
  const uint32_t* begin = room + room_S.size();
  return {chunk_C.size(), most_E.size(), base, slots, room, begin, begin + room_begin_S.size()};
}

kernels::ReceiveRooms FixedRooms::receiving(const uint32_t* base) const {
  const uint32_t* expert = base + most_E.size() + first_slot_E1.size() + room_S.size() +
                           room_begin_S.size() + chunk_C.size();
  const size_t hosted = expert_H.size();
  return {chunk_C.size(),      hosted,
          chunk_rows(),        expert,
          expert + hosted,     expert + 2 * hosted,
          expert + 3 * hosted, expert + 4 * hosted};
}

}  // namespace holdfast::train
