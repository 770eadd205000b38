// Whether a copy stays inside the two regions; both implementations refuse the same ones.
#pragma once

#include <fmt/format.h>

#include <cstdint>

#include "base/result.h"

namespace holdfast::storage {

constexpr bool inside(uint64_t offset, uint64_t length, uint64_t region_length) {
  return length <= region_length && offset <= region_length - length;
}

inline Status check_ranges(uint64_t local_offset, uint64_t local_region, uint64_t remote_offset,
                           uint64_t remote_region, uint64_t length) {
  if (!inside(local_offset, length, local_region))
    return fail(ErrorCode::kFabricProtocol,
                fmt::format("copy of {} bytes at offset {} leaves our region of {} bytes", length,
                            local_offset, local_region));
  if (!inside(remote_offset, length, remote_region))
    return fail(ErrorCode::kFabricProtocol,
                fmt::format("copy of {} bytes at offset {} leaves the peer's region of {} bytes",
                            length, remote_offset, remote_region));
  return {};
}

// More operations than this under way on one channel are refused with kQueueFull.
inline constexpr uint64_t kMaxOperations = 4096;

}  // namespace holdfast::storage
