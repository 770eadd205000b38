// Capacity mode of a job: what is dropped is counted, is the same whoever is alive, and is nothing
// where there is room for all.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/train/step/lanes_harness.h"

namespace holdfast::train {
namespace {

conf::JobConfig capacity_job(bool reproducible, double factor) {
  conf::JobConfig job = small_job(reproducible);
  job.routing = "capacity";
  job.capacity_factor = factor;
  return job;
}

struct Trained {
  Losses losses;
  std::vector<StepDone> steps;  // as lane 0 reports them
};

Trained fresh_run(const conf::JobConfig& job, std::vector<uint32_t> coordinates, uint64_t steps) {
  const ViewPlan plan = plan_view(job, std::move(coordinates));
  Group group(job, static_cast<uint32_t>(plan.coordinates.size()));
  for (uint32_t l = 0; l < group.processes.size(); ++l) open_lane(*group.processes[l], plan, l);
  Trained run;
  run_lanes(group.all(), [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t l) {
    for (uint64_t step = 0; step < steps; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      CHECK(done.has_value(), "{}", done.error().to_string());
      if (l != 0) continue;
      run.losses.training.push_back(done->loss);
      run.losses.norms.push_back(done->gradient_norm);
      if (done->held_out_loss) run.losses.held_out.push_back(*done->held_out_loss);
      run.steps.push_back(*done);
    }
  });
  return run;
}

std::vector<uint64_t> dropped(const Trained& run) {
  std::vector<uint64_t> totals;
  for (const StepDone& step : run.steps) totals.push_back(step.tokens_dropped);
  return totals;
}

TEST(CapacityMode, LosesNothingToAFailureInReproducibleMode) {
  const conf::JobConfig job = capacity_job(true, 0.7);
  const Trained four = fresh_run(job, {0, 1, 2, 3}, 8);
  EXPECT_GT(four.steps.front().tokens_dropped, 0U);
  for (const std::vector<uint32_t>& alive :
       {std::vector<uint32_t>{0, 1, 2}, std::vector<uint32_t>{1, 3}, std::vector<uint32_t>{2}}) {
    const Trained run = fresh_run(job, alive, 8);
    EXPECT_EQ(run.losses, four.losses) << alive.size() << " lanes";
    EXPECT_EQ(dropped(run), dropped(four)) << alive.size() << " lanes";
  }
}

TEST(CapacityMode, WithRoomForAllGivesTheBitsOfDropless) {
  for (const bool reproducible : {false, true}) {
    const Trained dropless = fresh_run(small_job(reproducible), {0, 1, 2}, 6);
    const Trained roomy = fresh_run(capacity_job(reproducible, 1000), {0, 1, 2}, 6);
    EXPECT_EQ(roomy.losses, dropless.losses);
    EXPECT_EQ(dropped(roomy), std::vector<uint64_t>(6));
    EXPECT_EQ(roomy.steps[0].dropped, std::vector<uint64_t>(2 * 4));
    EXPECT_TRUE(dropless.steps[0].dropped.empty());
    EXPECT_EQ(roomy.steps[0].popularity, dropless.steps[0].popularity);
  }
}

// Factor 0.5: no expert takes more than half its even share, so at least half of all choices go.
TEST(CapacityMode, CountsWhatItDropsByLayerAndExpert) {
  const conf::JobConfig job = capacity_job(false, 0.5);
  const Trained run = fresh_run(job, {0, 1}, 4);
  const uint64_t micro_batches = uint64_t{job.pipelines} * job.micro_batches;
  const uint64_t choices = job.micro_batch_sequences * job.model.context * job.model.top_k;
  const uint64_t share = choices / job.model.experts / 2;  // of an expert, in one micro-batch
  for (const StepDone& step : run.steps) {
    ASSERT_EQ(step.dropped.size(), step.popularity.size());
    EXPECT_EQ(step.tokens_dropped,
              std::accumulate(step.dropped.begin(), step.dropped.end(), uint64_t{0}));
    EXPECT_GE(2 * step.tokens_dropped, micro_batches * choices * job.model.layers);
    for (size_t cell = 0; cell < step.dropped.size(); ++cell)
      EXPECT_LE(step.popularity[cell] - step.dropped[cell], micro_batches * share);
  }
}

// Room follows the nominal slots: of six on four experts, the first two have two.
TEST(CapacityMode, AnExpertWithMoreSlotsTakesMore) {
  conf::JobConfig job = capacity_job(false, 0.5);
  job.pipelines = 3;
  job.slots_per_worker = 2;
  const Trained run = fresh_run(job, {0, 1, 2}, 1);
  const uint64_t choices = job.micro_batch_sequences * job.model.context * job.model.top_k;
  const uint64_t micro_batches = uint64_t{job.pipelines} * job.micro_batches;
  const StepDone& step = run.steps[0];
  for (size_t cell = 0; cell < step.dropped.size(); ++cell) {
    const uint64_t slots = cell % job.model.experts < 2 ? 2 : 1;
    EXPECT_LE(step.popularity[cell] - step.dropped[cell], micro_batches * choices * slots / 12);
  }
}

TEST(CapacityMode, Learns) {
  const Trained run = fresh_run(capacity_job(false, 1.25), {0, 1, 2, 3}, 40);
  EXPECT_LT(run.losses.training.back(), 0.8 * run.losses.training.front());
}

}  // namespace
}  // namespace holdfast::train
