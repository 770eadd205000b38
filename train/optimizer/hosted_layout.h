// Where the groups that one lane computes with lie in one flat buffer, of weights or of gradients:
// in the order of the groups, each aligned, the hosted experts of a layer at an even stride.
#pragma once

#include <optional>
#include <vector>

#include "base/check.h"
#include "train/kernels/shapes.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

class HostedLayout {
 public:
  HostedLayout() = default;
  explicit HostedLayout(const StageMap& map) {
    experts_.resize(map.placement.layers.size());
    for (const GroupSpec& group : map.layout->groups()) {
      const bool here = map.hosts(group.index, map.lane);
      offsets_.push_back(here ? std::optional(elements_) : std::nullopt);
      if (!here) continue;
      const size_t room = (group.elements + kAlign - 1) / kAlign * kAlign;
      if (group.kind == GroupKind::kExpert) {
        LayerExperts& experts = experts_[group.layer.value];
        if (experts.groups.empty()) experts.base = elements_;
        experts.stride = room;
        experts.groups.push_back(group.index);
      }
      elements_ += room;
    }
  }

  size_t elements() const { return elements_; }
  bool hosts(GroupIndex group) const { return offsets_[group.value].has_value(); }
  size_t offset(GroupIndex group) const {
    CHECK(hosts(group), "group {} is not hosted here", group.value);
    return *offsets_[group.value];
  }
  // Of the hosted experts of a layer, ascending.
  const std::vector<GroupIndex>& experts(LayerIndex layer) const {
    return experts_[layer.value].groups;
  }
  template <class P>
  kernels::ExpertTensors<P> expert_tensors(LayerIndex layer, P base) const {
    const LayerExperts& experts = experts_[layer.value];
    return {base + experts.base, experts.stride};
  }

 private:
  static constexpr size_t kAlign = 64;  // elements
  struct LayerExperts {
    size_t base = 0, stride = 0;
    std::vector<GroupIndex> groups;
  };
  size_t elements_ = 0;
  std::vector<std::optional<size_t>> offsets_;  // by group
  std::vector<LayerExperts> experts_;           // by layer
};

}  // namespace holdfast::train
