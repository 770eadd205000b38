// What no plan can beat, to hold plans against.
#pragma once

#include "train/schedule/problem.h"

namespace holdfast::train {

struct Bounds {
  double period = 0;    // of repeated steps, with either barrier
  double makespan = 0;  // of one step, updates included
};

// For 1f1b and reroute give as_coupled costs. In the words of docs/plans.md: with n_s = ceil(D M /
// c_s) micro-batches on the busiest lane of stage s,
//   work      stage s needs n_s (F + I + W), and idles while its first F is away longer than the F
//   that
//             its memory allows take;
//   way back  after stage s has done all F and I (and the W without which its memory would not have
//             sufficed), gradients still go back to stage u <= s, which does a W.
// `problem` has passed check_problem.
Bounds lower_bounds(const Problem& problem);

// The work bound of one stage alone, update included, as if it had `lanes` live lanes.
double stage_bound(const Problem& problem, uint32_t stage, uint32_t lanes);

}  // namespace holdfast::train
