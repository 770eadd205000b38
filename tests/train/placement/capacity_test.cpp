// Capacity of experts: tables worked out by hand, and what must hold for any popularity.
#include "train/placement/capacity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "train/placement/placement.h"

namespace holdfast::train {
namespace {

using Counts = std::vector<uint32_t>;

struct ByHand {
  const char* why;
  CapacityRule rule;  // factor, slots, tokens, top_k
  std::vector<uint64_t> popularity;
  Counts most;
};

TEST(CapacityTest, FollowsTheBudgetOfSlots) {
  const ByHand table[] = {
      {"even share", {1.0, 8, 64, 2}, {1, 1, 1, 1, 1, 1, 1, 1}, Counts(8, 16)},
      {"a quarter more", {1.25, 8, 64, 2}, {1, 1, 1, 1, 1, 1, 1, 1}, Counts(8, 20)},
      {"rounds up", {1.0, 3, 10, 1}, {1, 1, 1}, {4, 4, 4}},
      {"1.1 * 100 is 110, whatever binary says", {1.1, 2, 200, 1}, {1, 1}, {110, 110}},
      {"one slot to spare goes to the lower id", {1.0, 4, 12, 1}, {1, 1, 1}, {6, 3, 3}},
      {"a popular expert has slots and room", {1.0, 8, 80, 1}, {4, 2, 1, 1}, {40, 20, 10, 10}},
      {"one slot at the least", {1.0, 8, 80, 1}, {10, 0, 0, 0}, {50, 10, 10, 10}},
      {"never more than the tokens", {1e6, 8, 80, 2}, {1, 1, 1, 1}, Counts(4, 80)},
      {"one choice at the least", {1e-6, 8, 80, 2}, {1, 1, 1, 1}, Counts(4, 1)},
      {"no tokens", {1.0, 8, 0, 2}, {1, 1}, {0, 0}},
  };
  for (const ByHand& row : table)
    EXPECT_EQ(capacity_of_experts(row.rule, row.popularity), row.most) << row.why;
}

TEST(CapacityTest, HasRoomForAllChoicesFromFactorOneOn) {
  std::mt19937_64 random(5);
  int unbounded = 0;
  for (int round = 0; round < 1000; ++round) {
    const size_t experts = 1 + random() % 12;
    const auto slots = static_cast<uint32_t>(experts + random() % 9);
    const auto top_k = static_cast<uint32_t>(1 + random() % experts);
    std::vector<uint64_t> popularity(experts);
    for (uint64_t& count : popularity) count = random() % 3 == 0 ? 0 : random() % 1000;
    const CapacityRule rule{1.0 + static_cast<double>(random() % 100) / 50, slots,
                            1 + random() % 50, top_k};
    const Counts most = capacity_of_experts(rule, popularity);
    const Counts budget = slots_by_popularity(popularity, slots);
    uint64_t room = 0;
    for (size_t e = 0; e < experts; ++e) {
      ASSERT_LE(most[e], rule.tokens);
      room += most[e];
      for (size_t f = 0; f < experts; ++f) ASSERT_TRUE(budget[e] < budget[f] || most[e] >= most[f]);
    }
    // Only the bound by the tokens takes room away.
    if (std::find(most.begin(), most.end(), rule.tokens) == most.end()) {
      ASSERT_GE(room, rule.tokens * top_k);
      ++unbounded;
    }
  }
  EXPECT_GT(unbounded, 100);
}

TEST(CapacityTest, CountsWhatIsBeyondIt) {
  const Capacity capacity{10, {{4, 4, 4}, {2, 5, 9}}};
  EXPECT_EQ(dropped_choices(capacity, std::vector<uint64_t>{4, 0, 6, 3, 5, 20}),
            (std::vector<uint64_t>{0, 0, 2, 1, 0, 11}));
  const Capacity even = static_capacity(2, 3, {1.5, 3, 10, 2});
  EXPECT_EQ(even, (Capacity{10, {{10, 10, 10}, {10, 10, 10}}}));
  EXPECT_EQ(static_capacity(1, 3, {0.5, 3, 10, 2}).of(LayerIndex(0))[2], 4U);
}

}  // namespace
}  // namespace holdfast::train
