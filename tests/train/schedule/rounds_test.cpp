// Which lane runs which micro-batch: by hand, and as properties of every set of live lanes.
#include "train/schedule/rounds.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "train/schedule/planner.h"

namespace holdfast::train {
namespace {

std::vector<std::vector<int>> numbers(const std::vector<Round>& rounds) {
  std::vector<std::vector<int>> all;
  for (const Round& round : rounds) {
    all.emplace_back();
    for (const auto& one : round.lanes)
      all.back().push_back(one ? static_cast<int>(one->value) : -1);
  }
  return all;
}

TEST(RoundsTest, FaultFreeEveryLaneRunsItsOwn) {
  const std::vector<uint32_t> all = {0, 1, 2};
  EXPECT_EQ(numbers(plan_rounds(3, 2, all)), (std::vector<std::vector<int>>{{0, 1, 2}, {3, 4, 5}}));
}

TEST(RoundsTest, OneLaneRunsEverything) {
  const std::vector<uint32_t> one = {1};
  const auto rounds = plan_rounds(2, 2, one);
  ASSERT_EQ(rounds.size(), 4u);
}

// D up to 6, M up to 4, every set of live lanes.
TEST(RoundsTest, EveryMicroBatchOnceInTheFewestRoundsAndOwnOnesStay) {
  for (uint32_t pipelines = 1; pipelines <= 6; ++pipelines)
    for (uint32_t micro_batches = 1; micro_batches <= 4; ++micro_batches)
      for (uint32_t set = 1; set < 1u << pipelines; ++set) {
        std::vector<uint32_t> live;
        for (uint32_t d = 0; d < pipelines; ++d)
          if ((set >> d & 1) != 0) live.push_back(d);
        const auto rounds = plan_rounds(pipelines, micro_batches, live);
        const uint32_t total = pipelines * micro_batches;
        const auto lanes = static_cast<uint32_t>(live.size());
        EXPECT_EQ(rounds.size(), (total + lanes - 1) / lanes);
        std::map<uint32_t, uint32_t> lane_of;
        for (const Round& round : rounds) {
          ASSERT_EQ(round.lanes.size(), lanes);
          for (uint32_t lane = 0; lane < lanes; ++lane)
            if (round.lanes[lane]) {
              EXPECT_TRUE(lane_of.emplace(round.lanes[lane]->value, lane).second) << "run twice";
            }
        }
        ASSERT_EQ(lane_of.size(), total);
        for (const auto& [micro_batch, lane] : lane_of) {
          const uint32_t home = micro_batch % pipelines;
          if (std::find(live.begin(), live.end(), home) != live.end()) {
            EXPECT_EQ(live[lane], home) << "a live pipeline keeps its own";
          }
        }
        EXPECT_EQ(plan_rounds(pipelines, micro_batches, live), rounds) << "a pure function";
      }
}

// What plan_rounds promises, a plan for S = 1 keeps too.
TEST(RoundsTest, APlanForOneStageCanTakeTheirPlace) {
  for (uint32_t pipelines = 1; pipelines <= 4; ++pipelines)
    for (uint32_t micro_batches = 1; micro_batches <= 4; ++micro_batches)
      for (uint32_t set = 1; set < 1u << pipelines; ++set) {
        Problem problem = uniform_problem(pipelines, 1, micro_batches);
        for (uint32_t d = 0; d < pipelines; ++d)
          if ((set >> d & 1) == 0) {
            ASSERT_TRUE(remove_lane(problem, d, 0));
          }
        const std::vector<uint32_t> live = problem.stages[0].lanes;
        const auto planned = plan_step(problem, Policy::kStaggered);
        ASSERT_TRUE(planned);
        const auto rounds = forward_rounds(planned->plan.stages[0]);
        const auto today = plan_rounds(pipelines, micro_batches, live);
        EXPECT_EQ(rounds.size(), today.size());
        if (live.size() == pipelines) {
          EXPECT_EQ(rounds, today);
        }
        std::map<uint32_t, int> times;
        for (const Round& round : rounds)
          for (const auto& one : round.lanes)
            if (one) ++times[one->value];
        EXPECT_EQ(times.size(), pipelines * micro_batches);
        for (const auto& [micro_batch, count] : times) EXPECT_EQ(count, 1) << micro_batch;
      }
}

}  // namespace
}  // namespace holdfast::train
