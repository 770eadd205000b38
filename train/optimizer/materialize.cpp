#include "train/optimizer/materialize.h"

#include <cstring>

namespace holdfast::train {

Status materialize(Communicator& comm, const StageMap& map, ShardStore& store,
                   ComputeWeights& weights) {
  weights.groups_.resize(map.layout->groups().size());
  for (const GroupSpec& group : map.layout->groups())
    weights.groups_[group.index.value].resize(map.hosts(group.index, map.lane) ? group.elements : 0);

  std::vector<std::byte> send, recv;
  for (const ShardSpan span : exchange_spans(*map.layout)) {
    std::vector<size_t> send_bytes(map.lanes), recv_bytes(map.lanes);
    send.clear();
    for (uint32_t to = 0; to < map.lanes; ++to) {
      for (uint32_t flat = span.begin; flat < span.end; ++flat) {
        if (map.owner_lane[flat] != map.lane || !map.hosts(map.shard(flat).group, to)) continue;
        const auto slice = std::as_bytes(store.now(flat).master);
        send.insert(send.end(), slice.begin(), slice.end());
        send_bytes[to] += slice.size();
      }
    }
    size_t total = 0;
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      if (!map.hosts(map.shard(flat).group, map.lane)) continue;
      const size_t bytes = map.layout->range(map.shard(flat)).size() * sizeof(float);
      recv_bytes[map.owner_lane[flat]] += bytes;
      total += bytes;
    }
    recv.resize(total);
    RETURN_IF_ERROR(comm.all_to_all(send, send_bytes, recv, recv_bytes));

    std::vector<size_t> at(map.lanes);
    for (uint32_t lane = 1; lane < map.lanes; ++lane) at[lane] = at[lane - 1] + recv_bytes[lane - 1];
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      const ShardId shard = map.shard(flat);
      if (!map.hosts(shard.group, map.lane)) continue;
      const ElementRange range = map.layout->range(shard);
      const size_t bytes = range.size() * sizeof(float);
      if (bytes > 0)
        std::memcpy(weights.groups_[shard.group.value].data() + range.begin,
                    recv.data() + at[map.owner_lane[flat]], bytes);
      at[map.owner_lane[flat]] += bytes;
    }
  }
  return {};
}

}  // namespace holdfast::train
