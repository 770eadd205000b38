// Who owns which shard and who computes with which group in the open view: the map that reduce and
// materialize follow. Every lane has the same one, so nothing has to be negotiated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "train/model/parameter_layout.h"
#include "train/placement/placement.h"

namespace holdfast::train {

struct StageMap {
  const ParameterLayout* layout = nullptr;
  Placement placement;
  std::vector<uint32_t> owner_lane;  // by flat shard
  uint32_t lane = 0;                 // this one
  uint32_t lanes = 1;

  // Dense groups everywhere, experts where a slot holds them.
  bool hosts(GroupIndex group, uint32_t at_lane) const {
    const GroupSpec& spec = layout->group(group);
    if (spec.kind != GroupKind::kExpert) return true;
    const auto& slots = placement.layers[spec.layer.value].slots[at_lane];
    return std::find(slots.begin(), slots.end(), spec.expert) != slots.end();
  }
  ShardId shard(uint32_t flat) const { return ShardId::unflat(flat, layout->slices()); }
};

// Shards [begin, end) by flat number whose slices travel in one exchange: about kExchangeElements, so
// that buffers stay small whatever the model's size. The same on every lane.
struct ShardSpan {
  uint32_t begin = 0;
  uint32_t end = 0;
};
inline constexpr size_t kExchangeElements = size_t{1} << 21;
std::vector<ShardSpan> exchange_spans(const ParameterLayout& layout);

}  // namespace holdfast::train
