// What a rank tells the others before they connect: where each of its pairs listens. Little endian:
// "HFG1", rank u32, size u32, then `size` times (length u32, bytes).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace holdfast::train {

struct GlooAddress {
  uint32_t rank = 0;
  std::vector<std::string> pairs;  // by peer; empty for the rank itself
};

std::string encode(const GlooAddress& address);
// kCommSetup saying what is wrong.
Result<GlooAddress> decode_gloo_address(std::string_view blob);

}  // namespace holdfast::train
