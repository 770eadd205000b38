// Who has been silent for too long. Pure: time is handed in. A detector that was itself late cannot
// tell a silent node from its own sleep, so it starts its clocks anew before it judges.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace holdfast::daemon {

struct SilentNode {
  NodeId node;
  int64_t silent_ms = 0;
};

class Liveness {
 public:
  Liveness(int64_t heartbeat_ms, uint32_t missed_heartbeats)
      : heartbeat_ms_(heartbeat_ms), limit_ms_(heartbeat_ms * missed_heartbeats) {}

  void heard(const NodeId& node, int64_t now_ms) { last_heard_ms_[node] = now_ms; }
  void forget(const NodeId& node) { last_heard_ms_.erase(node); }

  // To be called every heartbeat. Those that are returned are forgotten.
  std::vector<SilentNode> check(int64_t now_ms);

 private:
  const int64_t heartbeat_ms_;
  const int64_t limit_ms_;
  std::map<NodeId, int64_t> last_heard_ms_;
  std::optional<int64_t> last_check_ms_;
};

}  // namespace holdfast::daemon
