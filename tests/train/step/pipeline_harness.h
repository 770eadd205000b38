// A pipelined job trained by lanes as threads of this process.
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "tests/train/step/lanes_harness.h"
#include "train/schedule/job_plan.h"
#include "train/worker/step_parts.h"

namespace holdfast::train {

// Eight micro-batches of four layers, however they are spread: the same numbers in reproducible mode.
inline conf::JobConfig pipeline_job(uint32_t pipelines, uint32_t stages, bool reproducible = true,
                                    uint32_t micro_batches = 0) {
  conf::JobConfig job = small_job(reproducible);
  job.pipelines = pipelines;
  job.stages = stages;
  job.micro_batches = micro_batches == 0 ? 8 / pipelines : micro_batches;
  job.model.layers = 4;
  job.evaluate_every = 3;
  job.evaluate_micro_batches = 7;
  return job;
}

inline LanesByStage all_lanes(const conf::JobConfig& job) {
  std::vector<uint32_t> lanes(job.pipelines);
  std::iota(lanes.begin(), lanes.end(), 0U);
  return LanesByStage(job.stages, lanes);
}

// Shards of a stage belong to the lane of their slice's pipeline where it lives, else to the others in turn.
inline ViewPlan plan_stages(const conf::JobConfig& job, const LanesByStage& lanes_by_stage,
                            StateVersion base = {}, Epoch epoch = {1, 1}) {
  const ParameterLayout layout(job.model, job.slices());
  const std::vector<StageLayers> split = split_layers(job.model, job.stages);
  ViewPlan plan{epoch, base, {}, {}};
  std::vector<uint32_t> first;
  for (uint32_t s = 0; s < lanes_by_stage.size(); ++s) {
    first.push_back(static_cast<uint32_t>(plan.stages.size()));
    for (const uint32_t pipeline : lanes_by_stage[s]) {
      plan.coordinates.push_back(pipeline);
      plan.stages.push_back(s);
    }
  }
  for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
    const ShardId id = ShardId::unflat(flat, layout.slices());
    const uint32_t stage = stage_of(split, layout.group(id.group));
    const auto& lanes = lanes_by_stage[stage];
    uint32_t owner = flat % static_cast<uint32_t>(lanes.size());
    for (uint32_t lane = 0; lane < lanes.size(); ++lane)
      if (lanes[lane] == id.slice.value % job.pipelines) owner = lane;
    plan.owner_lane.push_back(first[stage] + owner);
  }
  return plan;
}

struct PipelineRun {
  Losses losses;
  std::vector<StepDone> steps;  // as member 0 reports them, or put together of their stages
  std::vector<std::vector<StepDone>> members;
};

// What the lanes of a stage report, or all members where stages update together, is the same but for what each
// of them ran.
inline void check_alike(const StepDone& one, const StepDone& other) {
  CHECK(other.loss == one.loss && other.popularity == one.popularity);
  CHECK(other.load_balance_loss == one.load_balance_loss && other.z_loss == one.z_loss);
  CHECK(other.gradient_norm == one.gradient_norm && other.held_out_loss == one.held_out_loss);
  CHECK(other.tokens_dropped == one.tokens_dropped && other.dropped == one.dropped);
}

inline PipelineRun run_pipeline(const std::vector<LaneProcess*>& lanes, uint64_t first,
                                uint64_t steps,
                                std::vector<std::unique_ptr<ViewCommunicator>> comms = {}) {
  if (comms.empty()) comms = make_in_process_group(static_cast<uint32_t>(lanes.size()), 20'000);
  PipelineRun run;
  run.members.resize(lanes.size());
  run_lanes_over(lanes, std::move(comms), [&](LaneProcess& lane, LosingComm& comm, uint32_t l) {
    for (uint64_t step = first; step < first + steps; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      CHECK(done.has_value(), "{}", done.error().to_string());
      run.members[l].push_back(*done);
    }
  });
  run.steps = run.members[0];
  for (uint64_t step = 0; step < steps; ++step) {
    std::map<uint32_t, StepDone> by_stage;
    for (uint32_t l = 0; l < lanes.size(); ++l) {
      const StepDone& other = run.members[l][step];
      const uint32_t stage = other.of_stage ? other.of_stage->stage : 0;
      CHECK(other.lane == l);
      check_alike(by_stage.try_emplace(stage, other).first->second, other);
    }
    if (run.steps[step].of_stage) run.steps[step] = whole_step(by_stage);
    const StepDone& one = run.steps[step];
    run.losses.training.push_back(one.loss);
    run.losses.norms.push_back(one.gradient_norm);
    if (one.held_out_loss) run.losses.held_out.push_back(*one.held_out_loss);
  }
  return run;
}

inline PipelineRun fresh_pipeline(const conf::JobConfig& job, const LanesByStage& lanes_by_stage,
                                  uint64_t steps) {
  const ViewPlan plan = plan_stages(job, lanes_by_stage);
  Group group(job, static_cast<uint32_t>(plan.coordinates.size()));
  for (uint32_t l = 0; l < group.processes.size(); ++l) open_lane(*group.processes[l], plan, l);
  return run_pipeline(group.all(), 0, steps);
}

// Every shard's payload at a version, wherever it is owned.
inline std::vector<Payload> whole_state(const std::vector<LaneProcess*>& lanes, Version version) {
  std::vector<Payload> state;
  for (LaneProcess* lane : lanes)
    for (const uint32_t shard : lane->trainer.owned()) {
      if (state.size() <= shard) state.resize(shard + 1);
      state[shard] = read_state(lane->trainer, shard, version);
    }
  return state;
}

}  // namespace holdfast::train
