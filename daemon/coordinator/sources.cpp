#include "daemon/coordinator/sources.h"

#include <algorithm>
#include <vector>

namespace holdfast::daemon {

SourcedShard source_of(const DecideInput& input, uint32_t shard, const Copies* copies,
                       const Member& member) {
  const NodeId& self = member.worker.node;
  if (copies && copies->buffers.contains(member.worker)) return {shard, ShardSource::kBuffer, {}};
  if (!copies || copies->arenas.empty()) return {shard, ShardSource::kInitial, {}};
  std::vector<NodeId> sources;
  for (const NodeId& from : copies->arenas)
    if (!input.unreached.contains({self, from})) sources.push_back(from);
  if (sources.empty()) sources.assign(copies->arenas.begin(), copies->arenas.end());  // once more
  if (std::find(sources.begin(), sources.end(), self) != sources.end())
    return {shard, ShardSource::kArena, {}};
  return {shard, ShardSource::kReplica, sources[shard % sources.size()]};  // spread over them
}

}  // namespace holdfast::daemon
