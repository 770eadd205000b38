// Operations that take a configured time: how long, that nothing else changes, and that a view that ends
// does not wait for them.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/train/step/pipeline_harness.h"
#include "train/schedule/simulate.h"
#include "train/schedule/text.h"

namespace holdfast::train {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kForever = 60'000;  // ms; no test waits for it
constexpr auto kAtOnce = std::chrono::seconds(30);

TEST(SyntheticTimesTest, AreThoseOfTheLanesOwnWorkAndOfItsShareOfTheExperts) {
  const auto plan = parse_plan(
      "plan pipelines 2 micro-batches 2\n"
      "stage 0 lanes 0 1: F0 F1 | I0 I1 | F2 W1 | W0 F3 e0 | B2 - | - I3 | - W3 e2\n");
  ASSERT_TRUE(plan) << plan.error().to_string();
  const Members members = *members_of(std::vector<uint32_t>{0, 1}, {}, 1);
  const auto times_of = [&](uint32_t lane) {
    auto rounds = rounds_of_lane(*plan, members, 0, lane);
    set_synthetic_times(rounds, 2, {1, 2, 4, 8, 0, "split"});
    std::vector<SyntheticTimes> times;
    for (const LaneRound& round : rounds) times.push_back(round.synthetic);
    return times;
  };
  // forward, input gradient, weights; experts of F or I; expert weights
  EXPECT_EQ(times_of(0), (std::vector<SyntheticTimes>{{1, 0, 0, 8, 0},
                                                      {0, 2, 0, 8, 0},
                                                      {1, 0, 0, 4, 0},
                                                      {0, 0, 4, 4, 8},
                                                      {0, 2, 4, 4, 4},
                                                      {0, 0, 0, 4, 0},
                                                      {0, 0, 0, 0, 4}}));
  EXPECT_EQ(times_of(1), (std::vector<SyntheticTimes>{{1, 0, 0, 8, 0},
                                                      {0, 2, 0, 8, 0},
                                                      {0, 0, 4, 4, 0},
                                                      {1, 0, 0, 4, 8},
                                                      {0, 0, 0, 4, 4},
                                                      {0, 2, 0, 4, 0},
                                                      {0, 0, 4, 0, 4}}));
}

conf::JobConfig synthetic_job(uint32_t pipelines, uint32_t stages, const conf::SyntheticConfig& times) {
  conf::JobConfig job = pipeline_job(pipelines, stages);
  job.synthetic = times;
  return job;
}

TEST(Synthetic, LeavesTheNumbersAsTheyAre) {
  const conf::JobConfig one = pipeline_job(1, 1);
  const PipelineRun whole = fresh_pipeline(one, all_lanes(one), 4);
  for (const char* policy : {"split", "reroute"}) {
    const conf::JobConfig job = synthetic_job(2, 2, {1, 1, 2, 1, 1, policy});
    EXPECT_EQ(fresh_pipeline(job, all_lanes(job), 4).losses, whole.losses) << policy;
    EXPECT_EQ(fresh_pipeline(job, {{0, 1}, {1}}, 4).losses, whole.losses) << policy;
  }
}

// With one lane a stage nothing can be earlier than in the plan; how much later is the machine's affair.
TEST(Synthetic, AStepTakesNoLessThanItsPlanSays) {
  for (const auto& [policy, micro_batches] :
       {std::pair{"split", 1U}, {"split", 8U}, {"reroute", 1U}, {"reroute", 8U}}) {
    conf::JobConfig job = synthetic_job(1, 2, {14, 13, 15, 2, 20, policy});
    job.micro_batches = micro_batches;
    const double predicted =
        simulate(problem_of_job(job, all_lanes(job)), *plan_of_job(job, all_lanes(job)),
                 Barrier::kGlobal)
            .makespan;
    EXPECT_GE(predicted, micro_batches * 48 + 20) << "all of them on each lane";
    for (const StepDone& step : fresh_pipeline(job, all_lanes(job), 2).steps)
      EXPECT_GE(1e3 * step.seconds, predicted) << policy << ", " << micro_batches;
  }
}

// F, its experts, I, W and expert W of the only micro-batch, then the update, whose first wait is for
// captures.
TEST(Synthetic, AStepEndsAtOnceWhereverItsViewEnds) {
  constexpr uint32_t kOperations = 5, kUpdate = 7;
  for (uint32_t ends_at = 1; ends_at <= kUpdate; ++ends_at) {
    conf::SyntheticConfig times{1, 1, 1, 1, 1, "split"};
    double* const lasts_forever[] = {&times.forward_ms,        &times.experts_ms,
                                     &times.input_gradient_ms, &times.weight_gradient_ms,
                                     &times.experts_ms,        &times.update_ms,
                                     &times.update_ms};
    *lasts_forever[ends_at - 1] = ends_at == kOperations ? 1 : kForever;
    conf::JobConfig job = synthetic_job(1, 1, times);
    job.micro_batches = 1;
    AbortWord* word = nullptr;
    uint32_t waits = 0;
    LaneProcess lane(job, {}, [&](Step, uint32_t, bool waiting) {
      if (waiting && ++waits == ends_at) word->set();
    });
    word = &lane.abort;
    open_lane(lane, plan_stages(job, all_lanes(job)), 0);
    const auto comms = make_in_process_group(1, 20'000);
    ASSERT_TRUE(lane.trainer.materialize(*comms[0]));
    const auto begun = Clock::now();
    const auto done = lane.trainer.run_step(*comms[0], Step(0));
    EXPECT_LT(Clock::now() - begun, kAtOnce) << ends_at;
    ASSERT_FALSE(done) << ends_at;
    EXPECT_EQ(done.error().code, ErrorCode::kCommAborted) << done.error().to_string();
    EXPECT_EQ(waits, ends_at) << "nothing is begun after that";
    EXPECT_EQ(lane.trainer.current().version, Version(0)) << ends_at;
  }
}

}  // namespace
}  // namespace holdfast::train
