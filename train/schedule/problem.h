// What a plan is made for: live lanes, costs and memory; and what work costs.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "train/schedule/plan.h"

namespace holdfast::train {

// Time of one kind of work on one micro-batch; any unit, the same everywhere. In a round with a of
// c lanes busy the experts cost every lane expert * a / c: all lanes run their slots' share.
struct WorkCost {
  double dense = 0;
  double expert = 0;
  double total() const { return dense + expert; }
};

struct StageCosts {
  WorkCost forward{1, 0};
  WorkCost input{1, 0};
  WorkCost weight{1, 0};
  double send = 0;    // from this stage to a neighbour; runs beside the rounds
  double update = 0;  // reduce, optimizer and materialize of this stage
};

enum class Policy : uint8_t {
  kOneForwardOneBackward,  // 1f1b: needs every lane; B rounds
  kReroute,                // dead lanes' micro-batches on their peers; B rounds
  kSplit,                  // I and W apart
  kStaggered,              // and every stage updates as soon as its own W are done
};

// When a stage may update: kGlobal is a job with clip = "global".
enum class Barrier : uint8_t { kGlobal, kPerStage };
constexpr Barrier barrier_of(Policy policy) {
  return policy == Policy::kStaggered ? Barrier::kPerStage : Barrier::kGlobal;
}
constexpr bool coupled(Policy policy) {
  return policy == Policy::kOneForwardOneBackward || policy == Policy::kReroute;
}

struct StageProblem {
  std::vector<uint32_t> lanes;  // the pipeline of each live lane, ascending
  StageCosts costs;
  // Micro-batches a lane may hold: from the start of F to the end of W, expert W included where it
  // costs anything.
  uint32_t cap = 0;
};

struct Problem {
  uint32_t pipelines = 0;      // D
  uint32_t micro_batches = 0;  // M
  std::vector<StageProblem> stages;

  uint32_t total() const { return pipelines * micro_batches; }
};

inline constexpr uint32_t kMostPipelines = 1024;
inline constexpr uint32_t kMostStages = 256;
inline constexpr uint32_t kMostMicroBatches = 4096;
inline constexpr uint64_t kMostCells = uint64_t{1} << 22;  // D * M * S

// All lanes live, the same costs everywhere, room for every micro-batch.
Problem uniform_problem(uint32_t pipelines, uint32_t stages, uint32_t micro_batches,
                        const StageCosts& costs = {});
// Takes lane (pipeline d, stage s) away; kPlanImpossible when there is none.
Status remove_lane(Problem& problem, uint32_t pipeline, uint32_t stage);
// kPlanImpossible with what is wrong: numbers out of range, a stage without a lane, a cap of zero,
// a cost that is negative or not finite.
Status check_problem(const Problem& problem);

const WorkCost& cost_of(const StageCosts& costs, Work work);  // not of kBackward
// Dense time of one micro-batch, and expert time of a round in which all lanes are busy.
WorkCost round_cost(const StageCosts& costs, Work work);
// The same step with I and W as one piece of work, as 1f1b and reroute run it.
StageCosts as_coupled(const StageCosts& costs);

}  // namespace holdfast::train
