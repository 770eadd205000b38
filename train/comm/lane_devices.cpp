#include "train/comm/lane_devices.h"

#include <fmt/format.h>

namespace holdfast::train {

std::string nccl_version_text(uint32_t version) {
  return fmt::format("{}.{}.{}", version / 10'000, version / 100 % 100, version % 100);
}

std::optional<std::string> why_not_nccl(std::span<const LaneDevice> lanes) {
  for (size_t a = 0; a < lanes.size(); ++a)
    for (size_t b = 0; b < a; ++b)
      if (lanes[a].uuid == lanes[b].uuid)
        return fmt::format("lanes {} and {} share one accelerator", b, a);
  for (size_t lane = 0; lane < lanes.size(); ++lane)
    if (lanes[lane].nccl_version == 0) return fmt::format("lane {} cannot use NCCL", lane);
  for (size_t lane = 1; lane < lanes.size(); ++lane)
    if (lanes[lane].nccl_version != lanes[0].nccl_version)
      return fmt::format("lane 0 has NCCL {}, lane {} has {}",
                         nccl_version_text(lanes[0].nccl_version), lane,
                         nccl_version_text(lanes[lane].nccl_version));
  return std::nullopt;
}

}  // namespace holdfast::train
