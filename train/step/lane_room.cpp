#include "train/step/lane_room.h"

#include <algorithm>

#include "train/optimizer/hosted_layout.h"
#include "train/optimizer/shard_store.h"
#include "train/schedule/job_plan.h"

namespace holdfast::train {
namespace {

struct Shards {
  size_t all = 0, largest = 0;  // elements, as they lie in a store
  size_t share(uint32_t lanes) const {
    return lanes == 1 ? all : std::min(all, (all + lanes - 1) / lanes + largest);
  }
};

Shards sizes(const ParameterLayout& layout, const StageLayers& stage) {
  Shards shards;
  for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
    const ShardId id = ShardId::unflat(flat, layout.slices());
    if (!stage.has(layout.group(id.group))) continue;
    const size_t n = layout.range(id).size();
    const size_t room = ShardStore<CpuBackend<float>>::stride(n);
    shards.all += room;
    shards.largest = std::max(shards.largest, room);
  }
  return shards;
}

size_t most_hosted(const ParameterLayout& layout, const conf::JobConfig& job, uint32_t lanes,
                   const StageLayers& stage) {
  StageMap map{&layout,
               place_static(job.model.layers, job.model.experts, lanes,
                            slots_per_lane(job.slots(), job.model.experts, lanes)),
               {}, 0, lanes, stage};
  size_t most = 0;
  for (; map.lane < lanes; ++map.lane) most = std::max(most, HostedLayout(map).elements());
  return most;
}

}  // namespace

LaneRoom lane_room(const ParameterLayout& layout, const conf::JobConfig& job) {
  LaneRoom room;
  room.lanes = job.pipelines > job.tolerate ? job.pipelines - job.tolerate : 1;
  for (const StageLayers& stage : split_layers(job.model, job.stages)) {
    const Shards shards = sizes(layout, stage);
    room.shard_elements = std::max(room.shard_elements, shards.share(room.lanes));
    room.hosted_elements =
        std::max(room.hosted_elements, most_hosted(layout, job, room.lanes, stage));
    if (job.pipelines > 1)
      room.summed_elements =
          std::max(room.summed_elements, shards.share(std::max(room.lanes, 2U)));
  }
  return room;
}

}  // namespace holdfast::train
