// Training in stages on accelerators, members as threads: through host memory where they share one, by NCCL
// where each has its own; to the bit what one stage of as many lanes gives, and members that are lost in
// mid-step.
//
// How many lanes share a stage decides which rows are summed together. In bf16 such a difference flips a
// router's choice sooner or later and then grows: at this learning rate to more than 1% after a dozen steps,
// which would hide a fault. So runs of other lanes are compared over their first steps only, tightly, and
// every other comparison is of bits.
#include <barrier>
#include <thread>

#include "base/mutex.h"
#include "tests/train/step/cuda_lanes.h"
#include "tests/train/step/pipeline_harness.h"

namespace holdfast::train {
namespace {

// Eight micro-batches of four layers, however they are spread.
conf::JobConfig stages_job(uint32_t pipelines, uint32_t stages) {
  conf::JobConfig job = cuda_job();
  job.pipelines = pipelines;
  job.stages = stages;
  job.micro_batches = 8 / pipelines;
  job.model.layers = 4;
  job.evaluate_every = 4;
  job.evaluate_micro_batches = 7;
  return job;
}

LanesRun train_stages(const conf::JobConfig& job, const std::vector<uint32_t>& ordinals,
                      uint64_t steps, std::string& path) {
  return train_members(job, plan_stages(job, all_lanes(job)), ordinals, steps, path);
}

// From the same state on, of as many lanes.
void expect_same(const std::vector<StepDone>& steps, const std::vector<StepDone>& whole,
                 size_t count) {
  ASSERT_GE(steps.size(), count);
  ASSERT_GE(whole.size(), count);
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(steps[i].loss, whole[i].loss) << "step " << i;
    EXPECT_EQ(steps[i].gradient_norm, whole[i].gradient_norm) << "step " << i;
    EXPECT_EQ(steps[i].load_balance_loss, whole[i].load_balance_loss) << "step " << i;
    EXPECT_EQ(steps[i].popularity, whole[i].popularity) << "step " << i;
    EXPECT_EQ(steps[i].tokens, whole[i].tokens) << "step " << i;
    EXPECT_EQ(steps[i].held_out_loss, whole[i].held_out_loss) << "step " << i;
  }
}
void expect_same(const LanesRun& run, const LanesRun& whole) {
  ASSERT_EQ(run.steps.size(), whole.steps.size());
  expect_same(run.steps, whole.steps, whole.steps.size());
}

constexpr uint64_t kFirst = 5;  // before rounding grows

// The first steps within 1e-3, all others within 1%.
void expect_near(const std::vector<StepDone>& steps, const std::vector<StepDone>& whole) {
  ASSERT_EQ(steps.size(), whole.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const double most = i < kFirst ? 1e-3 : 1e-2;
    EXPECT_NEAR(steps[i].loss, whole[i].loss, most * whole[i].loss) << "step " << i;
    EXPECT_NEAR(steps[i].gradient_norm, whole[i].gradient_norm,
                10 * most * whole[i].gradient_norm)
        << "step " << i;
    EXPECT_EQ(steps[i].tokens, whole[i].tokens);
    ASSERT_EQ(steps[i].held_out_loss.has_value(), whole[i].held_out_loss.has_value());
    if (steps[i].held_out_loss) {
      EXPECT_NEAR(*steps[i].held_out_loss, *whole[i].held_out_loss, 1e-2 * whole[i].loss);
    }
  }
}

// `pipelines` lanes on one device.
LanesRun one_stage(uint32_t pipelines, uint64_t steps) {
  std::string path;
  return train_lanes(stages_job(pipelines, 1), std::vector<uint32_t>(pipelines, 0), steps, path);
}
// Through host memory, on one device.
LanesRun two_by_two(uint64_t steps) {
  std::string path;
  return train_stages(stages_job(2, 2), {0, 0, 0, 0}, steps, path);
}

constexpr uint64_t kSteps = 20;
class CudaStages : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(CudaStages, ThatShareADeviceGiveTheBitsOfOneStage) {
  for (const auto& [pipelines, stages] : {std::pair{1, 2}, {1, 4}, {2, 2}}) {
    SCOPED_TRACE(testing::Message() << "D " << pipelines << " S " << stages);
    const LanesRun whole = one_stage(pipelines, kSteps);
    EXPECT_LT(whole.steps.back().loss, 0.9 * whole.steps.front().loss);
    const conf::JobConfig job = stages_job(pipelines, stages);
    std::string path;
    const LanesRun run = train_stages(job, std::vector<uint32_t>(job.workers(), 0), kSteps, path);
    EXPECT_EQ(path.rfind("FOR TESTING ONLY", 0), 0U) << path;
    expect_same(run, whole);
  }
}

// That two lanes sum in another order is all that is between these.
TEST_F(CudaStages, OfTwoPipelinesAgreeWithOneUpToRounding) {
  const LanesRun alone = one_stage(1, kFirst), lanes = one_stage(2, kFirst);
  expect_near(lanes.steps, alone.steps);
  expect_near(two_by_two(kFirst).steps, alone.steps);
}

TEST_F(CudaStages, DropTheSameChoicesInCapacityMode) {
  const auto job_of = [](uint32_t pipelines, uint32_t stages) {
    conf::JobConfig job = stages_job(pipelines, stages);
    job.routing = "capacity";
    job.capacity_factor = 0.7;
    job.slots_per_worker = 4 / pipelines;
    return job;
  };
  std::string path;
  const LanesRun whole = train_lanes(job_of(1, 1), {0}, 5, path);
  EXPECT_GT(whole.steps[0].tokens_dropped, 0U);
  for (const uint32_t pipelines : {1U, 2U}) {
    const conf::JobConfig job = job_of(pipelines, 2);
    const LanesRun run = train_stages(job, std::vector<uint32_t>(job.workers(), 0), 5, path);
    expect_near(run.steps, whole.steps);
    // Of the very same weights; products of other shapes may round another way.
    if (pipelines == 1) {
      EXPECT_EQ(run.steps[0].dropped, whole.steps[0].dropped);
    }
  }
}

TEST_F(CudaStages, OverNcclGiveTheBitsOfThoseOverHostMemory) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = stages_job(1, 2);
  std::string staged, direct;
  const LanesRun shared = train_stages(job, {0, 0}, kSteps, staged);
  const LanesRun apart = train_stages(job, {0, 1}, kSteps, direct);
  EXPECT_NE(direct.find("NCCL"), std::string::npos) << direct;
  EXPECT_EQ(direct.find("FOR TESTING"), std::string::npos) << direct;
  expect_same(apart, shared);
  expect_near(apart.steps, one_stage(1, kSteps).steps);
}

// Without clipping the norm is of no consequence, and stages that do not wait for each other make the same steps.
TEST_F(CudaStages, ThatUpdateByThemselvesAgreeWithOneStage) {
  conf::JobConfig job = stages_job(1, 2), one = stages_job(1, 1);
  job.optimizer.clip_by = "stage";
  job.optimizer.clip = one.optimizer.clip = 0;
  std::string path;
  const LanesRun whole = train_lanes(one, {0}, kSteps, path);
  expect_near(train_stages(job, {0, 0}, kSteps, path).steps, whole.steps);
  if (!missing_devices(2).empty()) return;
  expect_near(train_stages(job, {0, 1}, kSteps, path).steps, whole.steps);
  EXPECT_NE(path.find("NCCL"), std::string::npos) << path;
}

TEST_F(CudaStages, OfSeveralPipelinesGoThroughHostMemoryWhereAnyTwoShareADevice) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = stages_job(2, 2);
  std::string path;
  const LanesRun run = train_stages(job, {0, 1, 0, 1}, kSteps, path);
  EXPECT_EQ(path.rfind("FOR TESTING ONLY", 0), 0U) << path;
  expect_same(run, two_by_two(kSteps));
}

TEST_F(CudaStages, OfTwoPipelinesOverNcclGiveTheBitsOfThoseOverHostMemory) {
  if (const std::string why = missing_devices(4); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = stages_job(2, 2);
  std::string path;
  const LanesRun run = train_stages(job, {0, 1, 2, 3}, kSteps, path);
  EXPECT_NE(path.find("NCCL"), std::string::npos) << path;
  expect_same(run, two_by_two(kSteps));
}

// ---- members that are lost ------------------------------------------------------------------------

// Three views of three steps each: all members; without the last one, which goes in the middle of a step;
// all again. Members are numbered as in the first view.
class ThreeViews {
 public:
  ThreeViews(const conf::JobConfig& job, std::vector<uint32_t> ordinals, LanesByStage without_last,
             double at)
      : job_(job),
        ordinals_(std::move(ordinals)),
        count_(static_cast<uint32_t>(ordinals_.size())),
        goes_at_(at),
        meet_(count_),
        calls_(count_) {
    const LanesByStage all = all_lanes(job);
    plans_ = {plan_stages(job, all),
              plan_stages(job, without_last, {Version(3), {1, 1}}, {1, 2}),
              plan_stages(job, all, {Version(6), {1, 2}}, {1, 3})};
    for (size_t v = 0; v < 3; ++v)
      comms_.push_back(make_in_process_group(static_cast<uint32_t>(plans_[v].coordinates.size()),
                                             60'000));
    aborts_.resize(count_);
  }

  std::vector<StepDone> run() {
    on_threads(count_, [this](uint32_t m) { run_member(m); });
    return steps_;
  }

 private:
  bool is_in(uint32_t member, size_t view) const {
    return member < plans_[view].coordinates.size();
  }

  void run_member(uint32_t m) {
    const std::thread::id self = std::this_thread::get_id();
    CudaLane lane(job_, ordinals_[m], m, [&, m](Step, uint32_t, bool) {
      if (std::this_thread::get_id() == self) on_progress(m);
    });
    aborts_[m] = &lane.abort;
    for (size_t view = 0; view < 3; ++view) {
      meet_.arrive_and_wait();  // the state is whole, and all have left the view before
      if (is_in(m, view)) {
        lane.begin(plans_[view], *comms_[view][m], state_);
        take_steps(lane, m, view);
        save(lane, Version(3 * (view + 1)));
      }
      meet_.arrive_and_wait();
      if (view == 0) lose_the_last(lane, m);
    }
  }

  void take_steps(CudaLane& lane, uint32_t m, size_t view) {
    for (uint64_t s = 3 * view; s < 3 * view + 3; ++s) {
      calls_[m] = 0;
      const StepDone done = lane.step(*comms_[view][m], s);
      if (m == 0) steps_.push_back(done);
    }
  }

  // As the arenas of the members' nodes would have it.
  void save(CudaLane& lane, Version version) {
    const MutexLock lock(mutex_);
    for (const uint32_t shard : lane.trainer->owned()) {
      if (state_.size() <= shard) state_.resize(shard + 1);
      state_[shard] = read_state(*lane.trainer, shard, version);
    }
  }

  // A step that the last member leaves at a part of its calls: as a process that ends, it says nothing.
  void lose_the_last(CudaLane& lane, uint32_t m) {
    // At the end of its rounds at the latest: before losses and norms are brought together, without which
    // nobody has an update.
    const uint64_t in_rounds = calls_[m] - lane.trainer->owned().size() - 3;
    if (m + 1 == count_) leaves_at_ = 1 + static_cast<uint64_t>(goes_at_ * double(in_rounds - 1));
    calls_[m] = 0;
    const auto begun = std::chrono::steady_clock::now();
    const auto broken = lane.trainer->run_step(*comms_[0][m], Step(3));
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10)) << "member " << m;
    EXPECT_FALSE(broken) << "member " << m;
    EXPECT_EQ(lane.trainer->current(), (StateVersion{Version(3), {1, 1}}));
    EXPECT_FALSE(lane.trainer->take_finished());
    if (m + 1 == count_) {
      EXPECT_EQ(leaves_at_, 0U) << "it has left";
    }
    // What it saw first is the workers' to tell; then the view ends for all of them.
    lane.abort.set();
    comms_[0][m]->abort();
  }
  void on_progress(uint32_t m) {
    ++calls_[m];
    if (m + 1 != count_ || leaves_at_ == 0 || calls_[m] != leaves_at_) return;
    leaves_at_ = 0;
    // Over NCCL a device may wait for bytes that were promised: daemons end the view for all, as they do.
    const bool for_all = ordinals_.front() != ordinals_.back();
    for (uint32_t other = for_all ? 0 : m; other < count_; ++other) {
      aborts_[other]->set();
      comms_[0][other]->abort();
    }
  }

  const conf::JobConfig job_;
  const std::vector<uint32_t> ordinals_;
  const uint32_t count_;
  const double goes_at_;
  std::barrier<> meet_;
  std::vector<ViewPlan> plans_;
  std::vector<std::vector<std::unique_ptr<ViewCommunicator>>> comms_;  // by view
  std::vector<uint64_t> calls_;  // of a step so far, by member
  std::vector<AbortWord*> aborts_;
  uint64_t leaves_at_ = 0;  // of the last member, whose thread alone touches it
  Mutex mutex_;  // of the state while members add to it
  std::vector<Payload> state_;
  std::vector<StepDone> steps_;
};

constexpr double kParts[] = {0, 0.2, 0.4, 0.6, 0.8, 1};

// Until the loss the bits of the unbroken run, and whatever the part at which the member went, the same
// bits after it: what it began leaves no trace. A stage with one lane less sums in another order.
void expect_recovered(const std::vector<StepDone>& steps, const LanesRun& unbroken) {
  expect_same(steps, unbroken.steps, 3);
  expect_near(steps, unbroken.steps);
}

TEST_F(CudaStages, LoseAndRegainAMemberThroughHostMemory) {
  const LanesRun unbroken = two_by_two(9);
  const conf::JobConfig job = stages_job(2, 2);
  std::vector<StepDone> first;
  for (const double at : kParts) {
    SCOPED_TRACE(at);
    const std::vector<StepDone> steps =
        ThreeViews(job, {0, 0, 0, 0}, {{0, 1}, {0}}, at).run();
    expect_recovered(steps, unbroken);
    if (first.empty()) first = steps;
    expect_same(steps, first, 9);
  }
}

TEST_F(CudaStages, LoseAndRegainAMemberOnTwoDevices) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  expect_recovered(ThreeViews(stages_job(2, 2), {0, 1, 1, 0}, {{0, 1}, {0}}, 0.5).run(),
                   two_by_two(9));
}

// Its process ends and another takes its place: a stage with one lane cannot do without.
TEST_F(CudaStages, LoseAMemberOverNcclAndGoOnToTheSameBits) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = stages_job(1, 2);
  std::string path;
  const LanesRun unbroken = train_stages(job, {0, 1}, 9, path);
  for (const double at : kParts) {
    SCOPED_TRACE(at);
    const std::vector<StepDone> steps = ThreeViews(job, {0, 1}, {{0}, {0}}, at).run();
    ASSERT_EQ(steps.size(), 9U);
    expect_same(steps, unbroken.steps, 9);
  }
}

}  // namespace
}  // namespace holdfast::train
