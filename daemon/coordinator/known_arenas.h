// What the arenas hold while a view runs, as far as the coordinator was told: for asking what would
// happen. A view is decided from what nodes say themselves, not from this. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "base/ids.h"
#include "daemon/coordinator/types.h"
#include "storage/replica/retention.h"

namespace holdfast::daemon {

class KnownArenas {
 public:
  void clear() { nodes_.clear(); }
  // What the node itself said; nothing else is there.
  void told(const NodeId& node, const std::vector<HeldShards>& arena);
  void forget(const NodeId& node) { nodes_.erase(node); }
  // Captured, committed or fetched since.
  void add(const NodeId& node, const StateVersion& state, const std::vector<uint32_t>& shards);
  void watermark(const storage::Watermark& mark);

  std::vector<HeldShards> held(const NodeId& node) const;

 private:
  std::map<NodeId, std::map<StateVersion, std::set<uint32_t>>> nodes_;
};

}  // namespace holdfast::daemon
