// Rows of finished steps, as they are kept and read: one row a step, whatever lanes report.
#include "daemon/node/step_log.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

const JobId kJob("a");

train::StepDone step(uint64_t number, uint32_t lane, double stall_seconds) {
  train::StepDone done;
  done.epoch = Epoch{1, 1};
  done.step = Step(number);
  done.lane = lane;
  done.loss = 2.5;
  done.seconds = 0.5;
  done.tokens = 100;
  done.stall_seconds = stall_seconds;
  return done;
}

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

TEST(StepLog, ARowTellsTheLongestStallOfAnyLane) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog);
  for (const auto& [lane, stall] : {std::pair{0U, 0.1}, {1U, 0.3}, {2U, 0.2}, {1U, 9.0}})
    ASSERT_TRUE(log.record(kJob, step(4, lane, stall)));
  const auto rows = log.rows(kJob, Step(0), 10);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].lanes, 3u);
  EXPECT_EQ((*rows)[0].stall_seconds, 0.3) << "what was told again does not count";
}

// Stages tell a step by themselves, here the first a step ahead of the last; a row is of both.
TEST(StepLog, ARowIsWrittenWhenEveryStageHasToldTheStep) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog);
  const auto tell = [&](uint64_t number, uint32_t stage, uint32_t lane) {
    train::StepDone done = step(number, lane, 0.1 * lane);
    done.of_stage = {stage, 2};
    done.loss = stage == 1 ? 2.5 : 0;
    done.gradient_norm = stage == 0 ? 3 : 4;
    const auto first = log.record(kJob, done);
    EXPECT_TRUE(first) << first.error().to_string();
    return *first;
  };
  for (const uint64_t number : {0, 1})
    for (const uint32_t lane : {0, 1}) EXPECT_FALSE(tell(number, 0, lane));
  EXPECT_TRUE(log.rows(kJob, Step(0), 10)->empty());
  EXPECT_TRUE(tell(0, 1, 2));
  EXPECT_FALSE(tell(0, 1, 3));
  EXPECT_FALSE(tell(0, 0, 0)) << "told again";
  auto rows = *log.rows(kJob, Step(0), 10);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].loss, 2.5);
  EXPECT_EQ(rows[0].gradient_norm, 5);
  EXPECT_EQ(rows[0].lanes, 4u);
  EXPECT_DOUBLE_EQ(rows[0].stall_seconds, 0.3);
  EXPECT_TRUE(tell(1, 1, 3));
  EXPECT_FALSE(tell(0, 1, 2)) << "late";
  rows = *log.rows(kJob, Step(0), 10);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].lanes, 3u);
}

// Of the last step the last stage alone tells again, in a later view, when it evaluates it only then.
TEST(StepLog, AHeldOutLossThatComesLaterIsAddedToItsRow) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog);
  train::StepDone first = step(4, 0, 0), last = step(4, 1, 0);
  first.of_stage = {0, 2};
  last.of_stage = {1, 2};
  ASSERT_TRUE(log.record(kJob, first));
  ASSERT_TRUE(log.record(kJob, last));
  ASSERT_TRUE(log.void_above(kJob, Version(5)));
  last.epoch = {1, 2};
  last.held_out_loss = 2.25;
  const auto again = log.record(kJob, last);
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_FALSE(*again);
  const auto rows = *log.rows(kJob, Step(0), 10);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].held_out_loss, 2.25);
  EXPECT_EQ(rows[0].lanes, 2u);
  EXPECT_EQ(rows[0].made, (Epoch{1, 1}));
}

TEST(StepLog, TheNewestRowsAreKept) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog, 50);
  for (uint32_t epoch = 1; epoch <= 2; ++epoch) {
    for (uint64_t number = 0; number < 400; ++number)
      ASSERT_TRUE(log.record(kJob, report(number, 0, 0, epoch)));
    const auto rows = log.rows(kJob, Step(0), 10'000);
    ASSERT_TRUE(rows) << rows.error().to_string();
    EXPECT_GE(rows->size(), 50u);
    EXPECT_LE(rows->size(), 50 + storage::KeepNewest::kEvery);
    EXPECT_EQ(rows->back().step, Step(399));
    ASSERT_TRUE(log.void_above(kJob, Version(0)));  // and again from the start
  }
}

TEST(StepLog, RowsOfAnEarlierReleaseAreRead) {
  const auto catalog = storage::make_memory_catalog();
  StepLog log(*catalog);
  ASSERT_TRUE(log.record(kJob, step(4, 0, 0.1)));
  auto entries = *catalog->scan("steps/", "", 10);
  ASSERT_EQ(entries.size(), 1u);
  auto [key, text] = entries[0];
  auto row = *parse_json(text, "row");
  row.as_object().erase("stall_seconds");
  const auto write = [&](const boost::json::value& value) {
    ASSERT_TRUE(catalog->write({{key, boost::json::serialize(value)}},
                               storage::Durability::kBuffered));
  };
  write(row);
  const auto rows = log.rows(kJob, Step(0), 10);
  ASSERT_TRUE(rows) << rows.error().to_string();
  EXPECT_EQ((*rows)[0].loss, 2.5);
  EXPECT_EQ((*rows)[0].stall_seconds, 0);
  row.as_object()["surprise"] = 1;
  write(row);
  EXPECT_EQ(log.rows(kJob, Step(0), 10).error().code, ErrorCode::kBadMessage);
}

}  // namespace
}  // namespace holdfast::daemon
