// What arena_need promises is tried on the arena itself: an arena of just that size holds the
// blocks.
#include "storage/replica/capacity.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "storage/arena/arena.h"

namespace holdfast::storage {
namespace {

ArenaDemand even(uint32_t shards, uint64_t bytes, uint32_t lanes) {
  return {.shard_bytes = std::vector<uint64_t>(shards, bytes),
          .lanes = lanes,
          .workers_on_node = 1,
          .spare_failures = 0,
          .workers_held = 1};
}

TEST(Capacity, CountsThreeVersionsOfOwnAndHeldShardsInWholePages) {
  const ArenaNeed need = arena_need(even(8, 4097, 4));  // two pages each
  const uint64_t share = (8 / 4 + 1) * 8192;            // an even part and one shard more
  EXPECT_EQ(need.own_bytes, 3 * share);
  EXPECT_EQ(need.replica_bytes, 3 * share);
  EXPECT_EQ(need.overhead_bytes % 4096, 0u);
  EXPECT_GE(need.overhead_bytes, 4096u + 64 * 256);
}

TEST(Capacity, ASpareFailureMakesRoomForAdoptedShards) {
  ArenaDemand demand = even(12, 4096, 4);
  const ArenaNeed calm = arena_need(demand);
  demand.spare_failures = 1;
  const ArenaNeed spare = arena_need(demand);
  EXPECT_EQ(calm.own_bytes, 3u * (3 + 1) * 4096);
  EXPECT_EQ(spare.own_bytes, 3u * (4 + 1) * 4096);
}

TEST(Capacity, ALoneWorkerOwnsEverythingAndHoldsNothing) {
  ArenaDemand demand = even(5, 4096, 2);
  demand.spare_failures = 1;
  const ArenaNeed need = arena_need(demand);
  EXPECT_EQ(need.own_bytes, 3u * 5 * 4096);
  EXPECT_EQ(need.replica_bytes, 0u);
}

TEST(Capacity, TheTextNamesTheWorkersThatWereCounted) {
  ArenaDemand demand = even(8, 4096, 4);
  demand.workers_held = 9;  // there are three others
  const ArenaNeed need = arena_need(demand);
  EXPECT_EQ(need.workers_held, 3u);
  EXPECT_NE(need.text(demand).find("for the replicas of 3 others"), std::string::npos)
      << need.text(demand);
}

TEST(Capacity, ErrorSaysHowManyBytesAndForWhat) {
  const ArenaDemand demand = even(8, 1 << 20, 4);
  const ArenaNeed need = arena_need(demand);
  EXPECT_TRUE(check_arena(NodeId("node-2"), need.total_bytes(), demand));
  const Status small = check_arena(NodeId("node-2"), need.total_bytes() - 1, demand);
  ASSERT_FALSE(small);
  EXPECT_EQ(small.error().code, ErrorCode::kArenaTooSmall);
  EXPECT_EQ(
      small.error().message,
      "the arena of node-2 has 19030015 bytes, the job needs 19030016 there (18.1 MiB: 9.0 MiB "
      "for 3 versions of the shards of 1 workers, 9.0 MiB for the replicas of 1 others, 0.1 MiB "
      "for the block table; with room for 0 of 4 lanes lost)");
}

// Shards are dealt to the worker that owns least, largest first; the fullest node then allocates
// all its blocks, in the order in which captures come, in an arena of the size that was asked for.
void try_on_arena(uint32_t seed, const std::filesystem::path& folder) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  ArenaDemand demand;
  demand.lanes = 2 + random() % 4;
  demand.spare_failures = random() % demand.lanes;
  const uint32_t shards = 1 + random() % 120;
  const uint64_t most = random() % 2 == 0 ? 3000 : 60'000;
  for (uint32_t i = 0; i < shards; ++i) demand.shard_bytes.push_back(random() % most);

  const uint32_t left =
      demand.lanes > demand.spare_failures ? demand.lanes - demand.spare_failures : 1;
  std::vector<uint64_t> sorted = demand.shard_bytes;
  std::sort(sorted.rbegin(), sorted.rend());
  std::vector<std::vector<uint64_t>> owned(left);
  std::vector<uint64_t> pages(left);
  for (const uint64_t bytes : sorted) {
    const auto least = std::min_element(pages.begin(), pages.end()) - pages.begin();
    owned[least].push_back(bytes);
    pages[least] += std::max<uint64_t>(1, (bytes + 4095) / 4096);
  }
  const uint64_t total = arena_need(demand).total_bytes();
  const auto path = folder / std::to_string(seed);
  auto arena = Arena::open({path, total, "test", NodeId("n")});
  ASSERT_TRUE(arena) << arena.error().to_string();
  for (uint32_t version = 0; version < kSlotsPerShard; ++version) {
    for (uint32_t worker = 0; worker < std::min(2u, left); ++worker) {
      for (const uint64_t bytes : owned[worker]) {
        const auto block = (*arena)->allocate(bytes, NodeId("n"), Epoch{1, 1});
        ASSERT_TRUE(block) << block.error().to_string();
      }
    }
  }
  arena->reset();
  std::filesystem::remove(path);
}

TEST(Capacity, AnArenaOfThatSizeHoldsTheBlocks) {
  std::string name = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
  name += "/holdfast-capacity-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  for (uint32_t seed = 1; seed <= 100 && !HasFatalFailure(); ++seed) try_on_arena(seed, name);
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace holdfast::storage
