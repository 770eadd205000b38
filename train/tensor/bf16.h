// bfloat16 as a storage type: the upper half of a float. Kernels compute in fp32; nothing here does
// arithmetic.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace holdfast::train {

struct Bf16 {
  uint16_t bits;
  bool operator==(const Bf16&) const = default;
};
static_assert(sizeof(Bf16) == 2);

// Round to nearest, ties to even, as the device does; NaN stays NaN.
inline Bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline float to_float(Bf16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

}  // namespace holdfast::train
