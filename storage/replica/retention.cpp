#include "storage/replica/retention.h"

#include <algorithm>

namespace holdfast::storage {

bool may_free(const StateVersion& state, const Watermark& watermark) {
  if (state == watermark.safe) return false;
  if (is_void(state, watermark.history)) return true;
  if (is_void(watermark.safe, watermark.history)) return false;
  if (state.version < watermark.safe.version) return true;
  if (state.version == watermark.safe.version) return false;
  return std::find(watermark.abandoned.begin(), watermark.abandoned.end(), state.version) !=
         watermark.abandoned.end();
}

std::vector<BlockInfo> blocks_to_free(std::span<const BlockInfo> blocks,
                                      const Watermark& watermark) {
  std::vector<BlockInfo> free;
  for (const BlockInfo& block : blocks) {
    if (block.header && block.header->job == watermark.job &&
        may_free(block.header->state, watermark))
      free.push_back(block);
  }
  return free;
}

}  // namespace holdfast::storage
