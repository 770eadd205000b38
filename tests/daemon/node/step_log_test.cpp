// The step log: one row a step, whatever lanes report; what was dropped adds up.
#include "daemon/node/step_log.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

const JobId kJob("tiny");

train::StepDone report(uint64_t step, uint32_t lane, uint64_t dropped, uint32_t epoch = 1) {
  train::StepDone done;
  done.epoch = {1, epoch};
  done.step = Step(step);
  done.lane = lane;
  done.loss = 2.5;
  done.tokens = 64;
  done.tokens_dropped = dropped;
  return done;
}

TEST(StepLog, CountsWhatAStepDroppedOnceWhateverLanesReport) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog);
  for (uint64_t step = 0; step < 3; ++step)
    for (uint32_t lane = 0; lane < 2; ++lane)
      ASSERT_TRUE(log.record(kJob, report(step, lane, 10 * (step + 1))));
  EXPECT_EQ(log.tokens_dropped(), 10u + 20u + 30u);
  auto rows = log.rows(kJob, Step(0), 10);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 3u);
  EXPECT_EQ((*rows)[1].tokens_dropped, 20u);
  EXPECT_EQ((*rows)[1].lanes, 2u);

  // Step 2 is computed again: its row is replaced, the counter counts work.
  ASSERT_TRUE(log.void_above(kJob, Version(2)));
  ASSERT_TRUE(log.record(kJob, report(2, 0, 31, 2)));
  rows = log.rows(kJob, Step(2), 10);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].tokens_dropped, 31u);
  EXPECT_EQ(log.tokens_dropped(), 91u);
}

}  // namespace
}  // namespace holdfast::daemon
