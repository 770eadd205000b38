// The plan of a job: how layers are split, and which lane runs what, by hand and as properties.
#include "train/schedule/job_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "train/schedule/rounds.h"
#include "train/schedule/simulate.h"
#include "train/schedule/text.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

// A layer costs 2 d (2 d + 2 d_kv + T + E) + 6 d f K = 128 (256 + 24 + 8) + 98304 = 135168 a token.
conf::ModelConfig model_of(uint32_t layers, uint32_t vocabulary) {
  conf::ModelConfig model;
  model.layers = layers;
  model.vocabulary = vocabulary;
  model.width = 64;
  model.heads = model.kv_heads = 4;
  model.context = 24;
  model.experts = 8;
  model.expert_width = 128;
  return model;
}
constexpr uint32_t kHeadOfOneLayer = 135168 / (2 * 64);  // vocabulary

std::vector<uint32_t> counts(const std::vector<StageLayers>& split) {
  std::vector<uint32_t> layers;
  for (const StageLayers& stage : split) layers.push_back(stage.layers);
  return layers;
}

TEST(JobPlanTest, LayersAreSplitByCost) {
  struct Row {
    uint32_t layers, stages, head_layers;
    std::vector<uint32_t> split;
  };
  const Row table[] = {
      {4, 1, 0, {4}},          {4, 2, 0, {2, 2}},          {4, 4, 0, {1, 1, 1, 1}},
      {4, 3, 0, {1, 2, 1}},    {5, 3, 0, {2, 2, 1}},       {12, 5, 0, {2, 3, 2, 3, 2}},
      {12, 4, 1, {3, 3, 3, 3}}, {8, 2, 2, {5, 3}},          {7, 2, 3, {5, 2}},
      {6, 3, 40, {2, 3, 1}},   {2, 2, 9, {1, 1}},          {11, 4, 1, {3, 3, 3, 2}},
  };
  for (const Row& row : table)
    EXPECT_EQ(counts(split_layers(
                  model_of(row.layers, std::max(4U, row.head_layers * kHeadOfOneLayer)), row.stages)),
              row.split)
        << row.layers << " layers, " << row.stages << " stages, head " << row.head_layers;
}

TEST(JobPlanTest, EveryGroupBelongsToOneStage) {
  for (uint32_t layers = 1; layers <= 9; ++layers)
    for (uint32_t stages = 1; stages <= layers; ++stages) {
      const conf::ModelConfig model = model_of(layers, 256);
      const ParameterLayout layout(model, 3);
      const std::vector<StageLayers> split = split_layers(model, stages);
      ASSERT_EQ(split.size(), stages);
      EXPECT_EQ(split_layers(model, stages), split);
      uint32_t next = 0;
      for (const StageLayers& stage : split) {
        EXPECT_EQ(stage.first_layer, next);
        EXPECT_GE(stage.layers, 1U);
        next = stage.end_layer();
      }
      EXPECT_EQ(next, layers);
      uint32_t last = 0;
      for (const GroupSpec& group : layout.groups()) {
        const uint32_t stage = stage_of(split, group);
        EXPECT_GE(stage, last) << group.name;
        last = stage;
        EXPECT_EQ(std::count_if(split.begin(), split.end(),
                                [&](const StageLayers& one) { return one.has(group); }),
                  1)
            << group.name;
      }
      EXPECT_EQ(stage_of(split, layout.group(layout.embedding())), 0U);
      EXPECT_EQ(stage_of(split, layout.group(layout.head())), stages - 1);
    }
}

conf::JobConfig job_of(uint32_t pipelines, uint32_t stages, uint32_t micro_batches) {
  conf::JobConfig job;
  job.pipelines = pipelines;
  job.stages = stages;
  job.micro_batches = micro_batches;
  job.model = model_of(8, 256);
  return job;
}

LanesByStage all_lanes(const conf::JobConfig& job) {
  std::vector<uint32_t> lanes(job.pipelines);
  std::iota(lanes.begin(), lanes.end(), 0U);
  return LanesByStage(job.stages, lanes);
}

TEST(JobPlanTest, ExpertsAndHeadAreCountedWhereTheyAre) {
  const conf::JobConfig job = job_of(2, 2, 3);
  const Problem problem = problem_of_job(job, all_lanes(job));
  ASSERT_EQ(problem.stages.size(), 2U);
  EXPECT_EQ(problem.total(), 6U);
  for (const StageProblem& stage : problem.stages) {
    EXPECT_EQ(stage.cap, 4U);
    EXPECT_EQ(stage.costs.input.total(), stage.costs.forward.total());
    EXPECT_EQ(stage.costs.weight.total(), stage.costs.forward.total());
    EXPECT_DOUBLE_EQ(stage.costs.forward.expert, 4 * 98304.0 / 135168);
  }
  EXPECT_DOUBLE_EQ(problem.stages[0].costs.forward.total(), 4);
  EXPECT_DOUBLE_EQ(problem.stages[1].costs.forward.total(), 4 + 2 * 64 * 256 / 135168.0);
}

TEST(JobPlanTest, SyntheticTimesTakeThePlaceOfCosts) {
  conf::JobConfig job = job_of(2, 3, 4);
  job.synthetic = {1, 2, 3, 4, 5, "split"};
  for (const StageProblem& stage : problem_of_job(job, all_lanes(job)).stages) {
    EXPECT_EQ(stage.costs.forward.dense, 1) << "the head's stage too";
    EXPECT_EQ(stage.costs.input.dense, 2);
    EXPECT_EQ(stage.costs.weight.dense, 3);
    for (const WorkCost& work : {stage.costs.forward, stage.costs.input, stage.costs.weight})
      EXPECT_EQ(work.expert, 4);
    EXPECT_EQ(stage.costs.send, 0);
    EXPECT_EQ(stage.costs.update, 5);
  }
}

TEST(JobPlanTest, ReroutingAloneRunsIAndWInOne) {
  conf::JobConfig job = job_of(2, 2, 4);
  const auto has_split_rounds = [&] {
    bool split = false;
    const auto plan = plan_of_job(job, {{0, 1}, {1}});
    for (const StagePlan& stage : plan.value().stages)
      for (const StageRound& round : stage.rounds) split |= round.work == Work::kInputGradient;
    return split;
  };
  EXPECT_EQ(policy_of_job(job), Policy::kSplit);
  job.synthetic.emplace();
  EXPECT_EQ(policy_of_job(job), Policy::kSplit);
  EXPECT_TRUE(has_split_rounds());
  job.synthetic->policy = "reroute";
  EXPECT_EQ(policy_of_job(job), Policy::kReroute);
  EXPECT_FALSE(has_split_rounds());
}

TEST(JobPlanTest, OneStageRunsTheRoundsThatItAlwaysRan) {
  conf::JobConfig job = job_of(3, 1, 2);
  const auto plan = plan_of_job(job, {{0, 2}});
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_text(*plan),
            "plan pipelines 3 micro-batches 2\n"
            "stage 0 lanes 0 2: F0 F2 | B0 B2 | F3 F5 | B3 B5 | F1 F4 | B1 B4\n");
  for (uint32_t pipelines = 1; pipelines <= 5; ++pipelines)
    for (uint32_t micro_batches = 1; micro_batches <= 3; ++micro_batches)
      for (uint32_t set = 1; set < 1u << pipelines; ++set) {
        job = job_of(pipelines, 1, micro_batches);
        std::vector<uint32_t> live;
        for (uint32_t d = 0; d < pipelines; ++d)
          if ((set >> d & 1) != 0) live.push_back(d);
        const auto one = plan_of_job(job, {live});
        ASSERT_TRUE(one);
        EXPECT_EQ(validate(problem_of_job(job, {live}), *one), std::vector<std::string>());
        EXPECT_EQ(forward_rounds(one->stages[0]), plan_rounds(pipelines, micro_batches, live));
      }
  job = job_of(4096, 1, 1);
  EXPECT_TRUE(plan_of_job(job, all_lanes(job))) << "more than plans of stages are made for";
}

// Every lane or some of them dead at every stage: the plan keeps all rules, and each micro-batch is run
// by one lane of each stage.
TEST(JobPlanTest, EveryMicroBatchRunsOnceAtEveryStageWhoeverLives) {
  uint32_t plans = 0;
  for (const auto& [pipelines, stages, micro_batches] :
       {std::tuple{1, 2, 3}, {2, 2, 2}, {3, 2, 1}, {2, 3, 2}, {3, 3, 2}}) {
    const conf::JobConfig job = job_of(pipelines, stages, micro_batches);
    const uint32_t sets = (1u << pipelines) - 1;
    for (uint32_t a = 1; a <= sets; ++a)
      for (uint32_t b = 1; b <= sets; ++b) {
        LanesByStage lanes = all_lanes(job);
        const auto keep = [&](std::vector<uint32_t>& stage, uint32_t set) {
          std::erase_if(stage, [&](uint32_t d) { return (set >> d & 1) == 0; });
        };
        keep(lanes.front(), a);
        keep(lanes.back(), b);
        const auto plan = plan_of_job(job, lanes);
        ASSERT_TRUE(plan) << plan.error().to_string();
        EXPECT_EQ(validate(problem_of_job(job, lanes), *plan), std::vector<std::string>());
        EXPECT_EQ(*plan_of_job(job, lanes), *plan) << "a pure function";
        for (uint32_t s = 0; s < job.stages; ++s) {
          EXPECT_EQ(plan->stages[s].lanes, lanes[s]);
          std::vector<uint32_t> ran;
          for (uint32_t lane = 0; lane < lanes[s].size(); ++lane)
            for (const MicroBatchIndex j : micro_batches_of(*plan, s, lane)) ran.push_back(j.value);
          std::sort(ran.begin(), ran.end());
          std::vector<uint32_t> all(job.pipelines * job.micro_batches);
          std::iota(all.begin(), all.end(), 0U);
          EXPECT_EQ(ran, all) << "stage " << s;
        }
        ++plans;
      }
  }
  EXPECT_EQ(plans, 1u + 9 + 49 + 9 + 49);
}

// Step after step it takes less time than the plan for a barrier would, even without one.
TEST(JobPlanTest, AJobWhoseStagesClipByThemselvesIsPlannedForItsPeriod) {
  conf::JobConfig job = job_of(3, 4, 6);
  job.micro_batches_in_flight = 6;
  EXPECT_EQ(policy_of_job(job), Policy::kSplit);
  const LanesByStage lanes = {{0, 1, 2}, {0, 1, 2}, {0, 2}, {0, 1, 2}};
  const Plan split = *plan_of_job(job, lanes);
  job.optimizer.clip_by = "stage";
  EXPECT_EQ(policy_of_job(job), Policy::kStaggered);
  const Problem problem = problem_of_job(job, lanes);
  const Plan staggered = *plan_of_job(job, lanes);
  EXPECT_EQ(validate(problem, staggered), std::vector<std::string>());
  const double period = simulate(problem, staggered, Barrier::kPerStage).period;
  EXPECT_LT(period, simulate(problem, split, Barrier::kPerStage).period);
  EXPECT_LT(period, simulate(problem, split, Barrier::kGlobal).period);
}

TEST(JobPlanTest, MicroBatchesComeInTheOrderOfTheirForward) {
  const auto plan = parse_plan(
      "plan pipelines 2 micro-batches 2\n"
      "stage 0 lanes 0 1: F2 F1 | I2 W1 | F0 F3 | I0 I3\n");
  ASSERT_TRUE(plan) << plan.error().to_string();
  const std::vector<MicroBatchIndex> first = {MicroBatchIndex(2), MicroBatchIndex(0)};
  const std::vector<MicroBatchIndex> second = {MicroBatchIndex(1), MicroBatchIndex(3)};
  EXPECT_EQ(micro_batches_of(*plan, 0, 0), first);
  EXPECT_EQ(micro_batches_of(*plan, 0, 1), second);
}

TEST(JobPlanTest, WhatCannotBePlannedIsSaid) {
  const auto said = [](const conf::JobConfig& job, LanesByStage lanes) {
    const auto plan = plan_of_job(job, std::move(lanes));
    EXPECT_FALSE(plan);
    EXPECT_EQ(plan.error().code, ErrorCode::kPlanImpossible);
    return plan.error().message;
  };
  EXPECT_EQ(said(job_of(2, 1, 1), {{}}), "no live lane");
  EXPECT_EQ(said(job_of(2, 1, 1), {{2}}), "lanes must be pipelines 0 to 1, ascending");
  EXPECT_EQ(said(job_of(2, 1, 1), {{1, 0}}), "lanes must be pipelines 0 to 1, ascending");
  EXPECT_EQ(said(job_of(2, 2, 1), {{0}, {}}), "stage 1 has no live lane");
  EXPECT_EQ(said(job_of(2, 2, 1), {{0}}), "lanes of 1 stages, the job has 2");
}

}  // namespace
}  // namespace holdfast::train
