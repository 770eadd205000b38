#include "daemon/node/capture_keeper.h"

#include "tests/daemon/node/node_test_help.h"

namespace holdfast::daemon {
namespace {

constexpr Epoch kOne{1, 1};
constexpr Epoch kTwo{1, 2};
StateVersion at(uint64_t version, Epoch made = kOne) { return {Version(version), made}; }

class CaptureKeeperTest : public NodeTest {
 protected:
  CaptureKeeperTest() : keeper_(self_, *arena_, workers_, replicas_, report()) {
    keeper_.set_epoch(kOne);
    keeper_.set_owner(0, {kOne, at(0), {0, 1, 2}, {NodeId("node-1")}});
  }
  // Grants, and the worker writes all of it.
  void capture(uint64_t version) {
    keeper_.capture(job_, kOne, Version(version));
    finish(version);
  }
  void finish(uint64_t version) {
    const auto asked = workers_.last<train::Capture>();
    for (const train::ShardBlock& b : asked.blocks) write(b.block, b.shard, at(version), kOne);
    keeper_.captured(0, job_, {kOne, at(version), asked.blocks, 0.1});
  }

  CaptureKeeper keeper_;
};

TEST_F(CaptureKeeperTest, CapturedShardsAreReplicatedAndReported) {
  capture(5);
  ASSERT_EQ(replicas_.replications.size(), 1u);
  const auto& replication = replicas_.replications[0];
  EXPECT_EQ(replication.state, at(5));
  EXPECT_EQ(replication.blocks.size(), 3u);
  EXPECT_EQ(count<WorkerReplicated>(), 0u);
  replication.done({{NodeId("node-1"), {}}});
  EXPECT_EQ(last<WorkerReplicated>().holders, std::vector{NodeId("node-1")});
  EXPECT_EQ(last<WorkerReplicated>().state, at(5));
}

TEST_F(CaptureKeeperTest, WhatCapturesCostIsCountedOnce) {
  EXPECT_EQ(keeper_.counters().captured_bytes, 0u);
  capture(5);
  const auto asked = workers_.last<train::Capture>();
  keeper_.captured(0, job_, {kOne, at(5), asked.blocks, 0.1});  // said again
  const uint64_t bytes = job_.shard_bytes(0) + job_.shard_bytes(1) + job_.shard_bytes(2);
  EXPECT_EQ(keeper_.counters().captured_bytes, bytes);
  EXPECT_DOUBLE_EQ(keeper_.counters().capture_seconds, 0.1);

  train::StepDone done;
  done.epoch = kOne;
  done.step = Step(7);
  done.stall_seconds = 0.25;
  keeper_.step_done(0, done);
  keeper_.step_done(0, done);  // said again
  keeper_.step_done(1, done);  // another worker of this node
  EXPECT_DOUBLE_EQ(keeper_.counters().stall_seconds, 0.5);
  done.epoch = kTwo;  // computed anew
  keeper_.step_done(0, done);
  EXPECT_DOUBLE_EQ(keeper_.counters().stall_seconds, 0.75);
}

TEST_F(CaptureKeeperTest, AHolderThatFailsMakesTheCaptureMissed) {
  capture(5);
  replicas_.replications[0].done(
      {{NodeId("node-1"), fail(ErrorCode::kFabricLost, "the channel broke")}});
  EXPECT_EQ(count<WorkerReplicated>(), 0u);
  EXPECT_EQ(last<WorkerCaptureMissed>().why, "node-1: the channel broke ");
}

TEST_F(CaptureKeeperTest, NothingIsReportedOfAnOldEpoch) {
  capture(5);
  keeper_.set_epoch(kTwo);
  replicas_.replications[0].done({{NodeId("node-1"), fail(ErrorCode::kEpochOld, "over")}});
  EXPECT_EQ(count<WorkerCaptureMissed>(), 0u);
}

TEST_F(CaptureKeeperTest, AFullArenaSkipsTheCaptureAndKeepsNothingOfIt) {
  while (arena_->allocate(64 << 10, NodeId("other"), kOne)) {
  }
  while (arena_->allocate(1, NodeId("other"), kOne)) {
  }
  const size_t before = granted();
  keeper_.capture(job_, kOne, Version(5));
  EXPECT_EQ(workers_.count<train::Capture>(), 0u);
  EXPECT_EQ(granted(), before);
  EXPECT_NE(last<WorkerCaptureMissed>().why.find("HF-302 arena_full"), std::string::npos);
}

TEST_F(CaptureKeeperTest, TheSameCaptureNamedTwiceIsGrantedOnce) {
  keeper_.capture(job_, kOne, Version(5));
  keeper_.capture(job_, kOne, Version(5));
  EXPECT_EQ(workers_.count<train::Capture>(), 1u);
  EXPECT_EQ(granted(), 3u);
}

TEST_F(CaptureKeeperTest, AnswersNameTheAttempt) {
  keeper_.capture(job_, kOne, Version(5), 7);
  keeper_.capture(job_, kOne, Version(5), 8);  // named again before the worker has answered
  keeper_.missed(0, {kOne, Version(5), "busy"});
  EXPECT_EQ(last<WorkerCaptureMissed>().attempt, 8u);
  keeper_.capture(job_, kOne, Version(5), 9);
  const auto asked = workers_.last<train::Capture>();
  for (const train::ShardBlock& b : asked.blocks) write(b.block, b.shard, at(5), kOne);
  keeper_.captured(0, job_, {kOne, at(5), asked.blocks, 0.1});
  replicas_.replications[0].done({{NodeId("node-1"), {}}});
  EXPECT_EQ(last<WorkerReplicated>().attempt, 9u);
}

TEST_F(CaptureKeeperTest, BaseThatLiesHereAlreadyIsOnlyReplicated) {
  for (const uint32_t shard : {0, 1, 2}) put(shard, at(7));
  keeper_.set_epoch(kTwo);
  keeper_.set_owner(0, {kTwo, at(7), {0, 1, 2}, {NodeId("node-1")}});
  keeper_.capture(job_, kTwo, Version(7));
  EXPECT_EQ(workers_.count<train::Capture>(), 0u);
  ASSERT_EQ(replicas_.replications.size(), 1u);
  EXPECT_EQ(replicas_.replications[0].state, at(7));
  EXPECT_EQ(replicas_.replications[0].blocks.size(), 3u);
}

TEST_F(CaptureKeeperTest, PartOfTheBaseIsCapturedAndAllOfItReplicated) {
  put(1, at(7));
  keeper_.set_epoch(kTwo);
  keeper_.set_owner(0, {kTwo, at(7), {0, 1, 2}, {NodeId("node-1")}});
  keeper_.capture(job_, kTwo, Version(7));
  const auto asked = workers_.last<train::Capture>();
  ASSERT_EQ(asked.blocks.size(), 2u);
  for (const train::ShardBlock& b : asked.blocks) write(b.block, b.shard, at(7), kTwo);
  keeper_.captured(0, job_, {kTwo, at(7), asked.blocks, 0.1});
  ASSERT_EQ(replicas_.replications.size(), 1u);
  EXPECT_EQ(replicas_.replications[0].blocks.size(), 3u);
}

TEST_F(CaptureKeeperTest, WatermarkFreesOnlyWhatRetentionAllows) {
  for (const uint64_t version : {3, 4, 5, 6}) capture(version);
  put(0, at(5, kTwo));
  keeper_.capture(job_, kOne, Version(7));  // granted: a worker writes into it
  const std::vector<storage::ViewBase> history = {{kOne, at(0)}};
  keeper_.watermark(job_, at(4), {Version(6)}, history);
  EXPECT_EQ(held(),
            (std::multiset<StateVersion>{at(4), at(4), at(4), at(5), at(5), at(5), at(5, kTwo)}));
  EXPECT_EQ(granted(), 3u);
  // A view went back to 4 and made 5 anew.
  keeper_.watermark(job_, at(4), {}, {{kOne, at(0)}, {kTwo, at(4)}});
  EXPECT_EQ(held(), (std::multiset<StateVersion>{at(4), at(4), at(4), at(5, kTwo)}));
}

// The worker was slow: what it captured is over before it says so.
TEST_F(CaptureKeeperTest, ACaptureThatIsAbandonedMeanwhileIsFreedNotReplicated) {
  keeper_.capture(job_, kOne, Version(5));
  keeper_.watermark(job_, at(4), {Version(5)}, {{kOne, at(0)}});
  finish(5);
  keeper_.capture(job_, kOne, Version(6));
  keeper_.watermark(job_, at(7), {}, {{kOne, at(0)}});
  finish(6);
  EXPECT_TRUE(replicas_.replications.empty());
  EXPECT_EQ(arena_->usage().blocks, 0u);
  EXPECT_TRUE(reported_.empty());
  keeper_.capture(job_, kOne, Version(8));
  finish(8);
  EXPECT_EQ(replicas_.replications.size(), 1u);
}

TEST_F(CaptureKeeperTest, AnAbandonedVersionThatIsNamedAgainIsReplicated) {
  keeper_.capture(job_, kOne, Version(5), 1);
  keeper_.watermark(job_, at(3), {Version(5)}, {{kOne, at(0)}});
  keeper_.capture(job_, kOne, Version(5), 2);
  finish(5);
  ASSERT_EQ(replicas_.replications.size(), 1u);
  EXPECT_EQ(replicas_.replications[0].state, at(5));
}

TEST_F(CaptureKeeperTest, ForgettingOtherJobsLeavesThisOne) {
  const auto foreign = arena_->allocate(8, NodeId("node-2"), kOne);
  const std::string text = "12345678";
  std::memcpy(arena_->payload(foreign->index)->data(), text.data(), 8);
  ASSERT_TRUE(arena_->publish(foreign->index, kOne, {99, {}, at(9), 8, checksum64(text)}));
  put(0, at(3));
  keeper_.forget_other_jobs(job_.hash);
  EXPECT_EQ(held(), std::multiset<StateVersion>{at(3)});
}

TEST_F(CaptureKeeperTest, APartialCaptureGivesWhatItDidNotWriteBack) {
  keeper_.capture(job_, kOne, Version(5));
  auto blocks = workers_.last<train::Capture>().blocks;
  blocks.pop_back();
  for (const train::ShardBlock& b : blocks) write(b.block, b.shard, at(5), kOne);
  keeper_.captured(0, job_, {kOne, at(5), blocks, 0.1});
  EXPECT_EQ(last<WorkerCaptureMissed>().why, "2 of 3 shards captured");
  EXPECT_EQ(granted(), 0u);
}

TEST_F(CaptureKeeperTest, AMissedCaptureGivesItsBlocksBack) {
  keeper_.capture(job_, kOne, Version(5));
  keeper_.missed(0, {kOne, Version(5), "busy"});
  EXPECT_EQ(granted(), 0u);
  EXPECT_EQ(last<WorkerCaptureMissed>().why, "busy");
}

TEST_F(CaptureKeeperTest, AnInheritedGrantThatIsOverFreesNothingOfTheNextOne) {
  keeper_.capture(job_, kOne, Version(5));
  CaptureKeeper next(self_, *arena_, workers_, replicas_, report());
  const storage::BlockInfo inherited = arena_->scan()[0];
  ASSERT_TRUE(arena_->free(inherited));
  const auto foreign = arena_->allocate(8, NodeId("node-2"), kOne);
  ASSERT_EQ(foreign->index, inherited.index);
  next.release_inherited();
  ASSERT_EQ(granted(), 1u);
  EXPECT_EQ(arena_->scan()[0].writer, NodeId("node-2"));
}

TEST_F(CaptureKeeperTest, InheritedGrantsAreFreedUnlessTheyWerePublishedMeanwhile) {
  keeper_.capture(job_, kOne, Version(5));
  CaptureKeeper next(self_, *arena_, workers_, replicas_, report());  // the daemon started again
  const auto asked = workers_.last<train::Capture>();
  write(asked.blocks[0].block, asked.blocks[0].shard, at(5), kOne);
  next.release_inherited();
  EXPECT_EQ(granted(), 0u);
  EXPECT_EQ(held(), std::multiset<StateVersion>{at(5)});
}

// With fewer slices than pipelines some lanes own nothing; the others' captures wait for their word.
TEST_F(CaptureKeeperTest, AWorkerWithoutShardsSaysThatTheVersionIsMade) {
  keeper_.set_owner(0, {kOne, at(0), {}, {NodeId("node-1")}});
  keeper_.capture(job_, kOne, Version(5), 3);
  EXPECT_EQ(count<WorkerReplicated>(), 0u) << "it may not have been made";
  EXPECT_TRUE(workers_.last<train::Capture>().blocks.empty());
  finish(5);
  EXPECT_EQ(last<WorkerReplicated>().state, at(5));
  EXPECT_EQ(last<WorkerReplicated>().attempt, 3u);
  EXPECT_EQ(last<WorkerReplicated>().holders, std::vector{NodeId("node-1")});
  keeper_.capture(job_, kOne, Version(0));
  EXPECT_EQ(last<WorkerReplicated>().state, at(0)) << "the base";
  EXPECT_TRUE(replicas_.replications.empty());
}

TEST_F(CaptureKeeperTest, AStateThatIsReadOutlivesTheWatermarkForAWhile) {
  ManualClock clock;
  ArenaHolds holds(clock);
  CaptureKeeper keeper(self_, *arena_, workers_, replicas_, report(), &holds);
  keeper.set_epoch(kOne);
  for (const uint64_t version : {4, 5, 6, 7}) put(0, at(version));
  ASSERT_TRUE(holds.hold(job_.hash, at(5)));
  keeper.watermark(job_, at(7), {}, {{kOne, at(0)}});
  EXPECT_EQ(held(), (std::multiset{at(5), at(7)}));
  EXPECT_FALSE(holds.hold(job_.hash, at(7))) << "one at a time";
  clock.advance_ms(ArenaHolds::kHoldMs - 1);
  EXPECT_TRUE(holds.hold(job_.hash, at(5))) << "asked for again";
  clock.advance_ms(ArenaHolds::kHoldMs - 1);
  keeper.watermark(job_, at(7), {}, {{kOne, at(0)}});
  EXPECT_EQ(held(), (std::multiset{at(5), at(7)}));
  clock.advance_ms(1);
  keeper.watermark(job_, at(7), {}, {{kOne, at(0)}});
  EXPECT_EQ(held(), (std::multiset{at(7)}));
  EXPECT_TRUE(holds.hold(job_.hash, at(7))) << "the one before is over";
}

TEST_F(CaptureKeeperTest, AStateIsFreeWhenItsReaderIsDoneAndWhenTheViewChanges) {
  ManualClock clock;
  ArenaHolds holds(clock);
  ASSERT_TRUE(holds.hold(job_.hash, at(5)));
  holds.release(job_.hash, at(6));  // somebody else's
  EXPECT_TRUE(holds.covers({job_.hash, {}, at(5), 0, 0}));
  EXPECT_FALSE(holds.covers({job_.hash + 1, {}, at(5), 0, 0}));
  holds.release(job_.hash, at(5));
  EXPECT_FALSE(holds.covers({job_.hash, {}, at(5), 0, 0}));

  JobAgent agent({self_, 1, 1'500, "arena", ""},
                 {*arena_, workers_, replicas_, loop_, report(), [](const AgentMemory&) {}, &holds},
                 {});
  ASSERT_TRUE(holds.hold(job_.hash, at(5)));
  agent.on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(5)});
  EXPECT_FALSE(holds.covers({job_.hash, {}, at(5), 0, 0}));
}

}  // namespace
}  // namespace holdfast::daemon
