// Plans: what every stage group does in one step, round by round (docs/plans.md). Plain values; the
// text form is in text.h, the rules in validate.h, the times in simulate.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace holdfast::train {

enum class Work : uint8_t {
  kForward,         // F
  kInputGradient,   // I
  kWeightGradient,  // W
  kBackward,        // B: I and W at once
};

struct Cell {
  Work work = Work::kForward;
  MicroBatchIndex micro_batch;
  bool operator==(const Cell&) const = default;
};

// What a stage group does together. Every lane takes part, also one without a cell.
struct StageRound {
  Work work = Work::kForward;
  // By lane. A cell does the round's work; in an F, I or B round a lane may do W instead.
  std::vector<std::optional<Cell>> lanes;
  // I rounds, by their number among the stage's I and B rounds, whose expert weight gradients every
  // lane computes after its cell. A B round does its own without naming it.
  std::vector<uint32_t> experts;
  bool operator==(const StageRound&) const = default;
};

struct StagePlan {
  std::vector<uint32_t> lanes;  // the pipeline of each live lane, ascending
  std::vector<StageRound> rounds;
  bool operator==(const StagePlan&) const = default;
};

struct Plan {
  uint32_t pipelines = 0;      // D
  uint32_t micro_batches = 0;  // M, of one pipeline
  std::vector<StagePlan> stages;
  bool operator==(const Plan&) const = default;
};

}  // namespace holdfast::train
