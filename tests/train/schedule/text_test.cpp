// The text form of plans: what is printed is read back as the same plan, and what cannot be read is
// named.
#include "train/schedule/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/schedule/planner.h"

namespace holdfast::train {
namespace {

using ::testing::HasSubstr;

constexpr const char* kSmall =
    "plan pipelines 3 micro-batches 1\n"
    "stage 0 lanes 0 2: F0 F1 | F2 - | I0 I1 | I2 W1 | W0 - e0 | W2 - e1\n"
    "stage 1 lanes 1: F0 | B0 | F1 | B1 | F2 | I2 | W2 e2\n";

TEST(PlanText, ReadsRoundsCellsAndExperts) {
  const auto plan = parse_plan(kSmall);
  ASSERT_TRUE(plan) << plan.error().to_string();
  EXPECT_EQ(plan->pipelines, 3u);
  EXPECT_EQ(plan->micro_batches, 1u);
  ASSERT_EQ(plan->stages.size(), 2u);
  EXPECT_EQ(plan->stages[0].lanes, (std::vector<uint32_t>{0, 2}));
  ASSERT_EQ(plan->stages[0].rounds.size(), 6u);
  const StageRound& mixed = plan->stages[0].rounds[3];
  EXPECT_EQ(mixed.work, Work::kInputGradient) << "a W beside an I does not make it a W round";
  EXPECT_EQ(mixed.lanes[0], (Cell{Work::kInputGradient, MicroBatchIndex(2)}));
  EXPECT_EQ(mixed.lanes[1], (Cell{Work::kWeightGradient, MicroBatchIndex(1)}));
  EXPECT_EQ(plan->stages[0].rounds[4].experts, (std::vector<uint32_t>{0}));
  EXPECT_EQ(plan->stages[1].rounds[1].work, Work::kBackward);
  EXPECT_EQ(to_text(*plan), kSmall);
}

TEST(PlanText, EveryPlanSurvivesTheRoundTrip) {
  StageCosts costs;
  costs.forward = costs.input = costs.weight = {0.5, 0.5};
  for (const Policy policy : {Policy::kReroute, Policy::kSplit, Policy::kStaggered}) {
    Problem problem = uniform_problem(3, 4, 5, costs);
    ASSERT_TRUE(remove_lane(problem, 1, 2));
    const auto planned = plan_step(problem, policy, 100);
    ASSERT_TRUE(planned);
    const std::string text = to_text(planned->plan);
    const auto again = parse_plan(text);
    ASSERT_TRUE(again) << again.error().to_string();
    EXPECT_EQ(*again, planned->plan);
    EXPECT_EQ(to_text(*again), text);
  }
}

TEST(PlanText, WhatCannotBeReadIsNamedWithItsLine) {
  const auto says = [](const std::string& text, const std::string& what) {
    const auto plan = parse_plan(text);
    ASSERT_FALSE(plan) << text;
    EXPECT_EQ(plan.error().code, ErrorCode::kPlanText);
    EXPECT_THAT(plan.error().message, HasSubstr(what));
  };
  const std::string head = "plan pipelines 1 micro-batches 1\n";
  says("", "line 1");
  says("plan pipelines x micro-batches 1\n", "line 1: \"x\"");
  says(head + "stage 1 lanes 0: F0\n", "line 2: \"1\" where \"0\" should stand");
  says(head + "stage 0 lanes 0 F0\n", "line 2: \"F0\" where a lane's pipeline");
  says(head + "stage 0 lanes 0: G0\n", "line 2: \"G0\"");
  says(head + "stage 0 lanes 0: F\n", "\"F\"");
  says(head + "stage 0 lanes 0: F1x\n", "\"F1x\"");
  says(head + "stage 0 lanes 0: F-1\n", "\"F-1\"");
}

}  // namespace
}  // namespace holdfast::train
