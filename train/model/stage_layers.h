// Which part of the model one stage computes: consecutive layers, before them the embedding at the
// first stage, after them the head at the last.
#pragma once

#include <cstdint>
#include <vector>

#include "train/model/parameter_layout.h"

namespace holdfast::train {

struct StageLayers {
  uint32_t first_layer = 0;
  uint32_t layers = 0;
  bool embeds = false;
  bool has_head = false;

  uint32_t end_layer() const { return first_layer + layers; }
  bool has(LayerIndex layer) const {
    return layer.value >= first_layer && layer.value < end_layer();
  }
  bool has(const GroupSpec& group) const {
    switch (group.kind) {
      case GroupKind::kEmbedding:
        return embeds;
      case GroupKind::kHead:
        return has_head;
      case GroupKind::kAttention:
      case GroupKind::kRouter:
      case GroupKind::kExpert:
        break;
    }
    return has(group.layer);
  }
  bool operator==(const StageLayers&) const = default;
};

// S = 1.
inline StageLayers whole_model(const conf::ModelConfig& model) {
  return {0, model.layers, true, true};
}

}  // namespace holdfast::train
