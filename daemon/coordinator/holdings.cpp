#include "daemon/coordinator/holdings.h"

#include <algorithm>

namespace holdfast::daemon {

void Holdings::add_buffer(const WorkerId& worker, const std::vector<HeldShards>& held) {
  for (const HeldShards& h : held) {
    auto& shards = states_[key(h.state)];
    shards.resize(shard_count_);
    for (const uint32_t shard : h.shards)
      if (shard < shard_count_) shards[shard].buffers.insert(worker);
  }
}

void Holdings::add_arena(const NodeId& node, const std::vector<HeldShards>& held) {
  for (const HeldShards& h : held) {
    auto& shards = states_[key(h.state)];
    shards.resize(shard_count_);
    for (const uint32_t shard : h.shards)
      if (shard < shard_count_) shards[shard].arenas.insert(node);
  }
}

const Copies* Holdings::find(uint32_t shard, const StateVersion& state) const {
  const auto it = states_.find(key(state));
  if (it == states_.end() || shard >= shard_count_) return nullptr;
  const Copies& copies = it->second[shard];
  return copies.buffers.empty() && copies.arenas.empty() ? nullptr : &copies;
}

bool Holdings::complete(const std::vector<Copies>& shards, const BufferCounts& counts) const {
  for (uint32_t shard = 0; shard < shards.size(); ++shard) {
    const Copies& copies = shards[shard];
    const bool had = !copies.arenas.empty() ||
                     std::any_of(copies.buffers.begin(), copies.buffers.end(),
                                 [&](const WorkerId& worker) { return counts(shard, worker); });
    if (!had) return false;
  }
  return true;
}

std::vector<StateVersion> Holdings::complete_states(std::span<const storage::ViewBase> history,
                                                    const BufferCounts& counts) const {
  std::vector<StateVersion> states;
  for (auto it = states_.rbegin(); it != states_.rend(); ++it) {
    if (it->first.version == Version(0)) break;
    if (!ignore_made_ && storage::is_void(it->first, history)) continue;
    if (complete(it->second, counts)) states.push_back(it->first);
  }
  return states;
}

}  // namespace holdfast::daemon
