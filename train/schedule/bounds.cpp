#include "train/schedule/bounds.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::train {
namespace {

// One stage with a number of lanes; times of its busiest lane.
struct StageLoad {
  double lanes;
  double micro_batches;  // D M / c: what every lane's experts see, in full rounds
  uint32_t busiest;      // n_s
  uint32_t cap;
  const StageCosts& costs;

  StageLoad(const StageProblem& stage, uint32_t total, uint32_t lane_count)
      : lanes(lane_count),
        micro_batches(static_cast<double>(total) / lane_count),
        busiest((total + lane_count - 1) / lane_count),
        cap(stage.cap),
        costs(stage.costs) {}

  double all(const WorkCost& cost) const {
    return busiest * cost.dense + micro_batches * cost.expert;
  }
  // A round for one micro-batch alone.
  double least(const WorkCost& cost) const { return cost.dense + cost.expert / lanes; }
  // F that the busiest lane can do before anything comes back.
  double forward_before_return() const {
    return std::min(busiest, cap) * costs.forward.dense +
           std::min(micro_batches, static_cast<double>(cap)) * costs.forward.expert;
  }
  double forced_weights() const { return (busiest > cap ? busiest - cap : 0) * costs.weight.dense; }
};

// From leaving stage s forward to coming back to it.
std::vector<double> trips(const Problem& problem) {
  std::vector<double> trip(problem.stages.size(), 0.0);
  for (size_t s = problem.stages.size() - 1; s-- > 0;) {
    const StageProblem& next = problem.stages[s + 1];
    const StageLoad load(next, problem.total(), static_cast<uint32_t>(next.lanes.size()));
    trip[s] = problem.stages[s].costs.send + load.least(next.costs.forward) + trip[s + 1] +
              load.least(next.costs.input) + next.costs.send;
  }
  return trip;
}

double idle(const StageLoad& load, double trip) {
  return std::max(0.0, load.least(load.costs.forward) + trip - load.forward_before_return());
}

double span(const StageLoad& load, double trip) {
  return load.all(load.costs.forward) + load.all(load.costs.input) + load.all(load.costs.weight) +
         idle(load, trip) + load.costs.update;
}

}  // namespace

double stage_bound(const Problem& problem, uint32_t stage, uint32_t lanes) {
  CHECK(lanes > 0);
  return span(StageLoad(problem.stages[stage], problem.total(), lanes), trips(problem)[stage]);
}

Bounds lower_bounds(const Problem& problem) {
  const std::vector<double> trip = trips(problem);
  Bounds bounds;
  double head = 0;
  for (size_t s = 0; s < problem.stages.size(); ++s) {
    const StageProblem& stage = problem.stages[s];
    const StageLoad load(stage, problem.total(), static_cast<uint32_t>(stage.lanes.size()));
    const double own = span(load, trip[s]);
    bounds.period = std::max(bounds.period, own);
    bounds.makespan = std::max(bounds.makespan, head + own);

    // All F and I; or all F, and the last one's way; or the first one's way, and all I.
    const double core =
        std::max({load.all(stage.costs.forward) + load.all(stage.costs.input) +
                      load.forced_weights() + idle(load, trip[s]),
                  load.all(stage.costs.forward) + trip[s] + load.least(stage.costs.input),
                  load.least(stage.costs.forward) + trip[s] + load.all(stage.costs.input)});
    double ahead = 0;   // from the start of stage u to the start of stage s
    double behind = 0;  // from the last I of stage s to that of stage u
    for (size_t u = s + 1; u-- > 0;) {
      const StageProblem& first = problem.stages[u];
      const StageLoad at(first, problem.total(), static_cast<uint32_t>(first.lanes.size()));
      if (u < s) {
        ahead += at.least(first.costs.forward) + first.costs.send;
        behind += problem.stages[u + 1].costs.send + at.least(first.costs.input);
      }
      const double tail = behind + first.costs.weight.dense + first.costs.update;
      bounds.period = std::max(bounds.period, ahead + core + tail);
      bounds.makespan = std::max(bounds.makespan, head + core + tail);
    }
    head += load.least(stage.costs.forward) + stage.costs.send;
  }
  return bounds;
}

}  // namespace holdfast::train
