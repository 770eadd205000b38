// Asking what would be, and what was foretold beside what came.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/daemon/coordinator/scripted.h"

namespace holdfast::daemon {
namespace {

using ::testing::HasSubstr;

class Asking : public Scripted {
 protected:
  Result<WhatIf> ask(const std::vector<uint32_t>& nodes) const {
    std::vector<NodeId> names;
    for (const uint32_t n : nodes) names.push_back(node(n));
    return coordinator_->what_if(now_ms_, names);
  }
  void expect_error(const std::vector<uint32_t>& nodes, ErrorCode code, const std::string& says) {
    const auto answer = ask(nodes);
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, code);
    EXPECT_THAT(answer.error().message, HasSubstr(says));
  }
  WhatIf foretold(const std::vector<uint32_t>& nodes) const {
    auto answer = ask(nodes);
    EXPECT_TRUE(answer) << answer.error().to_string();
    return answer ? *answer : WhatIf{};
  }
  // Another process takes the view over while nothing of it is safe yet: what arenas hold is not known.
  void taken_over(const std::vector<uint32_t>& workers) {
    JobRecord running = stored_;
    running.safe = {Version(1), Epoch{6, 9}};  // of an earlier view
    coordinator_.emplace(CoordinatorOptions{}, 1'000, coordinator_->epoch(),
                         std::vector<JobRecord>{running});
    for (const uint32_t n : workers) connect(n, {report(train::WorkerPhase::kRunning, 1)});
    ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  }
  void replicated_by_all(uint64_t version) {
    for (const uint32_t n : members()) replicated(n, *last_capture_of(n, version));
  }
  // What is left says what it holds: its own shards at `states_`, and its arena.
  void quiesced_as_known(uint32_t n, const std::vector<uint32_t>& owned,
                         const std::vector<StateVersion>& states,
                         const std::vector<HeldShards>& arena) {
    WorkerReport worker = report(train::WorkerPhase::kIdle);
    worker.held.clear();
    for (const StateVersion& state : states) worker.held.push_back({state, owned});
    feed(NodeQuiesced{node(n), sessions_[n], coordinator_->epoch(), {worker}, arena, {}});
  }
  std::vector<uint32_t> owned_by(uint32_t lane) const {
    std::vector<uint32_t> owned;
    for (uint32_t s = 0; s < all_shards_.size(); ++s)
      if (coordinator_->view()->owner_lane[s] == lane) owned.push_back(s);
    return owned;
  }
  std::map<std::string, std::string> details(const std::string& kind) const {
    for (auto it = notes_.rbegin(); it != notes_.rend(); ++it)
      if (it->kind == kind) return {it->details.begin(), it->details.end()};
    return {};
  }
};

TEST_F(Asking, WhatCannotBeAnsweredHasACode) {
  connect(0);
  expect_error({}, ErrorCode::kUsage, "no node is named");
  expect_error({0, 7}, ErrorCode::kNotFound, "there is no node node-7; known are node-0");
  expect_error({0}, ErrorCode::kJobState, "no job runs");
  feed(SubmitJob{1, small_job(2)});
  expect_error({0}, ErrorCode::kJobState, "does not train just now, it waits for nodes to become idle");
}

TEST_F(Asking, ANodeThatTheViewDoesNotNeedChangesNothing) {
  begin(small_job(2), {2});
  // node-2 has no worker; the lanes hold each other's replicas, or it does.
  const auto& members = coordinator_->view()->members;
  const bool holds = std::any_of(members.begin(), members.end(), [](const Member& m) {
    return std::count(m.holders.begin(), m.holders.end(), node(2)) > 0;
  });
  ASSERT_FALSE(holds);
  const WhatIf answer = foretold({2});
  EXPECT_EQ(answer.outcome, "unaffected");
  EXPECT_EQ(answer.text, "node-2 has no lane and no replicas: job a trains on");
  EXPECT_FALSE(answer.prediction);
  EXPECT_TRUE(answer.lost.empty());
}

TEST_F(Asking, AllNodesLeaveNothing) {
  begin(small_job(2));
  step_done_by_all(0);
  replicated_by_all(1);
  const WhatIf answer = foretold({0, 1});
  EXPECT_EQ(answer.outcome, "waits");
  EXPECT_THAT(answer.text, HasSubstr("a worker that can take part: there is none"));
  EXPECT_THAT(answer.text, HasSubstr("no complete copy of v1@7.1 would be left"));
  EXPECT_EQ(answer.lost.size(), 2U);
  EXPECT_EQ(answer.lost_stages, std::vector<uint32_t>{0});
}

TEST_F(Asking, AStageWithoutALaneWaitsOrTakesAWorkerFromAnother) {
  begin(small_job(1, 2));
  WhatIf answer = foretold({1});
  EXPECT_EQ(answer.outcome, "waits");
  EXPECT_THAT(answer.text, HasSubstr("1 is ready, and 2 stages need one each"));
  coordinator_.emplace(CoordinatorOptions{}, 1'000, Epoch{7, 0}, std::vector<JobRecord>{});
  begin(small_job(2, 2));
  answer = foretold({1, 3});
  EXPECT_EQ(answer.outcome, "continues");
  EXPECT_EQ(answer.lost_stages, std::vector<uint32_t>{1});
  ASSERT_TRUE(answer.prediction);
  ASSERT_EQ(answer.prediction->moves.size(), 1U);
  EXPECT_EQ(answer.prediction->pipelines, 1U);
}

TEST_F(Asking, TheCoordinatorsOwnNodeIsWaitedFor) {
  CoordinatorOptions options;
  options.self = node(0);
  coordinator_.emplace(options, 1'000, Epoch{7, 0}, std::vector<JobRecord>{});
  begin(small_job(2));
  const WhatIf answer = foretold({0});
  EXPECT_EQ(answer.outcome, "waits");
  EXPECT_THAT(answer.text, HasSubstr("node-0 runs the coordinator: nothing is decided until"));
  EXPECT_TRUE(answer.prediction) << "what follows then";
  EXPECT_EQ(foretold({1}).outcome, "continues");
}

TEST_F(Asking, AProcessThatIsNewToAViewSaysThatItDoesNotKnow) {
  begin(small_job(2));
  step_done_by_all(0);
  taken_over({0, 1});
  expect_error({0}, ErrorCode::kJobState, "new to the view");
}

TEST_F(Asking, WhatCameStandsBesideWhatWasForetold) {
  begin(small_job(3));
  for (const uint32_t n : members())
    feed(WorkerRunning{node(n), sessions_[n], 0, coordinator_->epoch(), {0, 0, 0, 0.2, 0.1}});
  step_done_by_all(0, 0.5);
  replicated_by_all(1);
  for (uint64_t step = 1; step < 4; ++step) step_done_by_all(step, 0.5);
  const StateVersion safe = coordinator_->safe();
  ASSERT_EQ(safe.version, Version(1));
  const WhatIf answer = foretold({2});
  ASSERT_TRUE(answer.prediction);
  EXPECT_EQ(answer.prediction->base, safe);
  EXPECT_EQ(answer.prediction->steps_twice, 3U);
  EXPECT_DOUBLE_EQ(*answer.prediction->recovery.connect.seconds, 0.1 + 0.2);
  EXPECT_TRUE(answer.prediction->recovery.connect.measured);

  const std::vector<std::vector<uint32_t>> owned{owned_by(0), owned_by(1), owned_by(2)};
  const View view = *coordinator_->view();
  const std::vector<StateVersion> buffers{{Version(4), view.epoch}, {Version(3), view.epoch}};
  disconnect(2);
  now_ms_ += 100;
  comm_broken(0);
  ASSERT_EQ(coordinator_->phase(), Phase::kGathering);
  now_ms_ += 200;
  for (const uint32_t n : {0U, 1U}) {
    std::set<uint32_t> arena(owned[n].begin(), owned[n].end());
    for (uint32_t lane = 0; lane < 3; ++lane)
      for (const NodeId& holder : view.members[lane].holders)
        if (holder == node(n)) arena.insert(owned[lane].begin(), owned[lane].end());
    quiesced_as_known(n, owned[n], buffers, {{safe, {arena.begin(), arena.end()}}});
  }
  ASSERT_EQ(coordinator_->phase(), Phase::kRestoring);
  now_ms_ += 400;
  for (const uint32_t n : {0U, 1U}) restored(n);
  for (const uint32_t n : {0U, 1U})
    feed(WorkerRunning{node(n), sessions_[n], 0, coordinator_->epoch(), {0, 0, 0, 0.3, 0.1}});
  now_ms_ += 1'200;
  notes_.clear();
  step_done_by_all(1, 0.75);
  ASSERT_EQ(noted("recovered"), 1U);
  auto seen = details("recovered");
  EXPECT_EQ(seen["outcome_predicted"], "continues");
  EXPECT_EQ(seen["base"], to_string(safe));
  EXPECT_EQ(seen["base_predicted"], to_string(safe));
  EXPECT_EQ(seen["steps_twice"], "3");
  EXPECT_EQ(seen["steps_twice_predicted"], "3");
  EXPECT_EQ(seen["owners_as_predicted"], "true");
  EXPECT_EQ(seen["bytes_moved"], std::to_string(answer.prediction->bytes_moved));
  EXPECT_EQ(seen["bytes_moved_predicted"], seen["bytes_moved"]);
  EXPECT_EQ(seen["seconds"], "1.900");
  EXPECT_EQ(seen["noticed_seconds"], "0.100");
  EXPECT_EQ(seen["quiesce_seconds"], "0.200");
  EXPECT_EQ(seen["restore_seconds"], "0.400");
  EXPECT_EQ(seen["connect_seconds"], "0.400");
  EXPECT_EQ(seen["first_step_seconds"], "0.800");
  EXPECT_EQ(seen["connect_seconds_predicted"], "0.300");
  EXPECT_EQ(seen["seconds_predicted"], fmt::format("{:.3f}", answer.prediction->recovery.total));

  EXPECT_EQ(noted("pace"), 0U);
  for (uint64_t step = 2; step < 7; ++step) step_done_by_all(step, 0.7);
  ASSERT_EQ(noted("pace"), 1U);
  seen = details("pace");
  EXPECT_EQ(seen["step_seconds"], "0.700");
  EXPECT_EQ(seen["step_seconds_before"], "0.500");
  EXPECT_EQ(seen["step_seconds_predicted"],
            fmt::format("{:.3f}", *answer.prediction->pace.step_seconds_after));

  const RecoveryTime next = foretold({1}).prediction->recovery;
  EXPECT_TRUE(next.quiesce.measured);
  EXPECT_DOUBLE_EQ(*next.quiesce.seconds, 0.2);
  EXPECT_DOUBLE_EQ(*next.noticed.seconds, 0.1);
}

TEST_F(Asking, ThePaceIsToldAtTheEndOfAShortView) {
  begin(small_job(3));
  step_done_by_all(0, 0.5);
  step_done_by_all(1, 0.5);
  disconnect(2);
  comm_broken(0);
  state_ = {Version(2), coordinator_->view()->epoch};
  quiesced_by({0, 1});
  restored_by_all();
  for (uint64_t step = 2; step < 4; ++step) step_done_by_all(step, 0.6);
  EXPECT_EQ(noted("recovered"), 1U);
  EXPECT_EQ(noted("pace"), 0U);
  disconnect(1);
  comm_broken(0);
  EXPECT_EQ(noted("pace"), 1U);
}

// The second strikes when the new view is open, before its first step.
TEST_F(Asking, TwoFailuresBeforeAFirstStepAreOneRecovery) {
  begin(small_job(3));
  step_done_by_all(0);
  disconnect(2);
  comm_broken(0);
  state_ = {Version(1), coordinator_->view()->epoch};
  quiesced_by({0, 1});
  restored_by_all();
  ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  now_ms_ += 700;
  disconnect(1);
  comm_broken(0);
  quiesced_by({0});
  restored_by_all();
  EXPECT_EQ(noted("recovered"), 0U);
  step_done_by_all(1);
  ASSERT_EQ(noted("recovered"), 1U);
  auto seen = details("recovered");
  EXPECT_EQ(seen["views"], "2");
  EXPECT_GE(std::stod(seen["seconds"]), 0.7) << "from the first failure on";
}

TEST_F(Asking, ACoordinatorNewToTheViewTellsOfTheRecoveryWithoutAPrediction) {
  begin(small_job(3));
  step_done_by_all(0);
  taken_over({0, 1, 2});
  disconnect(2);
  comm_broken(0);
  state_ = {Version(1), coordinator_->view()->epoch};
  quiesced_by({0, 1});
  restored_by_all();
  step_done_by_all(1);
  ASSERT_EQ(noted("recovered"), 1U);
  auto seen = details("recovered");
  EXPECT_EQ(seen["outcome_predicted"], "");
  EXPECT_FALSE(seen.contains("base_predicted"));
}

TEST_F(Asking, AJobTooLargeToPlanBesideEventsIsNotForetold) {
  conf::JobConfig job = small_job(3);
  job.micro_batches = 3'000;
  begin(job);
  step_done_by_all(0);
  disconnect(2);
  comm_broken(0);
  state_ = {Version(1), coordinator_->view()->epoch};
  quiesced_by({0, 1});
  restored_by_all();
  step_done_by_all(1);
  ASSERT_EQ(noted("recovered"), 1U);
  EXPECT_EQ(details("recovered")["outcome_predicted"], "");
  EXPECT_TRUE(foretold({1}).prediction) << "asked, it is";
}

TEST_F(Asking, AStartAndAReturnForetellNothing) {
  begin(small_job(2));
  step_done_by_all(0);
  EXPECT_EQ(noted("recovered"), 0U);
}

}  // namespace
}  // namespace holdfast::daemon
