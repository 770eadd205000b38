// Numbers that are too large for what they must go into, or none at all, end the step with an error.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/train/step/lanes_harness.h"

namespace holdfast::train {
namespace {

const float kLargest = std::nextafter(static_cast<float>(kFixedPointLimit), 0.0F);

StageMap map_of(const conf::JobConfig& job, const ParameterLayout& layout, uint32_t lane,
                uint32_t lanes) {
  return {&layout,
          place_static(job.model.layers, job.model.experts, lanes,
                       slots_per_lane(job.slots(), job.model.experts, lanes)),
          std::vector<uint32_t>(layout.shard_count(), 0),
          lane,
          lanes,
          whole_model(job.model)};
}

using Backend = CpuBackend<float>;

class Overflow : public ::testing::Test {
 protected:
  using Sums = Gradients<Backend>;
  std::unique_ptr<Sums> zeros(uint32_t lane, uint32_t lanes) {
    auto sums = std::make_unique<Sums>(cpu_, true);
    sums->reset(map_of(job_, layout_, lane, lanes));
    return sums;
  }
  // One micro-batch's share for one element of the head.
  Status commit(Sums& gradients, float value) {
    float* share = gradients.begin(layout_.head()).at;
    std::fill_n(share, layout_.group(layout_.head()).elements, 0.0F);
    share[3] = value;
    return gradients.commit(layout_.head());
  }

  kernels::Cpu cpu_;

  const conf::JobConfig job_ = small_job(true);
  const ParameterLayout layout_{job_.model, job_.slices()};
};

TEST_F(Overflow, AShareThatFixedPointDoesNotTakeIsAnError) {
  const float limit = static_cast<float>(kFixedPointLimit);
  for (const float bad : {limit, -limit, 2 * limit, std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    const Status done = commit(*zeros(0, 1), bad);
    ASSERT_FALSE(done) << bad;
    EXPECT_EQ(done.error().code, ErrorCode::kGradientOverflow);
  }
  for (const float good : {kLargest, -kLargest, 0.0F}) {
    EXPECT_TRUE(commit(*zeros(0, 1), good)) << good;
  }
}

TEST_F(Overflow, ASumOfMicroBatchesThatDoesNotFitIsAnError) {
  const auto gradients = zeros(0, 1);
  EXPECT_TRUE(commit(*gradients, kLargest));
  EXPECT_TRUE(commit(*gradients, kLargest));  // just below 2^63 steps
  EXPECT_EQ(commit(*gradients, kLargest).error().code, ErrorCode::kGradientOverflow);
}

TEST_F(Overflow, ASumOverLanesThatDoesNotFitIsAnErrorOfTheOwner) {
  auto comms = make_in_process_group(2, 20'000);
  std::vector<Status> said(2);
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < 2; ++lane)
    threads.emplace_back([&, lane] {
      const StageMap map = map_of(job_, layout_, lane, 2);
      const auto gradients = zeros(lane, 2);
      CHECK(commit(*gradients, kLargest) && commit(*gradients, kLargest));
      HostPayload payload(*comms[lane]);
      kernels::Cpu cpu;
      Reducer<Backend> reducer(cpu);
      const Status reduced = reducer.reduce(payload, map, *gradients);
      if (!reduced) {
        said[lane] = fail(reduced.error());
        comms[lane]->abort();
      }
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_FALSE(said[0]);  // owns every shard
  EXPECT_EQ(said[0].error().code, ErrorCode::kGradientOverflow);
}

TEST_F(Overflow, AGradientTooLargeForTheNormIsAnError) {
  const StageMap map = map_of(job_, layout_, 0, 1);
  auto comms = make_in_process_group(1, 20'000);
  const auto norm_of = [&](float value) -> Result<double> {
    const auto gradients = zeros(0, 1);
    RETURN_IF_ERROR(commit(*gradients, value));
    HostPayload payload(*comms[0]);
    Reducer<Backend> reducer(cpu_);
    RETURN_IF_ERROR(reducer.reduce(payload, map, *gradients));
    return reducer.norm(*comms[0], layout_, map.owner_lane);
  };
  EXPECT_EQ(norm_of(0x1p14F).error().code, ErrorCode::kGradientOverflow);
  EXPECT_EQ(norm_of(-0x1p14F).error().code, ErrorCode::kGradientOverflow);
  const float below = std::nextafter(0x1p14F, 0.0F);
  const auto norm = norm_of(below);
  ASSERT_TRUE(norm) << norm.error().to_string();
  EXPECT_DOUBLE_EQ(*norm, below);
}

// A lane whose state has `value` for every weight of one group, all else initial.
Error step_with(bool reproducible, GroupKind kind, float value) {
  const conf::JobConfig job = small_job(reproducible);
  const ParameterLayout layout(job.model, job.slices());
  LaneProcess lane(job);
  open_lane(lane, plan_view(job, {0}), 0);
  for (const GroupSpec& group : layout.groups()) {
    if (group.kind != kind) continue;
    for (uint32_t slice = 0; slice < job.slices(); ++slice) {
      const ShardId shard{group.index, SliceIndex(slice)};
      std::vector<float> state(layout.range(shard).size() * 3);
      std::fill_n(state.begin(), layout.range(shard).size(), value);
      CHECK(lane.trainer.load_shard(shard.flat(job.slices()), std::as_bytes(std::span(state)))
                .has_value());
      CHECK(lane.trainer.finish_loading().has_value());
    }
  }
  Error said{ErrorCode::kInternal, "no error"};
  run_lanes({&lane}, [&](LaneProcess& l, ViewCommunicator& comm, uint32_t) {
    const auto done = l.trainer.run_step(comm, Step(0));
    if (!done) said = done.error();
    CHECK(l.trainer.current().version == Version(0));
    CHECK(!l.trainer.take_finished());
  });
  return said;
}

TEST(LossNotFinite, EndsTheStepAndMakesNoVersion) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const GroupKind kind : {GroupKind::kHead, GroupKind::kAttention, GroupKind::kExpert,
                               GroupKind::kRouter, GroupKind::kEmbedding}) {
    for (const float bad : {inf, std::numeric_limits<float>::quiet_NaN()}) {
      const Error said = step_with(false, kind, bad);
      EXPECT_EQ(said.code, ErrorCode::kLossNotFinite) << said.to_string();
      const Error exact = step_with(true, kind, bad);
      EXPECT_TRUE(exact.code == ErrorCode::kLossNotFinite ||
                  exact.code == ErrorCode::kGradientOverflow)
          << exact.to_string();
    }
  }
}

}  // namespace
}  // namespace holdfast::train
