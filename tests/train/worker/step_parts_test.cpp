// Reports of stages that do not hear each other, put together.
#include "train/worker/step_parts.h"

#include <gtest/gtest.h>

namespace holdfast::train {
namespace {

StepDone part(uint64_t step, uint32_t stage, uint32_t lane, uint32_t stages = 2) {
  StepDone done;
  done.epoch = {1, 1};
  done.step = Step(step);
  done.lane = lane;
  done.of_stage = {stage, stages};
  done.tokens = 64;
  done.load_balance_loss = 0.5 + stage;
  done.z_loss = 0.25;
  done.gradient_norm = stage == 0 ? 3 : 4;
  done.seconds = stage == 0 ? 0.5 : 0.25;
  done.stall_seconds = stage;
  done.popularity = stage == 0 ? std::vector<uint64_t>{5, 6, 0, 0} : std::vector<uint64_t>{0, 0, 7, 4};
  done.dropped = stage == 0 ? std::vector<uint64_t>{1, 0, 0, 0} : std::vector<uint64_t>{0, 0, 2, 0};
  done.tokens_dropped = 1 + stage;
  if (stage + 1 < stages) return done;
  done.loss = 2.5;
  done.held_out_loss = 2.75;
  return done;
}

TEST(StepParts, AStepIsWholeWithTheLastOfItsStages) {
  StepParts parts;
  EXPECT_FALSE(part(3, 0, 0).tells_loss());
  EXPECT_TRUE(part(3, 1, 2).tells_loss());
  EXPECT_FALSE(parts.add(part(3, 0, 1)));
  EXPECT_FALSE(parts.add(part(3, 0, 0)));
  EXPECT_FALSE(parts.add(part(4, 0, 0))) << "a stage ahead";
  const auto whole = parts.add(part(3, 1, 2));
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->lanes, (std::set<uint32_t>{0, 1, 2}));
  const StepDone& step = whole->step;
  EXPECT_EQ(step.step, Step(3));
  EXPECT_FALSE(step.of_stage);
  EXPECT_EQ(step.loss, 2.5);
  EXPECT_EQ(step.held_out_loss, 2.75);
  EXPECT_EQ(step.load_balance_loss, 2);
  EXPECT_EQ(step.z_loss, 0.5);
  EXPECT_EQ(step.gradient_norm, 5);
  EXPECT_EQ(step.seconds, 0.5);
  EXPECT_EQ(step.stall_seconds, 1);
  EXPECT_EQ(step.tokens, 64U) << "of the whole step, as every stage says";
  EXPECT_EQ(step.tokens_dropped, 3U);
  EXPECT_EQ(step.popularity, (std::vector<uint64_t>{5, 6, 7, 4}));
  EXPECT_EQ(step.dropped, (std::vector<uint64_t>{1, 0, 2, 0}));
  EXPECT_TRUE(parts.add(part(4, 1, 3)));
}

TEST(StepParts, AReportOfAllStagesIsWholeAtOnce) {
  StepParts parts;
  StepDone done = part(3, 1, 2);
  done.of_stage.reset();
  const auto whole = parts.add(done);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->step.gradient_norm, 4);
  EXPECT_TRUE(whole->step.tells_loss());
}

TEST(StepParts, EpochsAreNotMixedAndOldStepsAreGivenUp) {
  StepParts parts;
  StepDone later = part(1, 1, 2);
  later.epoch = {1, 2};
  EXPECT_FALSE(parts.add(part(1, 0, 0)));
  EXPECT_FALSE(parts.add(later));
  for (uint64_t step = 2; step < 2 + StepParts::kMostOpen; ++step)
    EXPECT_FALSE(parts.add(part(step, 0, 0)));
  EXPECT_FALSE(parts.add(part(1, 1, 2))) << "it was the oldest";
  EXPECT_TRUE(parts.add(part(1 + StepParts::kMostOpen, 1, 2)));
}

}  // namespace
}  // namespace holdfast::train
