// Drafts: one way through a step, found by running the stages forward in time and letting each
// choose by a style what to do next. The planner tries many styles and keeps the best draft.
//
// Micro-batches are alike, so a draft keeps them in order: the F rounds of a stage take 0, 1, 2,
// ... in pieces of at most c, its I rounds too, and micro-batch j runs on the j mod c -th live
// lane. Any c in a row then sit on different lanes, and all transfers between two stages are in one
// order, which is what makes plans safe on in-order streams.
#pragma once

#include <cstdint>
#include <vector>

#include "train/schedule/graph.h"
#include "train/schedule/plan.h"
#include "train/schedule/problem.h"

namespace holdfast::train {

// How one stage chooses.
struct StageStyle {
  bool forward_first = false;  // F before I when both can start
  bool weights_wait = false;   // rather idle than begin a W that delays an F or I about to arrive
  bool forwards_wait =
      false;             // rather idle, or do W, than begin an F that delays an I about to arrive
  uint32_t backlog = 0;  // more rounds of W than this pending: W before all else
  // Micro-batches a lane takes on, at most; never more than the stage's cap.
  uint32_t limit = 1;
  // Time that F, and I, rounds with fewer micro-batches than lanes may cost. Without it a stage
  // waits until a round is full.
  double spare_forward = 0;
  double spare_gradient = 0;
};

struct Style {
  bool coupled = false;  // B rounds instead of I and W
  std::vector<StageStyle> stages;
};

struct DraftRound {
  uint32_t stage = 0;
  Work work = Work::kForward;
  uint32_t first = 0;  // F, I, B: micro-batches first .. first + count - 1
  uint32_t count = 0;
  uint32_t weights_begin = 0;  // micro-batches whose dense W it does, as a range of `numbers`
  uint32_t weights_end = 0;
  uint32_t experts_begin = 0;  // I rounds whose expert W it does, as a range of `numbers`
  uint32_t experts_end = 0;
};

struct Draft {
  std::vector<DraftRound> rounds;  // of all stages, in the order they begin; node n of the graph
  std::vector<uint32_t> numbers;
  StepGraph graph;
};

// `problem` has passed check_problem; limits are at least 1.
Draft draft_step(const Problem& problem, const Style& style);
Plan to_plan(const Problem& problem, const Draft& draft);

}  // namespace holdfast::train
