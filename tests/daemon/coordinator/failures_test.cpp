// Who stays out of a view after failures, and what is not lost by them.
#include "tests/daemon/coordinator/scripted.h"

namespace holdfast::daemon {
namespace {

using Failures = Scripted;

TEST_F(Failures, AFetchThatFailsOnTheWayLosesNoCopy) {
  begin(small_job(2));
  const CommandCapture first = *last_capture_of(0, 1);
  step_done_by_all(0);
  for (const uint32_t n : {0U, 1U}) replicated(n, first);
  const StateVersion one{Version(1), coordinator_->epoch()};
  ASSERT_EQ(coordinator_->safe(), one);
  // node-0 dies; node-1's worker was started anew, all that is left lies in node-2's arena.
  disconnect(0);
  feed(WorkerChanged{node(1), sessions_[1], {0, false, {}, {}, {}, {}}, "killed"});
  connect(2);
  state_ = {};
  quiesced(1);
  quiesced_without_worker(2, {{one, all_shards_}});
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(coordinator_->phase(), Phase::kRestoring) << coordinator_->waiting_for();
    EXPECT_EQ(coordinator_->view()->base, one);
    restore_failed(1, {0, 1}, 2, i == 0 ? ErrorCode::kFabricLost : ErrorCode::kBlockMissing);
    pass(100);
    quiesced(1);
    quiesced_without_worker(2, {{one, all_shards_}});
  }
  EXPECT_EQ(coordinator_->view()->base, one);
  restored(1);
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning);
  EXPECT_EQ(noted("went_below_safe"), 0U);
}

TEST_F(Failures, AWorkerThatCannotPrepareStaysOut) {
  begin(small_job(3));
  comm_broken(0);
  pass(400);
  for (int i = 0; i < 3; ++i) {
    quiesced_by({0, 1, 2});
    ASSERT_EQ(members(), (std::vector<uint32_t>{0, 1, 2}));
    restore_failed(1, {}, 1, ErrorCode::kCommSetup);
  }
  EXPECT_EQ(noted("kept_out"), 1U);
  quiesced_by({0, 1, 2});
  EXPECT_EQ(members(), (std::vector<uint32_t>{0, 2}));
  restored_by_all();
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning);
}

TEST_F(Failures, OfTwoThatCannotReachEachOtherTheHigherLaneStaysOut) {
  begin(small_job(3));
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(members(), (std::vector<uint32_t>{0, 1, 2}));
    comm_broken(2);
    comm_broken(1);
    pass(400);
    quiesced_by({0, 1, 2});
    restored_by_all();
  }
  EXPECT_EQ(members(), (std::vector<uint32_t>{0, 1}));
}

TEST_F(Failures, AStepEndsARowOfFailedViews) {
  begin(small_job(3));
  for (int i = 0; i < 6; ++i) {
    if (i == 2) step_done_by_all(0);
    comm_broken(2);
    pass(400);
    quiesced_by({0, 1, 2});
    restored_by_all();
    const std::vector<uint32_t> all{0, 1, 2}, rest{0, 1};
    EXPECT_EQ(members(), i < 5 ? all : rest) << i;
  }
}

TEST_F(Failures, ViewsFromTheSameBaseTakeOnePlaceInTheHistory) {
  begin(small_job(2));
  step_done_by_all(0);
  state_ = {Version(1), coordinator_->epoch()};
  for (int i = 0; i < 50; ++i) {
    feed(WorkerChanged{node(0), sessions_[0], {0, false, {}, {}, {}, {}}, "killed"});
    quiesced_by({0, 1});
  }
  ASSERT_EQ(stored_.history.size(), 2U);
  EXPECT_EQ(stored_.history[0].base.version, Version(0));
  EXPECT_EQ(stored_.history[1].base, state_);
}

TEST_F(Failures, AReturningNodeThatCannotOpenTheJobIsKeptOut) {
  begin(small_job(3));
  disconnect(2);
  comm_broken(0);
  pass(400);
  connect(2);
  fatal(2, Epoch{});  // its token file is missing
  EXPECT_EQ(noted("job_failed"), 0U);
  ASSERT_EQ(noted("kept_out"), 1U);
  EXPECT_NE(notes_.back().text.find("no such file"), std::string::npos) << notes_.back().text;
  quiesced_by({0, 1});
  quiesced_without_worker(2, {});
  restored_by_all();
  EXPECT_EQ(members(), (std::vector<uint32_t>{0, 1}));
  fatal(2, Epoch{});  // tried once more
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning);
  fatal(1, coordinator_->epoch());
  EXPECT_EQ(noted("job_failed"), 1U) << "a member's error is the job's";
}

TEST_F(Failures, ANodeWhoseArenaIsTooSmallTakesNoPartAndIsNamed) {
  begin(small_job(3));
  step_done_by_all(0);
  disconnect(2);
  comm_broken(0);
  pass(400);
  arenas_[2] = 1 << 16;
  connect(2);
  ASSERT_EQ(noted("kept_out"), 1U);
  EXPECT_NE(notes_.back().text.find("node-2"), std::string::npos) << notes_.back().text;
  state_ = {Version(1), Epoch{7, 1}};
  for (const uint32_t n : {0U, 1U, 2U}) quiesced(n);
  restored_by_all();
  EXPECT_EQ(members(), (std::vector<uint32_t>{0, 1})) << "node-2's captures would never be whole";
  connect(2);
  EXPECT_EQ(noted("kept_out"), 1U) << "it was said";
  // With more room it comes.
  arenas_.erase(2);
  connect(2);
  quiesced(2);
  for (const uint32_t n : members()) replicated(n, *last<CommandCapture>(n));
  step_done_by_all(1);
  pass(100);
  ASSERT_TRUE(last<CommandStopAt>(0));
  EXPECT_TRUE(last<CommandStopAt>(0)->step);
}

TEST_F(Failures, AHolderThatIsGoneSinceTheCoordinatorStartedAnewIsReplaced) {
  domains_ = {{0, "rack"}, {1, "rack"}};
  begin(small_job(2), {2, 3});
  const auto holder_of = [&](uint32_t n) { return coordinator_->view()->members[n].holders; };
  ASSERT_EQ(holder_of(0), std::vector<NodeId>{node(2)});
  ASSERT_EQ(holder_of(1), std::vector<NodeId>{node(3)});
  coordinator_.emplace(CoordinatorOptions{}, now_ms_, coordinator_->epoch(),
                       std::vector<JobRecord>{stored_});
  connect(3);
  for (const uint32_t n : {0U, 1U}) connect(n, {report(train::WorkerPhase::kRunning, 4)});
  ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  EXPECT_FALSE(coordinator_->is_protected());
  pass(9'000);
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning) << "its daemon may be on its way";
  pass(2'000);
  ASSERT_EQ(coordinator_->phase(), Phase::kGathering);
  quiesced_by({0, 1});
  quiesced_without_worker(3, {});
  restored_by_all();
  for (const uint32_t n : {0U, 1U}) EXPECT_EQ(holder_of(n), std::vector<NodeId>{node(3)});
}

TEST_F(Failures, WaitsForNodesGrowWithTheirBytes) {
  conf::JobConfig job = small_job(2);
  job.model.width = 1024;
  job.model.expert_width = 8192;  // 2 experts: 50 million parameters, 600 MB
  for (const uint32_t n : {0U, 1U}) arenas_[n] = uint64_t{8} << 30;
  begin(job);
  feed(WorkerChanged{node(0), sessions_[0], {0, false, {}, {}, {}, {}}, "killed"});
  quiesced(0);
  pass(5'500);
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering) << "node-1 checks its arena, 1.8 GB";
  pass(4'000);
  EXPECT_EQ(coordinator_->phase(), Phase::kRestoring) << "without it";
  pass(30'500);
  EXPECT_EQ(coordinator_->phase(), Phase::kRestoring) << "node-0 fetches 600 MB";
  pass(10'000);
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering);
}

TEST_F(Failures, AJobThatNobodyCanOpenFails) {
  connect(0);
  connect(1);
  feed(SubmitJob{1, small_job(2)});
  quiesced_without_worker(0, {});
  quiesced_without_worker(1, {});
  fatal(0, Epoch{});
  EXPECT_EQ(noted("job_failed"), 0U);
  fatal(1, Epoch{});
  ASSERT_EQ(noted("job_failed"), 1U);
  EXPECT_EQ(stored_.state, JobState::kFailed);
  EXPECT_NE(stored_.detail.find("no such file"), std::string::npos) << stored_.detail;
}

// A worker of the view says so, its process ends, and another is there in no time.
class DeviceFailures : public Failures {
 protected:
  void leaves(uint32_t n, ErrorCode code) {
    fatal(n, Epoch{}, code);
    feed(WorkerChanged{node(n), sessions_[n], {0, false, {}, {}, {}, {}}, "it left"});
    feed(WorkerChanged{node(n), sessions_[n], report(train::WorkerPhase::kIdle), "it came"});
  }
};

TEST_F(DeviceFailures, AMemberWhoseDeviceFailsIsLeftOutAndTheJobGoesOn) {
  begin(small_job(2));  // even before its first step
  leaves(1, ErrorCode::kDeviceFailed);
  quiesced_by({0, 1});
  restored_by_all();
  EXPECT_EQ(members(), std::vector<uint32_t>{0});
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning);
  EXPECT_EQ(noted("kept_out"), 1U);
}

TEST_F(DeviceFailures, AFirstStepThatTheMemoryDoesNotSufficeForFailsTheJob) {
  begin(small_job(2));
  leaves(1, ErrorCode::kDeviceMemory);
  EXPECT_EQ(noted("job_failed"), 0U) << "the other may have more";
  quiesced_by({0, 1});
  restored_by_all();
  EXPECT_EQ(members(), std::vector<uint32_t>{0});
  leaves(0, ErrorCode::kDeviceMemory);
  ASSERT_EQ(noted("job_failed"), 1U);
  EXPECT_EQ(stored_.state, JobState::kFailed);
  EXPECT_NE(stored_.detail.find("HF-852"), std::string::npos) << stored_.detail;
}

TEST_F(DeviceFailures, OnceAStepWasDoneTheOthersGoOnWithTheirMemory) {
  begin(small_job(2));
  step_done_by_all(0);
  state_ = {Version(1), coordinator_->epoch()};
  leaves(1, ErrorCode::kDeviceMemory);
  quiesced_by({0, 1});
  restored_by_all();
  EXPECT_EQ(members(), std::vector<uint32_t>{0});
  leaves(0, ErrorCode::kDeviceMemory);
  quiesced_by({0, 1});
  EXPECT_EQ(coordinator_->phase(), Phase::kGathering) << "it waits for somebody with memory";
  pass(31'000);
  restored_by_all();
  EXPECT_EQ(coordinator_->phase(), Phase::kRunning);
  EXPECT_EQ(noted("job_failed"), 0U);
  // Whoever leaves again and again is asked less and less often.
  for (const uint32_t n : members()) leaves(n, ErrorCode::kDeviceMemory);
  EXPECT_TRUE(std::any_of(notes_.begin(), notes_.end(), [](const EventRecord& e) {
    return e.kind == "kept_out" && e.text.find("stays out for 60000 ms") != std::string::npos;
  }));
}

TEST_F(DeviceFailures, AResumedJobDoesNotFailOfOneWorkersMemory) {
  begin(small_job(3));
  step_done_by_all(0);
  for (const uint32_t n : members())
    if (const auto named = last<CommandCapture>(n)) replicated(n, *named);
  ASSERT_GT(coordinator_->safe().version, Version(0));
  state_ = coordinator_->safe();
  feed(StopJob{1, JobId("a")});
  for (const uint32_t n : {0U, 1U, 2U}) disconnect(n);
  pass(11'000);
  ASSERT_EQ(stored_.state, JobState::kStopped);
  for (const uint32_t n : {0U, 1U, 2U}) connect(n);
  feed(ResumeJob{2, JobId("a")});
  quiesced_by({0, 1, 2});
  restored_by_all();
  leaves(2, ErrorCode::kDeviceMemory);
  quiesced_by({0, 1, 2});
  restored_by_all();
  EXPECT_EQ(noted("job_failed"), 0U);
  EXPECT_EQ(members(), (std::vector<uint32_t>{0, 1}));
}

TEST_F(Failures, AnErrorOfAnOlderEpochFailsNothing) {
  begin(small_job(2));
  step_done_by_all(0);
  const Epoch before = coordinator_->epoch();
  feed(WorkerChanged{node(1), sessions_[1], {0, false, {}, {}, {}, {}}, "killed"});
  ASSERT_GT(coordinator_->epoch(), before);
  fatal(0, before, ErrorCode::kLossNotFinite);
  EXPECT_EQ(noted("job_failed"), 0U);
  EXPECT_EQ(noted("kept_out"), 0U);
}

TEST_F(Failures, AllThatAreThereMakeAViewThoughTheirArenasAreSmall) {
  begin(small_job(2));
  step_done_by_all(0);
  for (const uint32_t n : {0U, 1U}) {
    disconnect(n);
    arenas_[n] = 1 << 16;
  }
  comm_broken(0);
  state_ = {Version(1), Epoch{7, 1}};
  for (const uint32_t n : {0U, 1U}) connect(n);
  pass(11'000);
  quiesced_by({0, 1});
  EXPECT_EQ(coordinator_->phase(), Phase::kRestoring);
  EXPECT_EQ(noted("kept_out"), 2U);
}

TEST_F(Failures, AJobStartsWithoutTheNodeThatCannotOpenIt) {
  connect(0);
  connect(1);
  feed(SubmitJob{1, small_job(2)});
  fatal(0, Epoch{});
  quiesced_without_worker(0, {});
  quiesced(1);
  pass(20'000);
  EXPECT_EQ(members(), std::vector<uint32_t>{1});
}

}  // namespace
}  // namespace holdfast::daemon
