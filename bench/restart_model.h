// What a job costs that restarts from a checkpoint after every failure, computed.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "base/result.h"

namespace holdfast::bench {

struct RestartModel {
  double checkpoint_seconds = 600, restart_seconds = 120, failure_seconds = 3600;
  // From one failure to the next: a restart, and half of what is between two checkpoints again.
  double lost_seconds() const { return restart_seconds + checkpoint_seconds / 2; }
  // Milliseconds that a step counts for, if it takes `ms`.
  double step_ms(double ms) const { return ms / (1 - lost_seconds() / failure_seconds); }
};

// A job that loses all the time between two failures takes no step: there is no figure for it.
inline Status check_restart_model(const RestartModel& model) {
  const double lost = model.lost_seconds();
  const bool numbers = model.checkpoint_seconds >= 0 && model.restart_seconds >= 0 &&
                       std::isfinite(model.failure_seconds);
  if (numbers && model.failure_seconds > lost) return {};  // a NaN is neither
  return fail(ErrorCode::kUsage,
              fmt::format("--failure-seconds {}: has to be more than the {} s that a failure costs, "
                          "--restart-seconds {} and half of --checkpoint-seconds {}",
                          model.failure_seconds, lost, model.restart_seconds,
                          model.checkpoint_seconds));
}

}  // namespace holdfast::bench
