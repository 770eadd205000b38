// How payload travels between the lanes of a view: what each lane tells of its accelerator, and
// what follows from it, the same on every lane.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace holdfast::train {

// Travels between lanes as it is.
struct LaneDevice {
  std::array<uint8_t, 16> uuid{};
  uint32_t nccl_version = 0;  // as 22803 for 2.28.3; 0: NCCL cannot be used on this lane
};
static_assert(sizeof(LaneDevice) == 20);

std::string nccl_version_text(uint32_t version);

// Why NCCL cannot be used between these lanes, in words; nullopt: it can.
std::optional<std::string> why_not_nccl(std::span<const LaneDevice> lanes);

}  // namespace holdfast::train
