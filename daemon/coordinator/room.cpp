#include "daemon/coordinator/room.h"

#include <algorithm>
#include <vector>

#include "storage/replica/capacity.h"

namespace holdfast::daemon {

Status check_room(const conf::JobConfig& config, const JobShards& shards, const NodeStatus& node) {
  const uint32_t held = std::min(config.snapshot.replicas * node.slots, config.workers());
  for (StageIndex stage; stage.value < config.stages; stage = stage.next()) {
    std::vector<uint64_t> bytes;
    for (size_t shard = 0; shard < shards.bytes.size(); ++shard)
      if (shards.stage[shard] == stage) bytes.push_back(shards.bytes[shard]);
    RETURN_IF_ERROR(storage::check_arena(
        node.node, node.arena_bytes,
        storage::ArenaDemand{bytes, config.pipelines, node.slots, config.tolerate, held}));
  }
  return {};
}

}  // namespace holdfast::daemon
