// Who waits for whom in a step: the rounds of every stage as nodes, and the longest way between
// them. The simulator and the planner both time a step with this, so they cannot disagree.
#pragma once

#include <cstdint>
#include <vector>

#include "train/schedule/problem.h"

namespace holdfast::train {

// Nodes are added in an order in which each comes after all that it waits for.
struct StepGraph {
  struct Node {
    uint32_t stage = 0;
    double duration = 0;
    // Rounds of neighbouring stages whose results this one needs, as a range of `inputs`. The round
    // before it on its own stage is waited for in any case.
    uint32_t inputs_begin = 0;
    uint32_t inputs_end = 0;
  };
  struct Input {
    uint32_t node = 0;
    double send = 0;
  };
  std::vector<Node> nodes;
  std::vector<Input> inputs;
  std::vector<double> updates;  // by stage

  void clear() {
    nodes.clear();
    inputs.clear();
  }
};

struct StepTimes {
  std::vector<double> start;  // by node, all stages ready at 0
  double makespan = 0;        // to the end of the last update
  double period = 0;          // of endlessly repeated steps
};

// Period: with kPerStage stage s begins step k+1 as soon as its own update k is done, so that the
// period is the largest mean weight of a cycle through stages (max-plus algebra); with kGlobal all
// updates wait for the last W of all stages.
StepTimes time_step(const StepGraph& graph, Barrier barrier);
// Only start and makespan.
StepTimes time_once(const StepGraph& graph, Barrier barrier);
// Only the staggered period; something larger than `enough` when it is larger than that, for
// searches.
double staggered_period(const StepGraph& graph, double enough);

}  // namespace holdfast::train
