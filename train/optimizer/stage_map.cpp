#include "train/optimizer/stage_map.h"

namespace holdfast::train {

std::vector<ShardSpan> exchange_spans(const StageMap& map) {
  std::vector<ShardSpan> spans;
  size_t elements = kExchangeElements;
  for (uint32_t flat = 0; flat < map.layout->shard_count(); ++flat) {
    if (!map.has(flat)) continue;
    const size_t size = map.layout->range(map.shard(flat)).size();
    if (elements + size > kExchangeElements) {
      spans.push_back({flat, flat});
      elements = 0;
    }
    elements += size;
    spans.back().end = flat + 1;
  }
  return spans;
}

SpanTraffic span_traffic(const StageMap& map, ShardSpan span) {
  SpanTraffic traffic{std::vector<size_t>(map.lanes), std::vector<size_t>(map.lanes)};
  for (uint32_t flat = span.begin; flat < span.end; ++flat) {
    const ShardId shard = map.shard(flat);
    const size_t elements = map.layout->range(shard).size();
    const uint32_t owner = map.owner_lane[flat];
    if (map.hosts(shard.group, map.lane)) traffic.hosted_here[owner] += elements;
    for (uint32_t host = 0; owner == map.lane && host < map.lanes; ++host)
      if (map.hosts(shard.group, host)) traffic.owned_here[host] += elements;
  }
  return traffic;
}

std::vector<size_t> in_bytes(std::vector<size_t> elements, size_t width) {
  for (size_t& count : elements) count *= width;
  return elements;
}

}  // namespace holdfast::train
