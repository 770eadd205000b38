#include "daemon/coordinator/known_arenas.h"

namespace holdfast::daemon {

void KnownArenas::told(const NodeId& node, const std::vector<HeldShards>& arena) {
  nodes_.erase(node);
  for (const HeldShards& held : arena) add(node, held.state, held.shards);
}

void KnownArenas::add(const NodeId& node, const StateVersion& state,
                      const std::vector<uint32_t>& shards) {
  nodes_[node][state].insert(shards.begin(), shards.end());
}

void KnownArenas::watermark(const storage::Watermark& mark) {
  for (auto& [node, states] : nodes_)
    std::erase_if(states, [&](const auto& held) { return storage::may_free(held.first, mark); });
}

std::vector<HeldShards> KnownArenas::held(const NodeId& node) const {
  std::vector<HeldShards> all;
  const auto states = nodes_.find(node);
  if (states == nodes_.end()) return all;
  for (const auto& [state, shards] : states->second)
    all.push_back({state, {shards.begin(), shards.end()}});
  return all;
}

}  // namespace holdfast::daemon
