// Weight gradients of one step on one lane, by group: the sums that reduce sends to the owners.
// Default mode: fp32, added by the W functions in place. Reproducible mode: each micro-batch's share
// is computed in fp32 and added in fixed point, which is associative (section 5 of DESIGN.md).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "train/model/moe_model.h"
#include "train/optimizer/stage_map.h"

namespace holdfast::train {

// Fixed point: 2^44 steps to one; a micro-batch's share of one element must stay below 2^18.
inline constexpr int kFixedPointBits = 44;
inline constexpr double kFixedPointLimit = 0x1p18;

class Gradients final : public GradientSink<float> {
 public:
  explicit Gradients(bool reproducible) : reproducible_(reproducible) {}

  // Room for the groups that this lane hosts, zeroed; called at the start of every step.
  void reset(const StageMap& map);

  float* begin(GroupIndex group) override;
  Status commit(GroupIndex group) override;

  bool reproducible() const { return reproducible_; }
  // As bytes of the mode's element, for the range of one shard.
  size_t element_bytes() const { return reproducible_ ? sizeof(int64_t) : sizeof(float); }
  const std::byte* bytes(GroupIndex group, size_t element) const;

 private:
  const bool reproducible_;
  std::vector<std::vector<float>> sums_;     // by group; empty: not hosted
  std::vector<std::vector<int64_t>> fixed_;  // reproducible mode only
  std::vector<float> scratch_;
};

}  // namespace holdfast::train
