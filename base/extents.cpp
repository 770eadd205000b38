#include "base/extents.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace holdfast {

std::optional<uint64_t> FreeExtents::take(uint64_t bytes) {
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const auto& extent) { return extent.second >= bytes; });
  if (fits == free_.end()) return std::nullopt;
  const uint64_t offset = fits->first;
  CHECK(take_at(offset, bytes));
  return offset;
}

bool FreeExtents::take_at(uint64_t offset, uint64_t bytes) {
  auto extent = free_.upper_bound(offset);
  if (extent == free_.begin()) return false;
  --extent;
  const auto [begin, length] = *extent;
  const uint64_t end = begin + length;
  if (offset + bytes > end) return false;
  free_.erase(extent);
  if (offset > begin) free_.emplace(begin, offset - begin);
  if (offset + bytes < end) free_.emplace(offset + bytes, end - offset - bytes);
  return true;
}

void FreeExtents::give_back(uint64_t offset, uint64_t bytes) {
  auto next = free_.lower_bound(offset);
  CHECK(next == free_.end() || offset + bytes <= next->first, "freed twice: offset {}", offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    CHECK(before->first + before->second <= offset, "freed twice: offset {}", offset);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  free_.emplace(offset, bytes);
}

uint64_t FreeExtents::free_bytes() const {
  uint64_t sum = 0;
  for (const auto& [offset, bytes] : free_) sum += bytes;
  return sum;
}

uint64_t FreeExtents::largest() const {
  uint64_t most = 0;
  for (const auto& [offset, bytes] : free_) most = std::max(most, bytes);
  return most;
}

}  // namespace holdfast
