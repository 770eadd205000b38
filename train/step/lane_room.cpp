#include "train/step/lane_room.h"

#include <algorithm>

#include "train/optimizer/hosted_layout.h"
#include "train/optimizer/shard_store.h"

namespace holdfast::train {
namespace {

struct Shards {
  size_t all = 0, largest = 0;  // elements, as they lie in a store
  size_t share(uint32_t lanes) const {
    return lanes == 1 ? all : std::min(all, (all + lanes - 1) / lanes + largest);
  }
};

Shards sizes(const ParameterLayout& layout) {
  Shards shards;
  for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
    const size_t n = layout.range(ShardId::unflat(flat, layout.slices())).size();
    const size_t room = ShardStore<CpuBackend<float>>::stride(n);
    shards.all += room;
    shards.largest = std::max(shards.largest, room);
  }
  return shards;
}

size_t most_hosted(const ParameterLayout& layout, const conf::JobConfig& job, uint32_t lanes) {
  StageMap map{&layout,
               place_static(job.model.layers, job.model.experts, lanes,
                            slots_per_lane(job.slots(), job.model.experts, lanes)),
               {}, 0, lanes};
  size_t most = 0;
  for (; map.lane < lanes; ++map.lane) most = std::max(most, HostedLayout(map).elements());
  return most;
}

}  // namespace

LaneRoom lane_room(const ParameterLayout& layout, const conf::JobConfig& job) {
  LaneRoom room;
  room.lanes = job.pipelines > job.tolerate ? job.pipelines - job.tolerate : 1;
  const Shards shards = sizes(layout);
  room.shard_elements = shards.share(room.lanes);
  room.hosted_elements = most_hosted(layout, job, room.lanes);
  if (job.pipelines > 1) room.summed_elements = shards.share(std::max(room.lanes, 2U));
  return room;
}

}  // namespace holdfast::train
