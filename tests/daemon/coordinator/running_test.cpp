// A view that runs: captures, planned changes, sealing, a new coordinator process.
#include "tests/daemon/coordinator/scripted.h"

namespace holdfast::daemon {
namespace {

using train::WorkerPhase;

class Running : public Scripted {
 protected:
  // A new process finds what was stored and knows nothing else.
  void restart_coordinator() {
    coordinator_.emplace(CoordinatorOptions{}, now_ms_, coordinator_->epoch(),
                         std::vector<JobRecord>{stored_});
    commands_.clear();
  }
  // Trains `steps` steps of a two-lane view, every named version becoming safe.
  void train(uint64_t from, uint64_t steps, double seconds = 0.01) {
    for (uint64_t step = from; step < from + steps; ++step) {
      step_done_by_all(step, seconds);
      for (const uint32_t n : members())
        if (const auto c = last_capture_of(n, step + 1)) replicated(n, *c);
    }
  }
};

TEST_F(Running, SlowStepsAndRareCapturesBecomeSafe) {
  conf::JobConfig job = small_job(2);
  job.snapshot.every = 4;
  begin(job);
  for (uint64_t step = 0; step < 9; ++step) {
    pass(25'000);
    step_done_by_all(step, 25);
    for (const uint32_t n : members())
      if (const auto c = last_capture_of(n, step + 1)) replicated(n, *c);
  }
  EXPECT_EQ(noted("capture_missed"), 0U);
  EXPECT_EQ(coordinator_->safe().version, Version(9));
}

TEST_F(Running, TheSlowestLanesWayToTheFirstStepIsNotedOnceAllAreThere) {
  begin(small_job(2));
  const auto runs = [&](uint32_t n, const train::RestoreTimes& times) {
    feed(WorkerRunning{node(n), sessions_[n], 0, coordinator_->epoch(), times});
  };
  runs(1, {5'400'000'000, 0.05, 0.26, 0.01, 0.02});
  runs(1, {1, 9, 9, 9, 9});  // said again after its connection broke
  EXPECT_EQ(noted("restored"), 0U);
  runs(0, {2'000'000, 0.01, 0.02, 0.01, 0.02});
  ASSERT_EQ(noted("restored"), 1U);
  const EventRecord& event = notes_.back();
  EXPECT_EQ(event.text,
            "node node-1 took longest of 2 lanes: 5.4 GB in 0.34 s (room 0.05 s, verify and load "
            "0.26 s, connect 0.01 s, weights 0.02 s)");
  const std::map<std::string, std::string> details(event.details.begin(), event.details.end());
  EXPECT_EQ(details.at("node"), "node-1");
  EXPECT_EQ(details.at("bytes"), "5400000000");
  EXPECT_EQ(details.at("seconds"), "0.340");
  EXPECT_EQ(details.at("load_seconds"), "0.260");

  disconnect(1);  // another view: told anew, by who is in it
  comm_broken(0);
  quiesced_by({0});
  restored_by_all();
  ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  runs(1, {});
  EXPECT_EQ(noted("restored"), 1U);
  runs(0, {2'000'000, 0.01, 0.02, 0.01, 0.02});
  EXPECT_EQ(noted("restored"), 2U);
  EXPECT_NE(notes_.back().text.find("of 1 lanes: 2.0 MB in 0.06 s"), std::string::npos)
      << notes_.back().text;
}

TEST_F(Running, AMissOfAnEarlierNamingDoesNotEndTheLater) {
  begin(small_job(2));
  const CommandCapture first = *last<CommandCapture>(0);
  feed(WorkerCaptureMissed{node(0), sessions_[0], 0, first.epoch, first.version, "x", first.attempt});
  ASSERT_EQ(coordinator_->counters().captures_abandoned, 1U);
  feed(WorkerCaptureMissed{node(1), sessions_[1], 0, first.epoch, first.version, "x", first.attempt});
  EXPECT_EQ(coordinator_->counters().captures_abandoned, 1U);
}

TEST_F(Running, EverybodyGetsToTheVersionsThatWereNamedBeforeStanding) {
  begin(small_job(2));
  // Told too late several times: versions are named further and further ahead.
  for (uint64_t step = 0; step < 12; ++step) {
    for (const uint32_t n : {0U, 1U})
      if (const auto c = last<CommandCapture>(n); step < 6)
        feed(WorkerCaptureMissed{node(n), sessions_[n], 0, c->epoch, c->version, "late", c->attempt, true});
    step_done_by_all(step);
  }
  const Version named = last<CommandCapture>(0)->version;
  ASSERT_GT(named, Version(12 + 2));
  feed(StopJob{1, JobId("a")});
  pass(100);
  ASSERT_TRUE(last<CommandStopAt>(0));
  EXPECT_EQ(last<CommandStopAt>(0)->step, Step(named.value));
}

TEST_F(Running, APlannedChangeHasTheTimeOfAFewSteps) {
  begin(small_job(2));
  train(0, 2, 40);
  feed(StopJob{1, JobId("a")});
  pass(100);
  const uint64_t k = last<CommandStopAt>(0)->step->value;
  pass(80'000);
  train(2, k - 2, 40);
  EXPECT_EQ(noted("planned_given_up"), 0U);
  stopped(0, k);
  stopped(1, k);
  pass(40'000);  // keeping K has a time of its own
  EXPECT_EQ(noted("planned_given_up"), 0U);
}

TEST_F(Running, AChangeThatWasGivenUpIsNotProposedAgainAtOnce) {
  domains_ = {{0, "rack"}, {1, "rack"}};
  begin(small_job(2));
  train(0, 2);
  connect(2);  // can hold what nobody could
  pass(100);
  ASSERT_TRUE(last<CommandStopAt>(0));
  ASSERT_TRUE(last<CommandStopAt>(0)->step);
  pass(30'000);
  ASSERT_EQ(noted("planned_given_up"), 1U);
  pass(20'000);
  EXPECT_EQ(last<CommandStopAt>(0)->step, std::nullopt) << "not again yet";
  pass(11'000);
  EXPECT_NE(last<CommandStopAt>(0)->step, std::nullopt) << "later it is worth a try";
  pass(30'000);
  ASSERT_EQ(noted("planned_given_up"), 2U);
  pass(50'000);
  EXPECT_EQ(last<CommandStopAt>(0)->step, std::nullopt) << "less and less often";
}

TEST_F(Running, LanesThatStandForAnEarlierProcessGoOn) {
  begin(small_job(2));
  train(0, 3);
  restart_coordinator();
  connect(0, {report(WorkerPhase::kStopped, 9)});
  connect(1, {report(WorkerPhase::kRunning, 8)});
  stopped(1, 9);
  ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  EXPECT_EQ(coordinator_->newest_version(), Version(9));
  for (const uint32_t n : {0U, 1U}) {
    ASSERT_TRUE(last<CommandStopAt>(n)) << n;
    EXPECT_EQ(last<CommandStopAt>(n)->step, std::nullopt);
  }
}

TEST_F(Running, ALaneThatStopsWhileOthersAreAwaitedGoesOn) {
  begin(small_job(2));
  restart_coordinator();
  connect(0, {report(WorkerPhase::kRunning, 3)});
  stopped(0, 4);
  EXPECT_FALSE(last<CommandStopAt>(0));
  connect(1, {report(WorkerPhase::kRunning, 4)});
  ASSERT_TRUE(last<CommandStopAt>(0));
  EXPECT_EQ(last<CommandStopAt>(0)->step, std::nullopt);
}

TEST_F(Running, ACollectiveThatFailsWhileLanesAreAwaitedEndsTheView) {
  begin(small_job(2));
  restart_coordinator();
  connect(0, {report(WorkerPhase::kRunning, 3)});
  comm_broken(0);
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering);
}

TEST_F(Running, WithoutSnapshotsAStepIsSealedWhenTheNextIsDone) {
  conf::JobConfig job = small_job(2);
  job.snapshot.policy = "none";
  begin(job);
  step_done_by_all(0);
  EXPECT_TRUE(rows_.empty());
  step_done(0, 1);
  EXPECT_TRUE(rows_.empty());
  step_done(1, 1);
  ASSERT_EQ(rows_.size(), 2U);
  for (const LedgerRow& row : rows_) {
    EXPECT_EQ(row.step, Step(0));
    EXPECT_TRUE(row.loss);
  }
  // A new process goes on where that one was.
  restart_coordinator();
  connect(0, {report(WorkerPhase::kRunning, 2)});
  connect(1, {report(WorkerPhase::kRunning, 2)});
  step_done_by_all(1);
  step_done_by_all(2);
  ASSERT_EQ(rows_.size(), 4U);
  EXPECT_EQ(rows_[2].step, Step(1));
  EXPECT_TRUE(rows_[2].loss);
  // What a view begins with has happened.
  state_ = {Version(3), coordinator_->epoch()};
  feed(WorkerChanged{node(0), sessions_[0], {0, false, {}, {}, {}, {}}, "killed"});
  quiesced_by({0, 1});
  EXPECT_EQ(rows_.size(), 6U);
  EXPECT_EQ(stored_.steps_done, 3U);
}

TEST_F(Running, ANodeThatWasAwayWhenItsJobWasRemovedIsToldToEndIt) {
  connect(0);
  const auto end = last<CommandEndJob>(0);
  ASSERT_TRUE(end);
  EXPECT_FALSE(end->job);
}

TEST_F(Running, HoldersUnderSuspicionProtectNothing) {
  begin(small_job(2));
  step_done_by_all(0);
  feed(WorkerChanged{node(0), sessions_[0], {0, false, {}, {}, {}, {}}, "killed"});
  state_ = {Version(1), coordinator_->view()->epoch};
  quiesced_by({0, 1});
  restored_by_all();
  notes_.clear();
  const CommandCapture base = *last<CommandCapture>(0);
  replicated(0, base);
  disconnect(1);
  // node-1's word was on its way when the connection ended.
  replicated(1, base);
  EXPECT_EQ(coordinator_->safe(), state_);
  EXPECT_EQ(noted("protected"), 0U);
}

}  // namespace
}  // namespace holdfast::daemon
