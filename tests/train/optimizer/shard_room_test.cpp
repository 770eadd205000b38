// Shards come and go, what stays is not moved, and memory is taken in few pieces.
#include "train/optimizer/shard_room.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace holdfast::train {
namespace {

using Room = ShardRoom<CpuBackend<float>>;
using Wanted = std::map<uint32_t, size_t>;

// Elements of a bank of the piece of memory that the shard lies in: its two banks are so far apart.
ptrdiff_t piece_of(Room& room, uint32_t shard) { return room.find(1, shard) - room.find(0, shard); }

void fill(Room& room, uint32_t shard, size_t elements) {
  for (uint32_t bank = 0; bank < Room::kBanks; ++bank)
    for (size_t i = 0; i < elements; ++i)
      room.find(bank, shard)[i] = static_cast<float>(shard * 1000 + bank * 500 + i % 400);
}
void expect_filled(Room& room, uint32_t shard, size_t elements) {
  for (uint32_t bank = 0; bank < Room::kBanks; ++bank)
    for (size_t i = 0; i < elements; ++i)
      ASSERT_EQ(room.find(bank, shard)[i], static_cast<float>(shard * 1000 + bank * 500 + i % 400))
          << "shard " << shard << ", bank " << bank << ", element " << i;
}

TEST(ShardRoom, AdoptedShardsFitIntoWhatWasReservedAndTheOthersStayWhereTheyAre) {
  Room room;
  room.reserve(64 * 8);
  room.open({{1, 64 * 2}, {3, 64}});
  fill(room, 1, 64 * 2);
  fill(room, 3, 64);
  const float* const before[] = {room.find(0, 1), room.find(1, 1), room.find(0, 3)};
  room.open({{0, 64 * 2}, {1, 64 * 2}, {2, 64 * 3}, {3, 64}});
  for (uint32_t shard = 0; shard < 4; ++shard) EXPECT_EQ(piece_of(room, shard), 64 * 8) << shard;
  EXPECT_EQ(room.find(0, 1), before[0]);
  EXPECT_EQ(room.find(1, 1), before[1]);
  EXPECT_EQ(room.find(0, 3), before[2]);
  fill(room, 0, 64 * 2);
  fill(room, 2, 64 * 3);
  expect_filled(room, 1, 64 * 2);
  expect_filled(room, 3, 64);
}

TEST(ShardRoom, MoreThanWasReservedTakesOnePieceMoreAndGivesItBack) {
  Room room;
  room.reserve(64 * 4);
  room.open({{0, 64 * 4}});
  fill(room, 0, 64 * 4);
  room.open({{0, 64 * 4}, {1, 64}, {2, 64 * 5}, {3, 64 * 2}});
  EXPECT_EQ(piece_of(room, 0), 64 * 4);
  for (uint32_t shard = 1; shard < 4; ++shard) EXPECT_EQ(piece_of(room, shard), 64 * 8) << shard;
  expect_filled(room, 0, 64 * 4);
  room.open({{0, 64 * 4}});
  EXPECT_EQ(room.find(0, 1), nullptr);
  expect_filled(room, 0, 64 * 4);
  room.open({{0, 64 * 4}, {1, 64}});
  EXPECT_EQ(piece_of(room, 1), 64) << "in what was not given back";
}

TEST(ShardRoom, AShardWithoutElementsHasRoomToo) {
  Room room;
  room.open({{0, 0}, {1, 64}});
  EXPECT_NE(room.find(0, 0), nullptr);
  EXPECT_EQ(room.find(0, 2), nullptr);
  room.open({});
  EXPECT_EQ(room.find(0, 0), nullptr);
}

// Random owners, view after view: what stays keeps its contents in both banks.
TEST(ShardRoom, NothingThatStaysIsEverTouched) {
  const char* given = std::getenv("HOLDFAST_TEST_SEED");
  const uint32_t seed = given != nullptr ? static_cast<uint32_t>(std::atoi(given)) : 11;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::vector<size_t> elements;
  for (int shard = 0; shard < 24; ++shard) elements.push_back(64 * (random() % 6));
  Room room;
  room.reserve(64 * 20);
  Wanted held;
  for (int view = 0; view < 300; ++view) {
    Wanted wanted;
    for (uint32_t shard = 0; shard < elements.size(); ++shard)
      if (random() % 3 == 0) wanted[shard] = elements[shard];
    room.open(wanted);
    for (const auto& [shard, n] : wanted) {
      if (held.contains(shard)) expect_filled(room, shard, n);
    }
    for (const auto& [shard, n] : wanted) fill(room, shard, n);
    held = wanted;
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace holdfast::train
