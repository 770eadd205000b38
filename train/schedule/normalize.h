// Failure normalization: when failures pile up on one stage, healthy workers of other stages can
// take dead lanes over. Proposes; the coordinator decides, and a moved worker joins its new stage
// as one that re-joins. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "train/schedule/planner.h"

namespace holdfast::train {

struct Move {
  uint32_t from_stage = 0;
  uint32_t from_pipeline = 0;
  uint32_t to_stage = 0;
  uint32_t to_pipeline = 0;  // a dead lane
  bool operator==(const Move&) const = default;
};

struct Proposal {
  std::vector<Move> moves;
  uint64_t bytes = 0;  // state that the moved workers must be given
  double before = 0;   // the policy's aim (period, or makespan) without the moves
  double after = 0;
  double gain() const { return before - after; }
};

// After the moves.
Problem with_moves(const Problem& problem, const std::vector<Move>& moves);

// Each proposal is better than those with fewer moves; empty when nothing helps. `stage_bytes`:
// state of one lane, by stage; empty: not known, and bytes are 0. A stage never gives its last lane
// away. kPlanImpossible as plan_step; with 1f1b there is nothing to propose.
Result<std::vector<Proposal>> propose_moves(const Problem& problem, Policy policy,
                                            const std::vector<uint64_t>& stage_bytes);

}  // namespace holdfast::train
