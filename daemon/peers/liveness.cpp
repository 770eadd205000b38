#include "daemon/peers/liveness.h"

#include <utility>

namespace holdfast::daemon {

std::vector<SilentNode> Liveness::check(int64_t now_ms) {
  // Due one heartbeat after the last check; late by more than another one.
  const bool late = last_check_ms_ && now_ms - *last_check_ms_ > 2 * heartbeat_ms_;
  last_check_ms_ = now_ms;
  std::vector<SilentNode> silent;
  for (auto& [node, heard_ms] : last_heard_ms_) {
    if (late)
      heard_ms = now_ms;
    else if (now_ms - heard_ms >= limit_ms_)
      silent.push_back({node, now_ms - heard_ms});
  }
  for (const SilentNode& gone : silent) last_heard_ms_.erase(gone.node);
  return silent;
}

}  // namespace holdfast::daemon
