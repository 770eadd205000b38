#include "base/json.h"
#include "tests/daemon/node/job_agent_help.h"

namespace holdfast::daemon {
namespace {

// A job that is removed and submitted anew begins with nothing of its predecessor.
TEST_F(JobAgentTest, AJobSubmittedAnewIsAnotherJob) {
  run();
  put(0, at(3));
  ASSERT_EQ(held().count(at(3)), 1u);
  agent_->on_command(CommandQuiesce{kTwo, job_.config, Epoch{1, 9}, at(0)});
  EXPECT_EQ(held().count(at(3)), 0u);
  EXPECT_EQ(workers_.calls.back(), "kill 0: it works for another job") << "its buffers are";
}

TEST_F(JobAgentTest, AFreshWorkerIsWelcomedRestoredAndSentOff) {
  run();
  EXPECT_EQ(workers_.last<train::Welcome>().submitted_in, job_.submitted_in);
  EXPECT_EQ(workers_.last<train::Restore>().owned.size(), 2u);
  EXPECT_EQ(workers_.last<train::Go>().epoch, kOne);
  EXPECT_EQ(last<WorkerRestored>().comm_address, "YWJj");
  EXPECT_EQ(agent_->worker_reports()[0].phase, WorkerPhase::kRunning);
  EXPECT_EQ(replicas_.epoch, kOne);
}

TEST_F(JobAgentTest, HowLongAWorkerTookToStartIsPassedOnOfThePresentViewOnly) {
  run();
  agent_->on_worker_message(0, train::Running{kTwo, {}});
  EXPECT_EQ(count<WorkerRunning>(), 0u);
  agent_->on_worker_message(0, train::Running{kOne, {.bytes = 7, .room_seconds = 0.5}});
  EXPECT_EQ(last<WorkerRunning>().times.bytes, 7u);
  EXPECT_EQ(last<WorkerRunning>().times.room_seconds, 0.5);
}

TEST_F(JobAgentTest, AFreshWorkerIsReportedOnceItAnsweredFromThePresentEpoch) {
  agent_->on_command(CommandQuiesce{kOne, job_.config, job_.submitted_in, at(0)});
  agent_->on_worker_up(0, hello({}, WorkerPhase::kIdle, true));
  EXPECT_EQ(workers_.last<train::Quiesce>().epoch, kOne);
  EXPECT_EQ(count<WorkerChanged>(), 0u);
  EXPECT_FALSE(agent_->worker_reports()[0].alive);
  agent_->on_worker_message(0, train::Quiesced{kOne, {}});
  EXPECT_EQ(count<WorkerChanged>(), 1u);
  EXPECT_TRUE(last<WorkerChanged>().worker.alive);
}

TEST_F(JobAgentTest, ALostWorkerGivesItsGrantsBack) {
  run();
  agent_->on_command(CommandCapture{kOne, Version(3)});
  EXPECT_EQ(granted(), 2u);
  agent_->on_worker_down(0, "killed by signal 9");
  EXPECT_EQ(granted(), 0u);
  EXPECT_FALSE(last<WorkerChanged>().worker.alive);
  EXPECT_EQ(last<WorkerChanged>().why, "killed by signal 9");
}

// Its memory may be written to until it is gone, but nobody waits for it.
TEST_F(JobAgentTest, AWorkerThatIsBeingTakenDownIsReportedOnceAndKeepsItsGrantsUntilItIsGone) {
  run();
  agent_->on_command(CommandCapture{kOne, Version(3)});
  const size_t before = count<WorkerChanged>();
  agent_->on_worker_dying(0, "killed, or it crashed");
  EXPECT_EQ(granted(), 2u);
  EXPECT_EQ(count<WorkerChanged>(), before + 1);
  EXPECT_FALSE(last<WorkerChanged>().worker.alive);
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  EXPECT_EQ(last<NodeQuiesced>().epoch, kTwo);
  // What it said before it died is no sign of life.
  agent_->on_worker_message(0, train::Quiesced{kTwo, {{at(2), {0, 1}}}});
  EXPECT_EQ(count<WorkerChanged>(), before + 1);
  agent_->on_worker_down(0, "signal 9 (Killed)");
  EXPECT_EQ(granted(), 0u);
  EXPECT_EQ(count<WorkerChanged>(), before + 1);
  EXPECT_FALSE(last<NodeQuiesced>().workers[0].alive);
}

TEST_F(JobAgentTest, GrantsStayUntilTheWorkerIsIdle) {
  run();
  agent_->on_command(CommandCapture{kOne, Version(3)});
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  EXPECT_EQ(granted(), 2u);
  EXPECT_EQ(count<NodeQuiesced>(), 1u);  // that of epoch one
  agent_->on_worker_message(0, train::Quiesced{kTwo, {{at(2), {0, 1}}}});
  EXPECT_EQ(granted(), 0u);
  EXPECT_EQ(last<NodeQuiesced>().epoch, kTwo);
  EXPECT_EQ(last<NodeQuiesced>().workers[0].held, (std::vector<HeldShards>{{at(2), {0, 1}}}));
}

TEST_F(JobAgentTest, QuiescedNamesOnlyVerifiedBlocks) {
  run();
  put(0, at(3));
  const uint32_t bad = put(1, at(3));
  (*arena_->payload(storage::BlockIndex(bad)))[0] ^= std::byte{1};
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(3)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  EXPECT_EQ(last<NodeQuiesced>().arena, (std::vector<HeldShards>{{at(3), {0}}}));
}

TEST_F(JobAgentTest, FetchFailureIsReportedWithItsShards) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(3)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  put(0, at(3));
  agent_->on_command(restore_of(kTwo, at(3),
                                {{0, ShardSource::kArena, {}},
                                 {1, ShardSource::kReplica, NodeId("node-1")},
                                 {2, ShardSource::kReplica, NodeId("node-2")},
                                 {3, ShardSource::kReplica, NodeId("node-1")}}));
  ASSERT_EQ(replicas_.fetches.size(), 2u);
  EXPECT_EQ(replicas_.fetches[0].shards, (std::vector<uint32_t>{1, 3}));
  EXPECT_EQ(replicas_.fetches[0].from, NodeId("node-1"));
  replicas_.fetches[0].done(
      {{{1, put(1, at(3))}}, {3}, {ErrorCode::kBlockMissing, "node-1 holds no good copy"}});
  replicas_.fetches[1].done({{{2, put(2, at(3))}}, {}, {}});
  EXPECT_EQ(count<WorkerRestoreFailed>(), 1u);
  EXPECT_EQ(last<WorkerRestoreFailed>().shards, std::vector<uint32_t>{3});
  EXPECT_EQ(last<WorkerRestoreFailed>().from, NodeId("node-1"));
  EXPECT_EQ(last<WorkerRestoreFailed>().error.code, ErrorCode::kBlockMissing);
  EXPECT_EQ(workers_.count<train::Restore>(), 1u);  // that of epoch one
}

TEST_F(JobAgentTest, FetchedShardsAreRestoredFromTheOwnArena) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(3)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  agent_->on_command(restore_of(kTwo, at(3), {{1, ShardSource::kReplica, NodeId("node-1")}}));
  const uint32_t block = put(1, at(3));
  replicas_.fetches.at(0).done({{{1, block}}, {}, {}});
  const auto restore = workers_.last<train::Restore>();
  ASSERT_EQ(restore.owned.size(), 1u);
  EXPECT_EQ(restore.owned[0].source, train::WorkerSource::kArena);
  EXPECT_EQ(restore.owned[0].block, block);
}

TEST_F(JobAgentTest, LateIdlerIsKilledAndThenReportedNotAlive) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  loop_.fire();
  ASSERT_FALSE(workers_.calls.empty());
  EXPECT_EQ(workers_.calls.back(), "kill 0: not idle 1500 ms after the view ended");
  EXPECT_EQ(count<NodeQuiesced>(), 1u);
  agent_->on_worker_down(0, "killed");
  EXPECT_EQ(last<NodeQuiesced>().epoch, kTwo);
  EXPECT_FALSE(last<NodeQuiesced>().workers[0].alive);
}

TEST_F(JobAgentTest, AnIdlerInTimeIsNotKilled) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  workers_.calls.clear();
  loop_.fire();
  EXPECT_TRUE(workers_.calls.empty());
}

TEST_F(JobAgentTest, WorkerOfAnOldEpochIsKilled) {
  run();
  start({kTwo, job_.config, job_.submitted_in, at(0), {}});  // the daemon started again, the cluster went on
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRunning));
  EXPECT_EQ(workers_.calls.back(), "kill 0: it works in epoch 1.1, the cluster is in 1.2");
  EXPECT_FALSE(agent_->worker_reports()[0].alive);
}

TEST_F(JobAgentTest, WorkerOfAnotherJobIsKilled) {
  run();
  auto other = hello(kOne, WorkerPhase::kRunning);
  other.job_key = "0123456789abcdef";
  agent_->on_worker_up(0, other);
  EXPECT_EQ(workers_.calls.back(), "kill 0: it works for a job that this node does not have");
}

TEST_F(JobAgentTest, OldCommandsHaveNoEffect) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  put(0, at(1));
  const size_t sent = workers_.sent.size();
  agent_->on_command(CommandQuiesce{kOne, job_.config, job_.submitted_in, at(0)});
  agent_->on_command(CommandGo{kOne, {}});
  agent_->on_command(CommandCapture{kOne, Version(3)});
  agent_->on_command(CommandWatermark{kOne, at(9), {}});
  agent_->on_command(CommandStopAt{kOne, Step(3)});
  EXPECT_EQ(workers_.sent.size(), sent);
  EXPECT_EQ(held(), std::multiset<StateVersion>{at(1)});
}

// A running worker outlives its daemon: the next one knows the view and carries captures on.
TEST_F(JobAgentTest, ARestartedDaemonGoesOnWithTheRunningWorker) {
  run();
  const auto text = to_json_text(memory_);
  const auto known = from_json_text<AgentMemory>(text, "memory");
  ASSERT_TRUE(known) << known.error().to_string();
  start(*known);
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRunning));
  EXPECT_TRUE(agent_->worker_reports()[0].alive);
  agent_->on_command(CommandCapture{kOne, Version(4)});
  EXPECT_EQ(workers_.last<train::Capture>().blocks.size(), 2u);
}

// A coordinator that was started anew has not stored what the one before was told.
TEST_F(JobAgentTest, StepsAboveTheSafeVersionAreToldToEveryCoordinator) {
  run();
  for (uint64_t step = 0; step < 3; ++step) {
    train::StepDone done;
    done.epoch = kOne;
    done.step = Step(step);
    agent_->on_worker_message(0, done);
  }
  const auto told_again = [&] {
    reported_.clear();
    agent_->on_connected();
    std::vector<uint64_t> steps;
    for (const NodeEvent& event : reported_)
      steps.push_back(std::get<WorkerStepDone>(event).step.step.value);
    return steps;
  };
  EXPECT_EQ(told_again(), (std::vector<uint64_t>{0, 1, 2}));
  agent_->on_command(CommandWatermark{kOne, at(2), {}});
  EXPECT_EQ(told_again(), (std::vector<uint64_t>{2}));
}

// It may be writing: its blocks are not anybody else's before it is known to be idle or ended.
TEST_F(JobAgentTest, GrantsOfAnEarlierDaemonStayUntilItsWorkerIsHeardOf) {
  run();
  agent_->on_command(CommandCapture{kOne, Version(3)});
  start(memory_);
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  EXPECT_EQ(last<NodeQuiesced>().epoch, kTwo);  // it is not connected: reported not alive
  EXPECT_EQ(granted(), 2u);
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRunning));
  EXPECT_EQ(workers_.calls.back(), "kill 0: it works in epoch 1.1, the cluster is in 1.2");
  EXPECT_EQ(granted(), 2u);
  agent_->on_worker_down(0, "killed");
  EXPECT_EQ(granted(), 0u);
}

TEST_F(JobAgentTest, AWorkerThatConnectsAgainWhileIdlingIsAskedAgain) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  const size_t asked = workers_.count<train::Quiesce>();
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kBroken));
  EXPECT_EQ(workers_.count<train::Quiesce>(), asked + 1);
  EXPECT_EQ(count<NodeQuiesced>(), 1u);
  agent_->on_worker_up(0, hello(kTwo, WorkerPhase::kIdle));  // it had answered into the void
  EXPECT_EQ(last<NodeQuiesced>().epoch, kTwo);
}

TEST_F(JobAgentTest, EndOfAJobKeepsItsBlocks) {
  run();
  put(0, at(1));
  agent_->on_command(CommandEndJob{kOne, job_.config.name, "stopped"});
  EXPECT_EQ(workers_.last<train::Exit>().why, "stopped");
  EXPECT_EQ(held().size(), 1u);
  EXPECT_EQ(agent_->job(), nullptr);
  start({kOne, job_.config, job_.submitted_in, at(1), {}});
  agent_->on_command(CommandEndJob{kOne, JobId("another"), "stopped"});
  EXPECT_NE(agent_->job(), nullptr);
  agent_->on_command(CommandEndJob{kOne, std::nullopt, "removed while this node was away"});
  EXPECT_EQ(agent_->job(), nullptr);
}

TEST_F(JobAgentTest, ABadBlockThatTheWorkerFoundIsNotOfferedAgain) {
  run();
  const uint32_t block = put(1, at(1));
  agent_->on_worker_message(
      0, train::RestoreFailed{kOne, {{1, block}}, {ErrorCode::kBlockInvalid, "bad sum"}});
  EXPECT_TRUE(held().empty());
  EXPECT_EQ(last<WorkerRestoreFailed>().shards, std::vector<uint32_t>{1});
  const uint32_t other = put(0, at(1));  // granted anew to another shard meanwhile
  ASSERT_EQ(other, block);
  agent_->on_worker_message(
      0, train::RestoreFailed{kOne, {{1, block}}, {ErrorCode::kBlockInvalid, "bad sum"}});
  EXPECT_EQ(held().size(), 1u);
}

TEST_F(JobAgentTest, AJobThatEndsWhileItsWorkerIsIdlingIsNotAnsweredFor) {
  run();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  const size_t answers = count<NodeQuiesced>();
  agent_->on_command(CommandEndJob{kTwo, job_.config.name, "stopped"});
  agent_->on_worker_down(0, "stopped");
  loop_.fire();
  EXPECT_EQ(count<NodeQuiesced>(), answers);
  agent_->on_command(CommandQuiesce{{1, 3}, job_.config, job_.submitted_in, at(0)});
  EXPECT_EQ(last<NodeQuiesced>().epoch, (Epoch{1, 3}));
}

TEST_F(JobAgentTest, AWorkerThatOutlivedItsJobIsStoppedForGood) {
  start({kOne, {}, {}, at(0), {}});
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRunning));
  EXPECT_EQ(workers_.calls, std::vector<std::string>{"stop 0"});
  agent_->on_worker_down(0, "stopped");
  EXPECT_EQ(count<WorkerChanged>(), 0u) << "nothing is lost";
}

// A full disk: what the view was could not be stored before the daemon was started again.
TEST_F(JobAgentTest, AWorkerOfAnEpochThatIsNotKnownIsKilled) {
  run();
  const AgentMemory old = memory_;
  start(old);
  agent_->on_worker_up(0, hello(kTwo, WorkerPhase::kRunning));
  EXPECT_EQ(workers_.calls.back(),
            "kill 0: it works in epoch 1.2, of which this daemon knows nothing");
}

TEST_F(JobAgentTest, AWorkerThatConnectsAgainIsToldWhatItMayHaveMissed) {
  run();
  agent_->on_command(CommandStopAt{kOne, Step(7)});
  const size_t gone = workers_.count<train::Go>();
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRunning));
  EXPECT_EQ(workers_.count<train::Go>(), gone) << "it runs";
  EXPECT_EQ(workers_.count<train::StopAt>(), 2u);
  EXPECT_EQ(workers_.last<train::StopAt>().step, Step(7));
  agent_->on_worker_up(0, hello(kOne, WorkerPhase::kRestoring));
  EXPECT_EQ(workers_.count<train::Go>(), gone + 1);
  EXPECT_EQ(workers_.last<train::Go>().comm_addresses, std::vector<std::string>{"YWJj"});
  EXPECT_EQ(agent_->worker_reports()[0].phase, WorkerPhase::kRunning);
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  agent_->on_worker_up(0, hello(kTwo, WorkerPhase::kIdle));
  EXPECT_EQ(workers_.count<train::Go>(), gone + 1) << "that was of the view before";
  EXPECT_EQ(workers_.count<train::StopAt>(), 3u);
}

TEST_F(JobAgentTest, AJobResumedWhileItsWorkerLeavesGetsANewWorker) {
  run();
  agent_->on_command(CommandEndJob{kOne, job_.config.name, "stopped"});
  const size_t changes = count<WorkerChanged>();
  workers_.calls.clear();
  agent_->on_command(CommandQuiesce{kTwo, job_.config, job_.submitted_in, at(0)});
  EXPECT_EQ(workers_.calls, std::vector<std::string>{"ensure 0"});
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});  // the old one's, on its way out
  EXPECT_FALSE(agent_->worker_reports()[0].alive);
  agent_->on_worker_down(0, "stopped");
  EXPECT_EQ(count<WorkerChanged>(), changes) << "its end was wished for";
  agent_->on_worker_up(0, hello({}, WorkerPhase::kIdle, true));
  agent_->on_worker_message(0, train::Quiesced{kTwo, {}});
  EXPECT_TRUE(last<WorkerChanged>().worker.alive);
}

}  // namespace
}  // namespace holdfast::daemon
