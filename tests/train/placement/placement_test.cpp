// Placement by popularity: a table worked out by hand, and properties.
#include "train/placement/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace holdfast::train {
namespace {

std::vector<uint32_t> replicas(const LayerPlacement& layer, size_t experts) {
  std::vector<uint32_t> counts(experts);
  for (const auto& lane : layer.slots)
    for (const ExpertIndex expert : lane) ++counts.at(expert.value);
  return counts;
}

struct ByHand {
  std::vector<uint64_t> popularity;
  uint32_t lanes, slots;
  std::vector<uint32_t> replicas;
};

TEST(PlacementTest, ReplicasFollowPopularity) {
  const ByHand table[] = {
      {{4, 2, 1, 1}, 2, 4, {4, 2, 1, 1}},    // divides exactly
      {{1, 1, 1, 1}, 2, 4, {2, 2, 2, 2}},    // equal
      {{1, 1, 1}, 2, 4, {3, 3, 2}},          // ties go to the lower ids
      {{10, 0, 0, 0}, 2, 4, {5, 1, 1, 1}},   // one hot expert, one slot each for the others
      {{0, 0, 0, 7}, 2, 4, {1, 1, 1, 5}},
      {{0, 0, 0}, 1, 3, {1, 1, 1}},          // nothing counted yet; E = D k
      {{9, 1, 1}, 3, 1, {1, 1, 1}},          // no slot to spare
      {{5}, 2, 2, {4}},                      // one expert
  };
  for (const ByHand& row : table)
    EXPECT_EQ(replicas(place_by_popularity(row.popularity, row.lanes, row.slots),
                       row.popularity.size()),
              row.replicas)
        << ::testing::PrintToString(row.popularity);
}

TEST(PlacementTest, EverySlotIsFilledEveryExpertHasOneAndTheyAreContiguous) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 2000; ++round) {
    const auto lanes = static_cast<uint32_t>(1 + random() % 9);
    const auto slots = static_cast<uint32_t>(1 + random() % 6);
    const size_t experts = 1 + random() % (lanes * slots);
    std::vector<uint64_t> popularity(experts);
    for (uint64_t& count : popularity) count = random() % 4 == 0 ? 0 : random() % 10'000;
    const LayerPlacement layer = place_by_popularity(popularity, lanes, slots);
    ASSERT_EQ(layer.lanes(), lanes);
    std::vector<uint32_t> in_order;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      ASSERT_EQ(layer.slots[lane].size(), slots);
      for (const ExpertIndex expert : layer.slots[lane]) in_order.push_back(expert.value);
    }
    EXPECT_TRUE(std::is_sorted(in_order.begin(), in_order.end()));
    const auto counts = replicas(layer, experts);
    for (size_t a = 0; a < experts; ++a) {
      EXPECT_GE(counts[a], 1u);
      for (size_t b = 0; b < experts; ++b) {
        EXPECT_TRUE(popularity[a] <= popularity[b] || counts[a] >= counts[b]) << a << ", " << b;
      }
      const auto lanes_of = replica_lanes(layer, ExpertIndex(static_cast<uint32_t>(a)));
      EXPECT_EQ(lanes_of.size(), counts[a]);
      EXPECT_TRUE(std::is_sorted(lanes_of.begin(), lanes_of.end()));
    }
  }
}

TEST(PlacementTest, FewerLanesGetMoreSlots) {
  EXPECT_EQ(slots_per_lane(2, 8, 4), 2u);
  EXPECT_EQ(slots_per_lane(2, 8, 3), 3u);
  EXPECT_EQ(slots_per_lane(2, 8, 1), 8u);
  EXPECT_EQ(slots_per_lane(4, 8, 4), 4u);
}

TEST(PlacementTest, StaticPlacementTakesPopularityAsEqual) {
  const Placement placement = place_static(3, 4, 2, 3);
  ASSERT_EQ(placement.layers.size(), 3u);
  for (const LayerPlacement& layer : placement.layers)
    EXPECT_EQ(replicas(layer, 4), (std::vector<uint32_t>{2, 2, 1, 1}));
}

}  // namespace
}  // namespace holdfast::train
