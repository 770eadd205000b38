// Which expert's weights lie in which slot of which lane, per MoE layer. Pure: values in, values out;
// every lane computes the same placement by the same rule, without negotiation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace holdfast::train {

// One MoE layer. A lane may hold several replicas of an expert; they count as one weight copy there.
struct LayerPlacement {
  std::vector<std::vector<ExpertIndex>> slots;  // [lane][slot]

  uint32_t lanes() const { return static_cast<uint32_t>(slots.size()); }
  bool operator==(const LayerPlacement&) const = default;
};

struct Placement {
  std::vector<LayerPlacement> layers;
  bool operator==(const Placement&) const = default;
};

// Slots a lane in a view with `lanes` live lanes: max(k, ceil(E / lanes)) (DESIGN.md, section 2).
uint32_t slots_per_lane(uint32_t slots, uint32_t experts, uint32_t lanes);

// SYMI's rule (arXiv 2504.19925, section 4): how many of `slots` (at least E) each expert gets, by
// largest remainder of its popularity [E], at least one each; ties go to the lower expert id.
std::vector<uint32_t> slots_by_popularity(std::span<const uint64_t> popularity, uint32_t slots);

// That many replicas, experts contiguous by id. All-equal popularity is static placement.
LayerPlacement place_by_popularity(std::span<const uint64_t> popularity, uint32_t lanes,
                                   uint32_t slots_per_lane);

// Static placement of every layer: popularity taken as equal.
Placement place_static(uint32_t layers, uint32_t experts, uint32_t lanes, uint32_t slots_per_lane);

// The lanes that hold a replica of `expert`, one entry per slot, ascending: [lane, lane, ...].
inline std::vector<uint32_t> replica_lanes(const LayerPlacement& layer, ExpertIndex expert) {
  std::vector<uint32_t> lanes;
  for (uint32_t lane = 0; lane < layer.lanes(); ++lane)
    for (const ExpertIndex e : layer.slots[lane])
      if (e == expert) lanes.push_back(lane);
  return lanes;
}
// Distinct experts that `lane` hosts, ascending.
std::vector<ExpertIndex> hosted_experts(const LayerPlacement& layer, uint32_t lane);

}  // namespace holdfast::train
