// Who owns which shard and who computes with which group in one stage group of the open view: the map
// that reduce and materialize follow. Every lane has the same one, so nothing has to be negotiated.
// Shards, groups and layers are numbered as in the whole model; those of other stages are left out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "train/model/parameter_layout.h"
#include "train/model/stage_layers.h"
#include "train/placement/placement.h"

namespace holdfast::train {

inline constexpr uint32_t kNoLane = UINT32_MAX;

struct StageMap {
  const ParameterLayout* layout = nullptr;
  Placement placement;
  std::vector<uint32_t> owner_lane;  // of the group, by flat shard; kNoLane: another stage's
  uint32_t lane = 0;                 // this one
  uint32_t lanes = 1;
  StageLayers stage;

  bool has(uint32_t flat) const { return stage.has(layout->group(shard(flat).group)); }
  // Of the stage: dense groups everywhere, experts where a slot holds them.
  bool hosts(GroupIndex group, uint32_t at_lane) const {
    const GroupSpec& spec = layout->group(group);
    if (!stage.has(spec)) return false;
    if (spec.kind != GroupKind::kExpert) return true;
    const auto& slots = placement.layers[spec.layer.value].slots[at_lane];
    return std::find(slots.begin(), slots.end(), spec.expert) != slots.end();
  }
  ShardId shard(uint32_t flat) const { return ShardId::unflat(flat, layout->slices()); }
};

// Shards [begin, end) by flat number whose slices travel in one exchange, about kExchangeElements of the
// stage's, so that buffers stay small whatever the model's size. The same on every lane.
struct ShardSpan {
  uint32_t begin = 0;
  uint32_t end = 0;
};
inline constexpr size_t kExchangeElements = size_t{1} << 21;
std::vector<ShardSpan> exchange_spans(const StageMap& map);

// Elements that the slices of a span have between this lane and each other, as their owner and as
// one that hosts their groups: weights go from owners to hosts, gradients the other way.
struct SpanTraffic {
  std::vector<size_t> owned_here;   // [lane]: owned by this lane, hosted by that one
  std::vector<size_t> hosted_here;  // [lane]: owned by that lane, hosted by this one
};
SpanTraffic span_traffic(const StageMap& map, ShardSpan span);
// Counts of elements as bytes.
std::vector<size_t> in_bytes(std::vector<size_t> elements, size_t width);

}  // namespace holdfast::train
