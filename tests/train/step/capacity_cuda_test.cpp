// Capacity mode on accelerators: alone and between lanes, over host memory and by NCCL, against
// each other and against the CPU.
#include <numeric>

#include "tests/train/step/cuda_lanes.h"

namespace holdfast::train {
namespace {

conf::JobConfig capacity_job(double factor) {
  conf::JobConfig job = cuda_job();
  job.routing = "capacity";
  job.capacity_factor = factor;
  return job;
}

std::vector<StepDone> train_on_cpu(conf::JobConfig job, uint64_t steps) {
  job.backend = "cpu";
  const ViewPlan plan = plan_view(job, {0, 1});
  Group group(job, 2);
  for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], plan, l);
  std::vector<StepDone> told;
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t l) {
    for (uint64_t step = 0; step < steps; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      CHECK(done.has_value(), "{}", done.error().to_string());
      if (l == 0) told.push_back(*done);
    }
  });
  return told;
}

uint64_t choices_of(const conf::JobConfig& job) {
  return uint64_t{job.pipelines} * job.micro_batches * job.micro_batch_sequences *
         job.model.context * job.model.top_k * job.model.layers;
}

// Rounding to bf16 flips some choices, and with them which are dropped; no more than a few of a
// hundred.
void expect_close(const conf::JobConfig& job, const StepDone& a, const StepDone& b) {
  EXPECT_NEAR(a.loss, b.loss, 0.01 * b.loss);
  EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 0.05 * b.gradient_norm);
  EXPECT_GT(b.tokens_dropped, 0U);
  EXPECT_NEAR(static_cast<double>(a.tokens_dropped), static_cast<double>(b.tokens_dropped),
              0.02 * static_cast<double>(choices_of(job)));
}

TEST(CudaCapacity, DropsWhatTheCpuDropsAloneAndBetweenLanes) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  for (const double factor : {0.4, 0.8, 1.25}) {
    SCOPED_TRACE(testing::Message() << "factor " << factor);
    const conf::JobConfig job = capacity_job(factor);
    std::string path;
    const StepDone on_cpu = train_on_cpu(job, 1).front();
    if (on_cpu.tokens_dropped == 0) continue;  // nothing to compare
    expect_close(job, train_lanes(job, {0}, 1, path).steps.front(), on_cpu);
    expect_close(job, train_lanes(job, {0, 0}, 1, path).steps.front(), on_cpu);
    expect_close(job, train_lanes(job, {0, 0, 0, 0}, 1, path).steps.front(), on_cpu);
  }
}

// What reaches layer 0's router is the same on any number of lanes.
TEST(CudaCapacity, TheFirstLayerDropsTheSameOnAnyNumberOfLanes) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  const conf::JobConfig job = capacity_job(0.6);
  std::string path;
  const auto first_layer = [&](std::vector<uint32_t> ordinals) {
    std::vector<uint64_t> dropped = train_lanes(job, std::move(ordinals), 1, path).steps[0].dropped;
    dropped.resize(job.model.experts);
    return dropped;
  };
  const std::vector<uint64_t> alone = first_layer({0});
  EXPECT_GT(std::accumulate(alone.begin(), alone.end(), uint64_t{0}), 0U);
  EXPECT_EQ(first_layer({0, 0}), alone);
  EXPECT_EQ(first_layer({0, 0, 0}), alone);
}

TEST(CudaCapacity, WithRoomForAllGivesTheBitsOfDropless) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  std::string path;
  for (const std::vector<uint32_t>& ordinals : {std::vector<uint32_t>{0}, {0, 0}}) {
    const LanesRun roomy = train_lanes(capacity_job(100), ordinals, 3, path);
    EXPECT_EQ(roomy.losses(), train_lanes(cuda_job(), ordinals, 3, path).losses());
    EXPECT_EQ(roomy.steps.back().tokens_dropped, 0U);
  }
}

TEST(CudaCapacity, GivesTheSameBitsInEveryRunAndLearns) {
  if (const std::string why = missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  std::string path;
  for (const std::vector<uint32_t>& ordinals : {std::vector<uint32_t>{0}, {0, 0}}) {
    const std::vector<double> losses = train_lanes(capacity_job(1.25), ordinals, 10, path).losses();
    EXPECT_EQ(train_lanes(capacity_job(1.25), ordinals, 10, path).losses(), losses);
    EXPECT_LT(losses.back(), losses.front());
  }
}

TEST(CudaCapacity, OverNcclGivesTheBitsOfThatOverHostMemory) {
  if (const std::string why = missing_devices(2); !why.empty()) GTEST_SKIP() << why;
  std::string staged, direct;
  const LanesRun over_host = train_lanes(capacity_job(0.8), {0, 0}, 10, staged);
  EXPECT_GT(over_host.steps.front().tokens_dropped, 0U);
  EXPECT_EQ(train_lanes(capacity_job(0.8), {0, 1}, 10, direct).losses(), over_host.losses());
  EXPECT_NE(direct.find("NCCL"), std::string::npos) << direct;
}

}  // namespace
}  // namespace holdfast::train
