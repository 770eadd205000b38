#include "train/placement/placement.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace holdfast::train {

std::vector<uint32_t> slots_by_popularity(std::span<const uint64_t> popularity, uint32_t slots) {
  const auto experts = static_cast<uint32_t>(popularity.size());
  CHECK(experts > 0 && slots >= experts);
  std::vector<double> ideal(experts, static_cast<double>(slots) / experts);
  const double total = std::accumulate(popularity.begin(), popularity.end(), 0.0);
  if (total > 0)
    for (uint32_t e = 0; e < experts; ++e)
      ideal[e] = static_cast<double>(popularity[e]) / total * slots;

  std::vector<uint32_t> replicas(experts);
  uint32_t used = 0;
  for (uint32_t e = 0; e < experts; ++e) {
    replicas[e] = std::max(1U, static_cast<uint32_t>(ideal[e]));
    used += replicas[e];
  }
  // At least one slot each may have used too many: the best served give theirs back.
  const auto surplus = [&](uint32_t e) { return replicas[e] - ideal[e]; };
  for (; used > slots; --used) {
    uint32_t most = experts;
    for (uint32_t e = 0; e < experts; ++e)
      if (replicas[e] > 1 && (most == experts || surplus(e) > surplus(most))) most = e;
    --replicas[most];
  }
  for (; used < slots; ++used) {
    uint32_t least = 0;
    for (uint32_t e = 1; e < experts; ++e)
      if (surplus(e) < surplus(least)) least = e;
    ++replicas[least];
  }
  return replicas;
}

uint32_t slots_per_lane(uint32_t slots, uint32_t experts, uint32_t lanes) {
  CHECK(lanes > 0);
  return std::max(slots, (experts + lanes - 1) / lanes);
}

LayerPlacement place_by_popularity(std::span<const uint64_t> popularity, uint32_t lanes,
                                   uint32_t slots_per_lane) {
  const std::vector<uint32_t> replicas =
      slots_by_popularity(popularity, lanes * slots_per_lane);
  LayerPlacement layer;
  layer.slots.resize(lanes);
  uint32_t slot = 0;
  for (uint32_t e = 0; e < replicas.size(); ++e)
    for (uint32_t r = 0; r < replicas[e]; ++r, ++slot)
      layer.slots[slot / slots_per_lane].push_back(ExpertIndex(e));
  return layer;
}

Placement place_static(uint32_t layers, uint32_t experts, uint32_t lanes,
                       uint32_t slots_per_lane) {
  const std::vector<uint64_t> equal(experts, 1);
  return {std::vector<LayerPlacement>(layers, place_by_popularity(equal, lanes, slots_per_lane))};
}

std::vector<ExpertIndex> hosted_experts(const LayerPlacement& layer, uint32_t lane) {
  std::vector<ExpertIndex> hosted = layer.slots[lane];
  std::sort(hosted.begin(), hosted.end());
  hosted.erase(std::unique(hosted.begin(), hosted.end()), hosted.end());
  return hosted;
}

}  // namespace holdfast::train
