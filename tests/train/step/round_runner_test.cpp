// What a lane holds while it runs the rounds of a plan.
#include "train/step/round_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/train/model/model_harness.h"
#include "train/comm/in_process.h"
#include "train/schedule/text.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

struct Held {
  size_t most = 0, most_rounds = 0;      // between two rounds
  size_t at_end = 0, rounds_at_end = 0;  // of the step
  size_t losses = 0;
  std::vector<std::vector<double>> lengthened;  // by round, in the order in which it was asked for, ms
};

class StepOfAJob {
 public:
  StepOfAJob(const conf::JobConfig& job, LanesByStage lanes)
      : StepOfAJob(job, lanes, *plan_of_job(job, lanes)) {}
  StepOfAJob(const conf::JobConfig& job, LanesByStage lanes, Plan plan)
      : job_(job),
        stages_(split_layers(job.model, job.stages)),
        plan_(std::move(plan)),
        weights_(random_weights<float>(job.model, 3)),
        batches_(random_batches(job.model, 4, size_t{job.pipelines} * job.micro_batches, 2)) {
    std::vector<uint32_t> coordinates, stages;
    for (uint32_t s = 0; s < lanes.size(); ++s)
      for (const uint32_t d : lanes[s]) {
        coordinates.push_back(d);
        stages.push_back(s);
      }
    members_ = *members_of(coordinates, stages, job.stages);
  }

  const Plan& plan() const { return plan_; }
  std::vector<Held> run() {
    auto comms = make_in_process_group(members_.count(), 20'000);
    std::vector<Held> held(members_.count());
    std::vector<std::thread> threads;
    for (uint32_t m = 0; m < members_.count(); ++m)
      threads.emplace_back([&, m] { held[m] = run_member(m, *comms[m]); });
    for (std::thread& thread : threads) thread.join();
    return held;
  }

 private:
  Held run_member(uint32_t member, ViewCommunicator& view) const {
    const uint32_t stage = members_.stage_of(member), lane = members_.lane_of(member);
    const ParameterLayout layout(job_.model, 1);
    const uint32_t lanes = members_.lanes(stage);
    const Placement placement = place_static(
        job_.model.layers, job_.model.experts, lanes,
        slots_per_lane(job_.slots(), job_.model.experts, lanes));
    const LaneWeights<float> here(weights_, layout, placement, lane);
    PlainSink<float> sink(layout, here);
    kernels::Cpu cpu;
    MoeModel<Backend<float>> model(cpu, job_.model, stages_[stage]);
    const auto group = view.group(members_.group(stage));
    HostPayload payload(*group);
    const ModelContext context{*group, payload, placement};
    std::vector<LaneRound> rounds = rounds_of_lane(plan_, members_, stage, lane);
    if (job_.synthetic) set_synthetic_times(rounds, lanes, *job_.synthetic);
    Held held;
    HostHandOver hand_over(view);
    RoundRunner<Backend<float>> runner(
        {cpu, model, here, sink, context, hand_over,
         [&](MicroBatchIndex j) -> Result<MicroBatch> { return batches_[j.value]; },
         MicroBatch{2, job_.model.context, {}, {}},
         size_t{2} * job_.model.context * job_.model.width, most_held(rounds),
         [&](double ms, auto) {
           held.lengthened.back().push_back(ms);
           return Status();
         }});
    for (const LaneRound& round : rounds) {
      held.lengthened.emplace_back();
      const Status done = runner.run(round);
      CHECK(done.has_value(), "{}", done.error().to_string());
      held.most = std::max(held.most, runner.held());
      held.most_rounds = std::max(held.most_rounds, runner.held_rounds());
    }
    CHECK(runner.finish().has_value());
    held.at_end = runner.held();
    held.rounds_at_end = runner.held_rounds();
    held.losses = runner.losses().size();
    return held;
  }

  const conf::JobConfig job_;
  const std::vector<StageLayers> stages_;
  const Plan plan_;
  const Groups<float> weights_;
  const std::vector<MicroBatch> batches_;
  Members members_;
};

TEST(RoundRunnerTest, HoldsNoMoreThanThePlanSaysAndNothingAtTheEnd) {
  for (const uint32_t in_flight : {1U, 2U, 4U, 12U}) {
    conf::JobConfig job;
    job.model = small_model();
    job.model.layers = 4;
    job.pipelines = 3;
    job.stages = 2;
    job.micro_batches = 4;
    job.micro_batches_in_flight = in_flight;
    const LanesByStage lanes = {{0, 1, 2}, {0, 2}};
    StepOfAJob run(job, lanes);
    const Problem problem = problem_of_job(job, lanes);
    const auto peaks = peak_micro_batches(problem, run.plan(), places_of(run.plan()));
    const std::vector<Held> held = run.run();
    uint32_t member = 0, most = 0;
    for (uint32_t s = 0; s < 2; ++s)
      for (uint32_t lane = 0; lane < lanes[s].size(); ++lane, ++member) {
        const Held& one = held[member];
        EXPECT_LE(one.most, peaks[s][lane]) << "cap " << in_flight << ", member " << member;
        // Rows of a round stay for its slowest micro-batch: at most as many rounds as all lanes together hold.
        EXPECT_LE(one.most_rounds, 2 * in_flight * lanes[s].size());
        EXPECT_EQ(one.at_end, 0U);
        EXPECT_EQ(one.rounds_at_end, 0U);
        EXPECT_EQ(one.losses, micro_batches_of(run.plan(), s, lane).size());
        most = std::max(most, static_cast<uint32_t>(one.most));
      }
    EXPECT_LE(most, in_flight);
    if (in_flight > 1) {
      EXPECT_GT(most, 1U) << "a pipeline that never fills";
    }
  }
}

// A lane's W beside the others' F comes before they wait for it; beside their I it comes after.
TEST(RoundRunnerTest, OperationsAreLengthenedInTheOrderInWhichTheyRun) {
  conf::JobConfig job;
  job.model = small_model();
  job.pipelines = 2;
  job.micro_batches = 2;
  job.synthetic = {1, 2, 4, 16, 0, "split"};
  const Plan plan = *parse_plan(
      "plan pipelines 2 micro-batches 2\n"
      "stage 0 lanes 0 1: F0 F1 | I0 I1 | F2 W1 | W0 F3 e0 | I2 - | W2 I3 e1 | - W3 e2\n");
  ASSERT_EQ(validate(problem_of_job(job, {{0, 1}}), plan), std::vector<std::string>());
  const std::vector<Held> held = StepOfAJob(job, {{0, 1}}, plan).run();
  using Lengths = std::vector<std::vector<double>>;
  EXPECT_EQ(held[0].lengthened,
            (Lengths{{1, 16}, {18}, {1, 8}, {4, 8, 16}, {10}, {8, 4, 8}, {8}}));
  EXPECT_EQ(held[1].lengthened, (Lengths{{1, 16}, {18}, {4, 8}, {1, 8, 16}, {8}, {10, 8}, {4, 8}}));
}

}  // namespace
}  // namespace holdfast::train
