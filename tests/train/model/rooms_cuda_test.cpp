// Rooms of fixed size on an accelerator: every table is the CPU's, bit by bit.
#include "tests/train/kernels/cuda_kit.h"
#include "tests/train/model/rooms_kit.h"

namespace holdfast::train {
namespace {

class RoomsCuda : public kernels::CudaTest {
 protected:
  template <class T>
  static std::vector<uint32_t> words(const std::vector<T>& rows) {
    std::vector<uint32_t> out(rows.size() * sizeof(T) / sizeof(uint32_t));
    if (!out.empty()) std::memcpy(out.data(), rows.data(), out.size() * sizeof(uint32_t));
    return out;
  }
  void check_sending(const RandomGroup& group, uint32_t lane, const SendingLane& expected);
  void check_arrival(const SendingLane& lane, const Arrival& expected);
};

void RoomsCuda::check_sending(const RandomGroup& group, uint32_t lane,
                              const SendingLane& expected) {
  const auto tables = to_device(expected.tables), rank = to_device(expected.rank);
  const auto choices = to_device(group.choices[lane]), counts_E = to_device(expected.counts_E);
  const kernels::SendRooms rooms = expected.rooms.sending(tables.data());
  auto row_of_choice = poisoned<uint32_t>(expected.row_of_choice.size());
  DeviceBuffer<uint32_t> token_of_row(expected.token_of_row.size());
  fill_no_rows(cuda(), token_of_row.data(), token_of_row.size());
  place_in_rooms(cuda(), group.shape(lane), rooms, choices.data(), rank.data(), counts_E.data(),
                 row_of_choice.data(), token_of_row.data());
  EXPECT_EQ(to_host(row_of_choice), expected.row_of_choice);
  EXPECT_EQ(to_host(token_of_row), expected.token_of_row);

  std::vector<Row> rows = expected.sent;
  for (const uint32_t chunk : expected.rooms.chunk_C)
    std::fill_n(rows.begin() + chunk, kHeadRows, kNothing);
  auto sent = to_device(words(rows));
  write_heads(cuda(), rooms, counts_E.data(), sizeof(Row), sent.data());
  EXPECT_EQ(to_host(sent), words(expected.sent));
}

void RoomsCuda::check_arrival(const SendingLane& lane, const Arrival& expected) {
  const auto tables = to_device(lane.tables), received = to_device(words(expected.received));
  const kernels::ReceiveRooms rooms = lane.rooms.receiving(tables.data());
  auto rows_HC = poisoned<uint32_t>(expected.rows_HC.size());
  auto begin_HC1 = poisoned<uint32_t>(expected.begin_HC1.size());
  auto place_of_row = poisoned<uint32_t>(expected.place_of_row.size());
  auto first_row = poisoned<uint32_t>(expected.first_row.size());
  read_heads(cuda(), rooms, sizeof(Row), received.data(), rows_HC.data());
  first_rows(cuda(), rows_HC.size(), rows_HC.data(), nullptr, begin_HC1.data());
  place_received(cuda(), rooms, begin_HC1.data(), place_of_row.data(), first_row.data());
  EXPECT_EQ(to_host(rows_HC), expected.rows_HC);
  EXPECT_EQ(to_host(begin_HC1), expected.begin_HC1);
  EXPECT_EQ(to_host(place_of_row), expected.place_of_row);
  EXPECT_EQ(to_host(first_row), expected.first_row);
}

TEST_F(RoomsCuda, TablesAreThoseOfTheCpu) {
  std::vector<RandomGroup> groups;
  for (uint64_t seed = 0; seed < 60; ++seed) groups.push_back(random_group(seed, true));
  groups.push_back(large_group(1, 4, 6, 3000, 2));
  groups.push_back(large_group(2, 8, 6, 500, 1));
  for (size_t number = 0; number < groups.size(); ++number) {
    SCOPED_TRACE("group " + std::to_string(number));
    const RandomGroup& group = groups[number];
    std::vector<SendingLane> lanes;
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane) {
      lanes.push_back(send_rooms(group, lane));
      check_sending(group, lane, lanes.back());
    }
    for (uint32_t host = 0; host < lanes.size(); ++host)
      check_arrival(lanes[host], receive_rooms(lanes, host));
    if (HasFailure()) return;
  }
}

// As behind an exchange that was broken off: no count is more than its room, and they are the CPU's.
TEST_F(RoomsCuda, HoldNoMoreThanTheirSizeWhateverTheHeadsSay) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const RandomGroup group = random_group(seed, true);
    std::vector<SendingLane> lanes;
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane) {
      lanes.push_back(send_rooms(group, lane));
      for (Row& row : lanes.back().sent) row = {0xffffffff - lane, 0xfffffffe};
    }
    for (uint32_t host = 0; host < lanes.size(); ++host) {
      const Arrival arrival = receive_rooms(lanes, host);
      ASSERT_LE(arrival.begin_HC1.back(), arrival.received.size());
      check_arrival(lanes[host], arrival);
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace holdfast::train
