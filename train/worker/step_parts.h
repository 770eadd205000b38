// Steps whose stages report by themselves (clip_by = "stage"): puts the reports of one step together. Pure.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>

#include "train/worker/messages.h"

namespace holdfast::train {

// Of one report of every stage, in their order, the same step of the same epoch: losses and choices are
// added, the norm is that of all gradients, the step took as long as its slowest stage. The rest is the
// last stage's.
StepDone whole_step(const std::map<uint32_t, StepDone>& by_stage);

class StepParts {
 public:
  // Steps that are not whole yet; when there are more, the oldest are given up.
  static constexpr size_t kMostOpen = 64;

  struct Whole {
    StepDone step;
    std::set<uint32_t> lanes;  // that had reported it
  };
  // The whole step, with the report that makes it whole. A report that is of all stages is whole at once.
  std::optional<Whole> add(const StepDone& report);
  void clear() { open_.clear(); }

 private:
  struct Open {
    std::map<uint32_t, StepDone> by_stage;
    std::set<uint32_t> lanes;
  };
  std::map<std::pair<Epoch, Step>, Open> open_;
};

}  // namespace holdfast::train
