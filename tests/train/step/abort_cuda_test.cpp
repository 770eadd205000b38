// A view ends while an accelerator has the update before it: no version comes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>

#include "tests/cuda_devices.h"
#include "tests/train/step/lanes_harness.h"
#include "train/kernels/device_cuda.cuh"

namespace holdfast::train {
namespace {

// What the device does next is to wait until let go.
class Stall {
 public:
  explicit Stall(kernels::Cuda& cuda) {
    EXPECT_EQ(
        cudaLaunchHostFunc(
            cuda.impl().stream,
            [](void* stall) { static_cast<Stall*>(stall)->released_.get_future().wait(); }, this),
        cudaSuccess);
  }
  void release() { released_.set_value(); }

 private:
  std::promise<void> released_;
};

// A lane that is alone, on an accelerator, over which the test can hold its hand.
class AbortedUpdate : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
    auto opened = kernels::Cuda::open(0);
    cuda_ = opened->get();
    job_.model.width = 128;
    job_.model.expert_width = 64;
    job_.model.context = 64;
    job_.model.heads = 2;
    job_.model.kv_heads = 1;
    job_.evaluate_every = 0;
    job_.evaluate_micro_batches = 0;
    trainer_ = std::make_unique<LaneTrainer<CudaBackend>>(
        std::move(*opened), job_, made_up_text(job_), abort_,
        [this](Step, uint32_t, bool) { on_progress(); });
    plan_ = plan_view(job_, {0});
    open();
    for (const uint32_t shard : trainer_->owned()) ASSERT_TRUE(trainer_->init_shard(shard));
    ASSERT_TRUE(trainer_->finish_loading());
    const Status made = trainer_->materialize(*comm_);
    ASSERT_TRUE(made) << made.error().to_string();
  }
  void open() {
    comm_ = std::move(make_in_process_group(1, 20'000)[0]);
    abort_.clear();
    ASSERT_TRUE(trainer_->open_view(plan_.view_of(0)));
  }
  StepDone step(uint64_t number) {
    const auto done = run_counted(number);
    EXPECT_TRUE(done) << done.error().to_string();
    calls_of_a_step_ = calls_;
    return done.value_or(StepDone{});
  }
  std::vector<Payload> state(Version version) {
    std::vector<Payload> all;
    for (const uint32_t shard : trainer_->owned())
      all.push_back(read_state(*trainer_, shard, version));
    return all;
  }

  // A step tells of its progress equally often each time. The last calls are: the update begins, it
  // may write, it takes each shard, it is enqueued.
  void on_progress() {
    ++calls_;
    if (!armed_) return;
    if (calls_ + trainer_->owned().size() + 2 == calls_of_a_step_) {
      stall_ = std::make_unique<Stall>(*cuda_);
    } else if (calls_ == calls_of_a_step_) {
      EXPECT_EQ(cudaStreamQuery(cuda_->impl().stream), cudaErrorNotReady);
      static_cast<void>(cudaGetLastError());
      enqueued_ = true;
      if (abort_then_) abort_.set();
      armed_ = false;
      stall_->release();
    }
  }
  Result<StepDone> run_counted(uint64_t number) {
    calls_ = 0;
    return trainer_->run_step(*comm_, Step(number));
  }

  conf::JobConfig job_ = small_job(false);
  ViewPlan plan_;
  AbortWord abort_;
  std::unique_ptr<ViewCommunicator> comm_;
  kernels::Cuda* cuda_ = nullptr;
  std::unique_ptr<Stall> stall_;
  bool armed_ = false, abort_then_ = false, enqueued_ = false;
  size_t calls_ = 0, calls_of_a_step_ = 0;
  std::unique_ptr<LaneTrainer<CudaBackend>> trainer_;
};

TEST_F(AbortedUpdate, ThatTheDeviceHasNotReachedMakesNoVersion) {
  step(0);
  step(1);
  const std::vector<Payload> before = state(Version(2));
  armed_ = abort_then_ = true;
  const auto aborted = run_counted(2);
  EXPECT_TRUE(enqueued_);
  ASSERT_FALSE(aborted);
  EXPECT_EQ(aborted.error().code, ErrorCode::kCommAborted) << aborted.error().to_string();
  EXPECT_FALSE(trainer_->take_finished());

  EXPECT_EQ(trainer_->current(), (StateVersion{Version(2), plan_.epoch}));
  const std::vector<HeldShards> held = trainer_->held();
  ASSERT_EQ(held.size(), 1U) << "the version before went when the update began, and none came";
  EXPECT_EQ(held[0].state.version, Version(2));
  EXPECT_EQ(trainer_->protect_version(Version(3), 0), nullptr);
  EXPECT_EQ(state(Version(2)), before);
}

// The same step again, in a view that begins where the aborted one stood, gives the same numbers as
// if nothing had happened: neither state nor weights had moved.
TEST_F(AbortedUpdate, LeavesNoTraceInTheStepThatIsRunAgain) {
  StepDone first, third;
  step(0);
  first = step(1);
  armed_ = abort_then_ = true;
  ASSERT_FALSE(run_counted(2));
  plan_.base = {Version(2), plan_.epoch};
  plan_.epoch.number = 2;
  open();
  ASSERT_TRUE(trainer_->materialize(*comm_));
  const StepDone again = step(2);
  third = step(3);
  const std::vector<Payload> after = state(Version(4));

  plan_ = plan_view(job_, {0});
  open();
  for (const uint32_t shard : trainer_->owned()) ASSERT_TRUE(trainer_->init_shard(shard));
  ASSERT_TRUE(trainer_->finish_loading());
  ASSERT_TRUE(trainer_->materialize(*comm_));
  step(0);
  EXPECT_EQ(step(1).loss, first.loss);
  const StepDone unbroken = step(2);
  EXPECT_EQ(unbroken.loss, again.loss);
  EXPECT_EQ(unbroken.gradient_norm, again.gradient_norm);
  EXPECT_EQ(step(3).loss, third.loss);
  EXPECT_EQ(state(Version(4)), after);
}

// That the stall alone changes nothing: what the tests above see is the abort's doing.
TEST_F(AbortedUpdate, IsMadeWhereTheDeviceWasOnlySlow) {
  step(0);
  armed_ = true;
  step(1);
  EXPECT_TRUE(enqueued_);
  EXPECT_EQ(trainer_->current().version, Version(2));
}

// What was noticed first may be anything; what held() lists cannot be read any more.
TEST_F(AbortedUpdate, IsOfNoInterestOnceTheDeviceIsBroken) {
  step(0);
  EXPECT_TRUE(trainer_->check_device());
  cuda_->impl().failed("a kernel", "an illegal address");
  abort_.set();
  const auto done = run_counted(1);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kDeviceFailed) << done.error().to_string();
  const Status usable = trainer_->check_device();
  ASSERT_FALSE(usable);
  EXPECT_EQ(usable.error().code, ErrorCode::kDeviceFailed);
  EXPECT_NE(usable.error().message.find("an illegal address"), std::string::npos);
}

}  // namespace

// A reduction and the update wait in the device's queue when the word is set.
TEST(QueuedUpdate, WritesNothingOnceTheAbortWordIsSet) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  auto opened = kernels::Cuda::open(0);
  kernels::Cuda& cuda = **opened;
  constexpr size_t kElements = 100'003;
  const auto filled = [&](float value) {
    const std::vector<float> host(kElements, value);
    DeviceBuffer<float> device(kElements);
    upload_now(cuda, host.data(), kElements * sizeof(float), device.data());
    return device;
  };
  const auto is_still = [&](const DeviceBuffer<float>& at, float value) {
    PinnedBuffer<float> host(kElements);
    download(cuda, at.data(), kElements, host.data());
    EXPECT_TRUE(cuda.finish());
    return std::all_of(host.data(), host.data() + kElements, [&](float x) { return x == value; });
  };
  DeviceBuffer<float> now = filled(1), received = filled(2), sum = filled(0);
  const kernels::AdamwConstants constants{.beta1 = 0.9F,
                                          .beta2 = 0.95F,
                                          .epsilon = 1e-8F,
                                          .rate = 1e-3F,
                                          .gradient_scale = 1,
                                          .m_correction = 1,
                                          .v_correction = 1};
  const auto enqueue = [&](DeviceBuffer<float>& next) {
    add(cuda, received.data(), kElements, sum.data());
    const kernels::AdamwRange<Bf16> range{kElements,
                                          0.1F,
                                          {now.data(), now.data(), now.data(), sum.data(),
                                           next.data(), next.data(), next.data(), nullptr}};
    adamw(cuda, constants, {&range, 1});
  };
  DeviceBuffer<float> next = filled(7);
  enqueue(next);  // and everything is loaded and has its room
  ASSERT_FALSE(is_still(next, 7)) << "it is an update";

  next = filled(7);
  sum = filled(0);
  Stall stall(cuda);
  enqueue(next);
  EXPECT_EQ(cudaStreamQuery(cuda.impl().stream), cudaErrorNotReady);
  static_cast<void>(cudaGetLastError());
  cuda.abort_word() = 1;
  stall.release();
  EXPECT_TRUE(cuda.finish());
  EXPECT_TRUE(is_still(sum, 2)) << "the reduction ran";
  EXPECT_TRUE(is_still(next, 7)) << "the update did not";
  cuda.abort_word() = 0;
}

}  // namespace holdfast::train
