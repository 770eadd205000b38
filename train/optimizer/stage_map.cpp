#include "train/optimizer/stage_map.h"

namespace holdfast::train {

std::vector<ShardSpan> exchange_spans(const ParameterLayout& layout) {
  std::vector<ShardSpan> spans;
  size_t elements = kExchangeElements;
  for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
    const size_t size = layout.range(ShardId::unflat(flat, layout.slices())).size();
    if (elements + size > kExchangeElements) {
      spans.push_back({flat, flat});
      elements = 0;
    }
    elements += size;
    spans.back().end = flat + 1;
  }
  return spans;
}

}  // namespace holdfast::train
