// [synthetic] of a job file: how long operations are to take, whatever they really take. For measuring
// what a cluster does on a machine that could not compute for so many workers.
#pragma once

#include <boost/describe.hpp>
#include <string>

#include "base/result.h"

namespace holdfast::conf {

// In milliseconds, the same on every stage, whatever layers it has.
struct SyntheticConfig {
  // Dense part of one micro-batch's F, I and W.
  double forward_ms = 20;
  double input_gradient_ms = 20;
  double weight_gradient_ms = 20;
  // The experts' part of F, of I and of W each, in a round in which every lane is busy; a of c lanes: a/c.
  double experts_ms = 0;
  double update_ms = 0;  // the optimizer's, once a step; reduce and materialize come on top
  // Of plans of several stages: "split", as all jobs, or "reroute": I and W in one, to compare with.
  std::string policy = "split";

  bool operator==(const SyntheticConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(SyntheticConfig, (),
                      (forward_ms, input_gradient_ms, weight_gradient_ms, experts_ms, update_ms,
                       policy))

Status validate(const SyntheticConfig& synthetic);

}  // namespace holdfast::conf
