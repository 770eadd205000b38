// Views of several stages: what the job waits for, who is moved and comes back, whose rows are sealed.
#include "daemon/coordinator/members.h"
#include "tests/daemon/coordinator/scripted.h"

namespace holdfast::daemon {
namespace {

class Stages : public Scripted {
 protected:
  // Whose stages are alike: the head costs nothing.
  static conf::JobConfig even_job(uint32_t pipelines, uint32_t stages) {
    conf::JobConfig job = small_job(pipelines, stages);
    job.model.vocabulary = 2;
    return job;
  }
  // "0(0,0) 2(1,0) ..." by lane.
  std::string places() const {
    std::string out;
    for (const Member& m : coordinator_->view()->members)
      out += (out.empty() ? "" : " ") + m.worker.node.value.substr(5) + to_string(m.coordinate);
    return out;
  }
  std::optional<EventRecord> last_note(const std::string& kind) const {
    for (auto it = notes_.rbegin(); it != notes_.rend(); ++it)
      if (it->kind == kind) return *it;
    return std::nullopt;
  }
  void lose(const std::vector<uint32_t>& nodes) {
    for (const uint32_t n : nodes) disconnect(n);
    for (const uint32_t n : members())
      if (std::find(nodes.begin(), nodes.end(), n) == nodes.end()) {
        comm_broken(n);
        break;
      }
    pass(400);
  }
  void replicated_by_all(uint64_t version) {
    for (const uint32_t n : members()) replicated(n, *last_capture_of(n, version));
  }
};

TEST_F(Stages, AStageWithoutALaneWaitsForAWorker) {
  begin(small_job(1, 2));
  EXPECT_EQ(places(), "0(0,0) 1(0,1)");
  lose({1});
  quiesced(0);
  pass(60'000);
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering);
  EXPECT_EQ(coordinator_->waiting_for(),
            "live workers: 1 is ready, and 2 stages need one each");
  ASSERT_EQ(noted("waiting"), 1U);
  EXPECT_EQ(last_note("waiting")->text, "waits for " + coordinator_->waiting_for());
  connect(1);
  quiesced(1);
  EXPECT_EQ(coordinator_->phase(), Phase::kRestoring);
  EXPECT_EQ(places(), "0(0,0) 1(0,1)");
}

TEST_F(Stages, AJobDoesNotStartWithFewerWorkersThanStages) {
  connect(0);
  feed(SubmitJob{1, small_job(1, 2)});
  quiesced(0);
  EXPECT_EQ(coordinator_->waiting_for(), "workers: 1 of 2 are ready, 2 stages need one each");
  pass(60'000);
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering);
}

TEST_F(Stages, AViewGoesOnWithWhatIsLeftOfAStage) {
  begin(even_job(2, 2));
  lose({1});
  quiesced_by({0, 2, 3});
  EXPECT_EQ(places(), "0(0,0) 2(1,0) 3(1,1)");
  EXPECT_EQ(noted("moved"), 0U);
  EXPECT_NE(coordinator_->view()->reason.find(
                "gone: node-1 at (0,1); all micro-batches run on 1 of 2 lanes of stage 1"),
            std::string::npos)
      << coordinator_->view()->reason;
}

TEST_F(Stages, AWorkerIsMovedToAStageThatLostItsLastLaneAndReturningOnesFillUp) {
  begin(even_job(2, 2));
  lose({1, 3});
  quiesced_by({0, 2});
  EXPECT_EQ(places(), "0(0,0) 2(0,1)");
  ASSERT_EQ(noted("moved"), 1U);
  EXPECT_EQ(last_note("moved")->text, "node node-2 moves from (1,0) to (0,1) (pipeline, stage)");
  EXPECT_NE(coordinator_->view()->reason.find("lost its last lane: stage 1; moves node-2"),
            std::string::npos)
      << coordinator_->view()->reason;
  EXPECT_NE(last_note("view")->text.find("moves node-2"), std::string::npos);
  restored_by_all();
  ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  step_done_by_all(0);
  // Both come back; the change is planned.
  for (const uint32_t n : {1U, 3U}) {
    connect(n);
    quiesced(n);
  }
  pass(100);
  ASSERT_TRUE(last<CommandStopAt>(0));
  const uint64_t k = last<CommandStopAt>(0)->step->value;
  step_done_by_all(1);
  for (const uint32_t n : {0U, 2U}) stopped(n, k);
  state_ = {Version(k), coordinator_->epoch()};
  replicated_by_all(k);
  ASSERT_EQ(coordinator_->phase(), Phase::kGathering);
  quiesced_by({0, 1, 2, 3});
  EXPECT_EQ(places(), "0(0,0) 1(1,0) 2(0,1) 3(1,1)");
  EXPECT_EQ(noted("moved"), 1U) << "who was moved stays";
  EXPECT_EQ(noted("rejoined"), 2U);
}

TEST_F(Stages, EveryLaneOfEveryStageIsARow) {
  begin(even_job(2, 2));
  step_done_by_all(0);
  step_done(1, 1);  // the others' reports are lost with the coordinator's connection
  replicated_by_all(1);
  ASSERT_EQ(rows_.size(), 4U);
  for (uint32_t lane = 0; lane < 4; ++lane) {
    EXPECT_EQ(rows_[lane].lane, lane);
    EXPECT_EQ(rows_[lane].stage, StageIndex(lane / 2));
    EXPECT_TRUE(rows_[lane].loss);
  }
  replicated_by_all(2);
  ASSERT_EQ(rows_.size(), 8U);
  EXPECT_EQ(coordinator_->counters().rows_inferred, 3U);
  // (step 1; D M = 4 micro-batches): the lane that told said none, its peer comes from the plan.
  EXPECT_TRUE(rows_[4 + 2].loss);
  std::multiset<uint32_t> first;
  for (const uint32_t lane : {0U, 1U}) {
    EXPECT_FALSE(rows_[4 + lane].loss);
    first.insert(rows_[4 + lane].micro_batches.begin(), rows_[4 + lane].micro_batches.end());
  }
  EXPECT_EQ(first, (std::multiset<uint32_t>{0, 1, 2, 3}));
  EXPECT_EQ(rows_[4 + 3].micro_batches.size(), 2U);
}

// ---- stages that do not wait for each other --------------------------------------------------------

class Staggered : public Stages {
 protected:
  static conf::JobConfig staggered_job() {
    conf::JobConfig job = even_job(2, 2);
    job.optimizer.clip_by = "stage";
    return job;
  }
  // What this node's worker owns, at each of these versions of the view.
  void quiesced_with(uint32_t n, const View& view, const std::vector<uint64_t>& versions) {
    std::vector<uint32_t> owned;
    for (uint32_t shard = 0; shard < view.owner_lane.size(); ++shard)
      if (view.members[view.owner_lane[shard]].worker.node == node(n)) owned.push_back(shard);
    WorkerReport report{0, true, coordinator_->epoch(), train::WorkerPhase::kIdle,
                        Step(versions[0]), {}};
    for (const uint64_t version : versions)
      report.held.push_back({{Version(version), view.epoch}, owned});
    feed(NodeQuiesced{node(n), sessions_[n], coordinator_->epoch(), {report}, {}, {}});
  }
};

// The first stage (nodes 0 and 2) is a step ahead of the last in what is heard.
TEST_F(Staggered, AStepIsSealedAndItsLossKnownWhenTheLastStageHasToldItToo) {
  begin(staggered_job());
  ASSERT_EQ(places(), "0(0,0) 2(1,0) 1(0,1) 3(1,1)");
  for (const uint32_t n : {0U, 2U}) step_done(n, 0);
  EXPECT_EQ(coordinator_->newest_version(), Version(1));
  EXPECT_FALSE(coordinator_->active_job()->train_loss);
  for (const uint32_t n : {0U, 2U}) step_done(n, 1);
  EXPECT_EQ(noted("first_step"), 0U);
  for (const uint32_t n : {1U, 3U}) step_done(n, 0);
  EXPECT_EQ(noted("first_step"), 1U);
  EXPECT_EQ(coordinator_->newest_version(), Version(2));
  EXPECT_EQ(coordinator_->active_job()->train_loss, 1.0);
  for (const uint32_t n : {0U, 2U}) replicated(n, *last_capture_of(n, 1));
  EXPECT_TRUE(rows_.empty()) << "the last stage has not kept it";
  for (const uint32_t n : {1U, 3U}) replicated(n, *last_capture_of(n, 1));
  ASSERT_EQ(rows_.size(), 4U);
  for (const LedgerRow& row : rows_) {
    EXPECT_EQ(row.loss, row.stage == StageIndex(1) ? std::optional(1.0) : std::nullopt);
    EXPECT_EQ(row.step, Step(0));
  }
  EXPECT_EQ(coordinator_->counters().rows_inferred, 0U);
  step_done(1, 1);
  EXPECT_EQ(coordinator_->active_job()->train_loss, 2.0);
  step_done(3, 0);  // told again
  EXPECT_EQ(coordinator_->active_job()->train_loss, 2.0);
}

TEST_F(Staggered, WithoutSnapshotsAStepIsSealedWhenALaterOneIsDoneByAllStages) {
  conf::JobConfig job = staggered_job();
  job.snapshot.policy = "none";
  begin(job);
  step_done_by_all(0);
  for (const uint32_t n : {0U, 2U}) step_done(n, 1);
  for (const uint32_t n : {0U, 2U}) step_done(n, 2);
  EXPECT_TRUE(rows_.empty());
  for (const uint32_t n : {1U, 3U}) step_done(n, 1);
  ASSERT_EQ(rows_.size(), 4U);
  EXPECT_EQ(rows_.back().step, Step(0));
}

TEST_F(Staggered, TheNextViewBeginsWithTheVersionThatBothStagesHold) {
  begin(staggered_job());
  step_done_by_all(0);
  step_done_by_all(1);
  for (const uint32_t n : {0U, 2U}) step_done(n, 2);  // the last stage is still at it
  const View view = *coordinator_->view();
  comm_broken(1);
  pass(400);
  ASSERT_EQ(coordinator_->phase(), Phase::kGathering);
  for (const uint32_t n : {0U, 2U}) quiesced_with(n, view, {3, 2});
  for (const uint32_t n : {1U, 3U}) quiesced_with(n, view, {2, 1});
  ASSERT_EQ(coordinator_->phase(), Phase::kRestoring) << coordinator_->waiting_for();
  EXPECT_EQ(coordinator_->view()->base, (StateVersion{Version(2), view.epoch}));
  EXPECT_EQ(coordinator_->view()->members.size(), 4U);
  restored_by_all();
  EXPECT_EQ(coordinator_->newest_version(), Version(2));
  replicated_by_all(2);
  step_done_by_all(2);
  replicated_by_all(3);
  EXPECT_EQ(coordinator_->counters().rows_inferred, 0U);
  std::multiset<std::pair<uint64_t, Epoch>> made;
  for (const LedgerRow& row : rows_) made.insert({row.step.value, row.made});
  EXPECT_EQ(made.count({2, coordinator_->epoch()}), 4U);
  EXPECT_EQ(made.count({2, view.epoch}), 0U) << "the first stage's rows of it are void";
}

// Stage 1 of three lanes loses two; each lane of stage 0 has the only copy of a part.
TEST_F(Stages, MovesThatWouldCostStepsAreMadeAtAStepBoundary) {
  conf::JobConfig job = even_job(3, 2);
  job.micro_batches = 6;
  begin(job);
  step_done_by_all(0);
  const View first = *coordinator_->view();
  const StateVersion one{Version(1), first.epoch};
  const auto owned = [&](uint32_t n) {
    std::vector<uint32_t> shards;
    for (uint32_t shard = 0; shard < first.owner_lane.size(); ++shard)
      if (first.members[first.owner_lane[shard]].worker.node == node(n)) shards.push_back(shard);
    return shards;
  };
  ASSERT_EQ(places(), "0(0,0) 2(1,0) 4(2,0) 1(0,1) 3(1,1) 5(2,1)");
  lose({3, 5});
  for (const uint32_t n : {0U, 1U, 2U, 4U}) {
    std::vector<HeldShards> arena;
    if (n == 1) arena = {{one, owned(3)}, {one, owned(5)}};  // their replicas
    feed(NodeQuiesced{node(n), sessions_[n], coordinator_->epoch(),
                      {{0, true, coordinator_->epoch(), train::WorkerPhase::kIdle, Step(1),
                        {{one, owned(n)}}}},
                      arena, {}});
  }
  ASSERT_EQ(coordinator_->phase(), Phase::kRestoring) << coordinator_->waiting_for();
  EXPECT_EQ(coordinator_->view()->base, one);
  EXPECT_EQ(places(), "0(0,0) 2(1,0) 4(2,0) 1(0,1)");
  restored_by_all();
  replicated_by_all(1);
  step_done_by_all(1);
  pass(100);
  ASSERT_TRUE(last<CommandStopAt>(0));
  const uint64_t k = last<CommandStopAt>(0)->step->value;
  for (const uint32_t n : members()) stopped(n, k);
  const StateVersion kept{Version(k), coordinator_->epoch()};
  replicated_by_all(k);
  ASSERT_EQ(coordinator_->phase(), Phase::kGathering);
  EXPECT_NE(last_note("quiesce")->text.find("workers change places: a step takes"),
            std::string::npos)
      << last_note("quiesce")->text;
  state_ = kept;
  for (const uint32_t n : {0U, 1U, 2U, 4U}) quiesced(n, {{kept, all_shards_}});
  EXPECT_EQ(places(), "0(0,0) 2(1,0) 1(0,1) 4(1,1)");
  EXPECT_EQ(coordinator_->view()->base, kept) << "no step is done twice";
  EXPECT_EQ(noted("moved"), 1U);
}

}  // namespace
}  // namespace holdfast::daemon
