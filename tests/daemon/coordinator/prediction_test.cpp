// What recoveries took, what arenas are known to hold, and what is foretold from both.
#include "daemon/coordinator/prediction.h"

#include <gmock/gmock.h>

#include "daemon/coordinator/known_arenas.h"
#include "daemon/coordinator/members.h"

namespace holdfast::daemon {
namespace {

using ::testing::HasSubstr;

NodeId node(uint32_t n) { return NodeId("node-" + std::to_string(n)); }

TEST(Measured, AStepIsTheMedianWithoutTheFirst) {
  Measured measured;
  EXPECT_FALSE(measured.step_seconds());
  measured.step_took(9);
  EXPECT_DOUBLE_EQ(*measured.step_seconds(), 9) << "better than nothing";
  for (const double seconds : {1.0, 3.0, 2.0}) measured.step_took(seconds);
  EXPECT_DOUBLE_EQ(*measured.step_seconds(), 2);
  for (int i = 0; i < 20; ++i) measured.step_took(5);
  EXPECT_DOUBLE_EQ(*measured.step_seconds(), 5) << "the last ones count";
  measured.view_begins();
  EXPECT_FALSE(measured.step_seconds()) << "other lanes, other times";
}

TEST(Measured, WhatWasWaitedForOtherwiseDoesNotCount) {
  Measured measured;
  EXPECT_FALSE(measured.quiesce());
  measured.recovery_took({.noticed = std::nullopt, .quiesce = 4, .restore = std::nullopt,
                          .connect = 1, .first_step_beside = std::nullopt});
  measured.recovery_took({.noticed = 0.1, .quiesce = std::nullopt, .restore = 2, .connect = 3,
                          .first_step_beside = std::nullopt});
  EXPECT_DOUBLE_EQ(measured.quiesce()->seconds, 4);
  EXPECT_EQ(measured.quiesce()->of, 1U);
  EXPECT_DOUBLE_EQ(measured.connect()->seconds, 1);
  EXPECT_EQ(measured.connect()->of, 2U);
  EXPECT_FALSE(measured.first_step_beside());
}

TEST(Measured, ARestoreIsItsBytesAndSomethingBeside) {
  Measured measured;
  RecoveryTook took;
  took.restore = 3;
  took.fetched_bytes = 2'000'000'000;
  took.loaded_bytes = 5'000'000'000;
  measured.recovery_took(took);
  EXPECT_DOUBLE_EQ(measured.restore_beside(2e9, 5e9)->seconds, 1);
  EXPECT_DOUBLE_EQ(measured.restore_beside(1e6, 1e6)->seconds, 0) << "never less than nothing";
  EXPECT_NEAR(*measured.fetch_bytes_per_second(), 2e9 / 3, 1);
  Measured small;
  took.fetched_bytes = 1'000;
  small.recovery_took(took);
  EXPECT_FALSE(small.fetch_bytes_per_second()) << "a kilobyte tells nothing of a network";
}

TEST(KnownArenas, KeepWhatAWatermarkKeeps) {
  const Epoch epoch{7, 1};
  const auto state = [&](uint64_t v) { return StateVersion{Version(v), epoch}; };
  KnownArenas arenas;
  arenas.add(node(0), state(9), {3});
  arenas.told(node(0), {{state(1), {0, 1}}, {state(2), {0, 1}}});
  arenas.add(node(0), state(3), {0});
  arenas.add(node(0), state(3), {1});
  arenas.add(node(0), state(4), {0});
  arenas.watermark({0, state(2), {Version(4)}, {{epoch, StateVersion{}}}});
  const std::vector<HeldShards> kept{{state(2), {0, 1}}, {state(3), {0, 1}}};
  EXPECT_EQ(arenas.held(node(0)), kept);
  EXPECT_TRUE(arenas.held(node(1)).empty());
  arenas.forget(node(0));
  EXPECT_TRUE(arenas.held(node(0)).empty());
}

// Two pipelines of one stage, four shards of 100 bytes; node-1 dies.
class Predict : public testing::Test {
 protected:
  Predict() {
    job_.name = JobId("a");
    job_.pipelines = 2;
    job_.micro_batches = 4;
    job_.micro_batch_sequences = 2;
    job_.model.context = 8;
    shards_ = {std::vector<uint64_t>(4, 100), std::vector<StageIndex>(4)};
    for (uint32_t n = 0; n < 2; ++n)
      before_.members.push_back({{node(n), 0}, {PipelineIndex(n), StageIndex(0)}, {}});
    before_.owner_lane = {0, 1, 0, 1};
    after_ = before_;
    after_.members.pop_back();
    after_.owner_lane = {0, 0, 0, 0};
    after_.base = {Version(5), Epoch{7, 1}};
    owned_ = {{{0, ShardSource::kBuffer, {}},
               {1, ShardSource::kReplica, node(2)},
               {2, ShardSource::kBuffer, {}},
               {3, ShardSource::kArena, {}}}};
  }
  Prediction predicted() const {
    return predict({job_, shards_, before_, after_, owned_, 3}, measured_, assumed_);
  }

  conf::JobConfig job_;
  JobShards shards_;
  View before_, after_;
  std::vector<std::vector<SourcedShard>> owned_;
  Measured measured_;
  Assumed assumed_;
};

TEST_F(Predict, NamesTheRouteAndWhatMoves) {
  const Prediction p = predicted();
  EXPECT_EQ(p.base, after_.base);
  EXPECT_EQ(p.steps_twice, 3U);
  EXPECT_EQ(p.pipelines, 1U);
  ASSERT_EQ(p.lanes.size(), 1U);
  EXPECT_EQ(p.lanes[0].worker.node, node(0));
  EXPECT_EQ(p.lanes[0].micro_batches_before, 4U);
  EXPECT_EQ(p.lanes[0].micro_batches_after, 8U);
  EXPECT_EQ(p.orphan_shards, 2U);
  EXPECT_EQ(p.orphan_bytes, 200U);
  EXPECT_EQ(p.bytes_moved, 100U);
  ASSERT_EQ(p.transfers.size(), 2U);
  EXPECT_EQ(p.transfers[0].source, "arena");
  EXPECT_EQ(p.transfers[0].from, node(0));
  EXPECT_EQ(p.transfers[1].source, "replica");
  EXPECT_EQ(p.transfers[1].from, node(2));
  EXPECT_EQ(p.transfers[1].to, node(0));
  EXPECT_EQ(p.transfers[1].bytes, 100U);
}

TEST_F(Predict, WithoutMeasurementsSaysWhatItAssumed) {
  const Prediction p = predicted();
  EXPECT_FALSE(p.pace.step_seconds_after);
  EXPECT_FALSE(p.recovery.first_step.seconds);
  EXPECT_DOUBLE_EQ(p.pace.throughput_ratio, 0.5) << "known from the plans alone";
  for (const Duration* part : {&p.recovery.noticed, &p.recovery.quiesce, &p.recovery.connect}) {
    EXPECT_FALSE(part->measured);
    EXPECT_THAT(part->from, HasSubstr("assumed"));
  }
  EXPECT_NEAR(p.recovery.total, 0.3 + 0.5 + 0.5 + 1.0, 1e-6);
}

TEST_F(Predict, BuildsOnWhatWasMeasured) {
  for (int i = 0; i < 3; ++i) measured_.step_took(2);
  measured_.recovery_took({.noticed = 0.1, .quiesce = 0.2, .restore = 0.4, .connect = 0.8,
                           .first_step_beside = 0.5});
  assumed_.fetch_bytes_per_second = 100;
  assumed_.load_bytes_per_second = 400;
  const Prediction p = predicted();
  EXPECT_DOUBLE_EQ(*p.pace.step_seconds_before, 2);
  EXPECT_DOUBLE_EQ(*p.pace.step_seconds_after, 4);
  EXPECT_DOUBLE_EQ(*p.pace.tokens_per_second_before, 2 * 4 * 2 * 8 / 2.0);
  EXPECT_DOUBLE_EQ(*p.pace.tokens_per_second_after, 2 * 4 * 2 * 8 / 4.0);
  EXPECT_TRUE(p.recovery.quiesce.measured);
  EXPECT_NEAR(*p.recovery.restore.seconds, 0.4 + 1.0 + 0.5, 1e-9) << "100 fetched, 200 loaded";
  EXPECT_NEAR(*p.recovery.first_step.seconds, 4.5, 1e-9);
  EXPECT_NEAR(p.recovery.total, 0.1 + 0.2 + 1.9 + 0.8 + 4.5, 1e-9);
}

TEST_F(Predict, AWorkerThatMovesLeavesOrphansOfItsOldStage) {
  job_.stages = 2;
  job_.model.layers = 2;
  shards_.stage = {StageIndex(0), StageIndex(0), StageIndex(1), StageIndex(1)};
  before_.members.clear();
  for (uint32_t n = 0; n < 4; ++n)
    before_.members.push_back({{node(n), 0}, {PipelineIndex(n % 2), StageIndex(n / 2)}, {}});
  before_.owner_lane = {0, 1, 2, 3};
  after_ = before_;
  after_.members.erase(after_.members.begin() + 2, after_.members.end());  // stage 1 is gone
  after_.members[1].coordinate = {PipelineIndex(0), StageIndex(1)};
  after_.owner_lane = {0, 0, 1, 1};
  owned_ = {{{0, ShardSource::kBuffer, {}}, {1, ShardSource::kReplica, node(1)}},
            {{2, ShardSource::kArena, {}}, {3, ShardSource::kInitial, {}}}};
  const Prediction p = predicted();
  ASSERT_EQ(p.moves.size(), 1U);
  EXPECT_EQ(p.moves[0].worker.node, node(1));
  EXPECT_EQ(to_string(p.moves[0].from) + to_string(p.moves[0].to), "(1,0)(0,1)");
  EXPECT_EQ(p.orphan_shards, 3U);
  EXPECT_EQ(p.pipelines, 1U);
  EXPECT_EQ(p.bytes_moved, 100U);
  EXPECT_EQ(p.lanes.size(), 2U);
}

}  // namespace
}  // namespace holdfast::daemon
