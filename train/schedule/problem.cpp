#include "train/schedule/problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace holdfast::train {
namespace {

Status impossible(std::string why) { return fail(ErrorCode::kPlanImpossible, std::move(why)); }

Status check_number(const char* what, uint64_t value, uint64_t most) {
  if (value >= 1 && value <= most) return {};
  return impossible(fmt::format("{} = {}, it must be 1 to {}", what, value, most));
}

Status check_cost(uint32_t stage, const char* what, double value) {
  if (std::isfinite(value) && value >= 0 && value <= 1e12) return {};
  return impossible(
      fmt::format("stage {}: the cost of {} is {}, it must be 0 to 1e12", stage, what, value));
}

Status check_costs(uint32_t stage, const StageCosts& costs) {
  RETURN_IF_ERROR(check_cost(stage, "F", costs.forward.dense));
  RETURN_IF_ERROR(check_cost(stage, "F of experts", costs.forward.expert));
  RETURN_IF_ERROR(check_cost(stage, "I", costs.input.dense));
  RETURN_IF_ERROR(check_cost(stage, "I of experts", costs.input.expert));
  RETURN_IF_ERROR(check_cost(stage, "W", costs.weight.dense));
  RETURN_IF_ERROR(check_cost(stage, "W of experts", costs.weight.expert));
  RETURN_IF_ERROR(check_cost(stage, "sending", costs.send));
  RETURN_IF_ERROR(check_cost(stage, "the update", costs.update));
  // A round that takes no time has no place in a schedule.
  for (const Work work : {Work::kForward, Work::kInputGradient, Work::kWeightGradient})
    if (cost_of(costs, work).total() <= 0)
      return impossible(fmt::format("stage {}: F, I and W must each cost more than 0", stage));
  return {};
}

Status check_lanes(const Problem& problem, uint32_t stage) {
  const std::vector<uint32_t>& lanes = problem.stages[stage].lanes;
  if (lanes.empty()) return impossible(fmt::format("stage {} has no live lane", stage));
  for (size_t i = 0; i < lanes.size(); ++i)
    if (lanes[i] >= problem.pipelines || (i > 0 && lanes[i] <= lanes[i - 1]))
      return impossible(fmt::format("stage {}: its lanes must be pipelines 0 to {}, ascending",
                                    stage, problem.pipelines - 1));
  return {};
}

}  // namespace

Problem uniform_problem(uint32_t pipelines, uint32_t stages, uint32_t micro_batches,
                        const StageCosts& costs) {
  StageProblem stage;
  for (uint32_t d = 0; d < pipelines; ++d) stage.lanes.push_back(d);
  stage.costs = costs;
  stage.cap = std::max(1u, pipelines * micro_batches);
  return {pipelines, micro_batches, std::vector<StageProblem>(stages, stage)};
}

Status remove_lane(Problem& problem, uint32_t pipeline, uint32_t stage) {
  if (stage >= problem.stages.size())
    return impossible(fmt::format("there is no stage {}, only 0 to {}", stage,
                                  static_cast<int64_t>(problem.stages.size()) - 1));
  if (pipeline >= problem.pipelines)
    return impossible(fmt::format("there is no pipeline {}, only 0 to {}", pipeline,
                                  static_cast<int64_t>(problem.pipelines) - 1));
  auto& lanes = problem.stages[stage].lanes;
  const auto found = std::find(lanes.begin(), lanes.end(), pipeline);
  if (found == lanes.end())
    return impossible(fmt::format("lane {}:{} fails twice", pipeline, stage));
  lanes.erase(found);
  return {};
}

Status check_problem(const Problem& problem) {
  RETURN_IF_ERROR(check_number("pipelines", problem.pipelines, kMostPipelines));
  RETURN_IF_ERROR(check_number("stages", problem.stages.size(), kMostStages));
  RETURN_IF_ERROR(check_number("micro-batches", problem.micro_batches, kMostMicroBatches));
  RETURN_IF_ERROR(check_number("pipelines x micro-batches x stages",
                               uint64_t{problem.total()} * problem.stages.size(), kMostCells));
  for (uint32_t s = 0; s < problem.stages.size(); ++s) {
    RETURN_IF_ERROR(check_lanes(problem, s));
    RETURN_IF_ERROR(check_costs(s, problem.stages[s].costs));
    if (problem.stages[s].cap == 0)
      return impossible(fmt::format("stage {}: a lane must have room for one micro-batch", s));
  }
  return {};
}

const WorkCost& cost_of(const StageCosts& costs, Work work) {
  switch (work) {
    case Work::kForward:
      return costs.forward;
    case Work::kInputGradient:
      return costs.input;
    case Work::kWeightGradient:
      return costs.weight;
    case Work::kBackward:
      break;
  }
  CHECK(false, "B has no cost of its own");
}

WorkCost round_cost(const StageCosts& costs, Work work) {
  if (work != Work::kBackward) return cost_of(costs, work);
  return {costs.input.dense + costs.weight.dense, costs.input.expert + costs.weight.expert};
}

StageCosts as_coupled(const StageCosts& costs) {
  StageCosts all = costs;
  all.input = round_cost(costs, Work::kBackward);
  all.weight = {};
  return all;
}

}  // namespace holdfast::train
