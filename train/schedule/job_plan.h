// The plan of a job: how its layers are split over stages, and what every lane does in a step. Pure
// functions of the job and of who is alive, so that coordinator and workers come to the same plan
// without a word.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "conf/job_config.h"
#include "train/model/stage_layers.h"
#include "train/schedule/plan.h"
#include "train/schedule/problem.h"

namespace holdfast::train {

// By stage: so that the most expensive stage costs as little as can be, by the floating-point operations
// of attention, routers, top_k experts and the head; the embedding costs nothing. Each stage has at
// least one layer: 1 <= stages <= model.layers.
std::vector<StageLayers> split_layers(const conf::ModelConfig& model, uint32_t stages);

// The stage that a group belongs to: the embedding to the first, the head to the last.
uint32_t stage_of(std::span<const StageLayers> stages, const GroupSpec& group);

// By stage, the pipelines of its live lanes, ascending.
using LanesByStage = std::vector<std::vector<uint32_t>>;

// What a plan of the job is made for. A unit of time is the F of one layer; I and W take as long; what a
// stage sends and its update are not counted. With [synthetic] it is a millisecond, and costs are those
// of the table.
Problem problem_of_job(const conf::JobConfig& job, LanesByStage lanes_by_stage);

// Of a job of several stages: staggered, for the shortest period, where each stage updates by itself; else
// the gradient norm is a barrier between stages, and plans are made for the shortest step, with I and W
// split unless [synthetic] asks otherwise.
Policy policy_of_job(const conf::JobConfig& job);

// By the job's policy. For one stage the rounds of plan_rounds (rounds.h), each F followed by its B.
// kPlanImpossible: a stage without a lane, lanes that are none of the job's.
Result<Plan> plan_of_job(const conf::JobConfig& job, LanesByStage lanes_by_stage);

// What a lane of a stage runs, in the order of its F.
std::vector<MicroBatchIndex> micro_batches_of(const Plan& plan, uint32_t stage, uint32_t lane);

}  // namespace holdfast::train
