#include "train/optimizer/gradients.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"

namespace holdfast::train {

void Gradients::reset(const StageMap& map) {
  const auto groups = map.layout->groups();
  sums_.resize(groups.size());
  fixed_.resize(groups.size());
  for (const GroupSpec& group : groups) {
    const size_t elements = map.hosts(group.index, map.lane) ? group.elements : 0;
    if (reproducible_) {
      fixed_[group.index.value].assign(elements, 0);
    } else {
      sums_[group.index.value].assign(elements, 0.0F);
    }
  }
}

float* Gradients::begin(GroupIndex group) {
  if (!reproducible_) return sums_[group.value].data();
  scratch_.assign(fixed_[group.value].size(), 0.0F);
  return scratch_.data();
}

Status Gradients::commit(GroupIndex group) {
  if (!reproducible_) return {};
  std::vector<int64_t>& sum = fixed_[group.value];
  for (size_t i = 0; i < sum.size(); ++i) {
    const double value = scratch_[i];
    const bool fits = std::abs(value) < kFixedPointLimit;  // false for what is not a number
    if (!fits || __builtin_add_overflow(sum[i], std::llround(std::ldexp(value, kFixedPointBits)),
                                        &sum[i]))
      return fail(ErrorCode::kGradientOverflow,
                  fmt::format("gradient element {} of group {} is {}, fixed point takes less than "
                              "{} a micro-batch",
                              i, group.value, value, kFixedPointLimit));
  }
  return {};
}

const std::byte* Gradients::bytes(GroupIndex group, size_t element) const {
  if (reproducible_)
    return reinterpret_cast<const std::byte*>(fixed_[group.value].data() + element);
  return reinterpret_cast<const std::byte*>(sums_[group.value].data() + element);
}

}  // namespace holdfast::train
