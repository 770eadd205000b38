#include "train/optimizer/materialize.h"

#include <vector>

#include "train/kernels/backends.h"

namespace holdfast::train {
namespace {

template <class B>
Status exchange_span(typename B::Device& device, PayloadExchange& payload, const StageMap& map,
                     ShardSpan span, ShardStore<B>& store, MaterializeScratch<B>& scratch,
                     ComputeWeights<B>& weights) {
  using V = typename B::Value;
  const SpanTraffic traffic = span_traffic(map, span);
  scratch.send.resize(PayloadExchange::total(traffic.owned_here));
  scratch.recv.resize(PayloadExchange::total(traffic.hosted_here));
  V* to_send = scratch.send.data();
  for (uint32_t to = 0; to < map.lanes; ++to) {
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      if (map.owner_lane[flat] != map.lane || !map.hosts(map.shard(flat).group, to)) continue;
      const auto master = store.now(flat).master;
      convert(device, master.data(), master.size(), to_send);
      to_send += master.size();
    }
  }
  RETURN_IF_ERROR(payload.all_to_all(reinterpret_cast<const std::byte*>(scratch.send.data()),
                                     in_bytes(traffic.owned_here, sizeof(V)),
                                     reinterpret_cast<std::byte*>(scratch.recv.data()),
                                     in_bytes(traffic.hosted_here, sizeof(V))));
  std::vector<size_t> at(map.lanes);
  for (uint32_t lane = 1; lane < map.lanes; ++lane)
    at[lane] = at[lane - 1] + traffic.hosted_here[lane - 1];
  for (uint32_t flat = span.begin; flat < span.end; ++flat) {
    const ShardId shard = map.shard(flat);
    if (!map.hosts(shard.group, map.lane)) continue;
    const ElementRange range = map.layout->range(shard);
    size_t& from = at[map.owner_lane[flat]];
    copy(device, scratch.recv.data() + from, range.size(), weights.at(shard.group, range.begin));
    from += range.size();
  }
  return device.check();
}

}  // namespace

template <class B>
Status materialize(typename B::Device& device, PayloadExchange& payload, const StageMap& map,
                   ShardStore<B>& store, MaterializeScratch<B>& scratch,
                   ComputeWeights<B>& weights) {
  if (map.lanes == 1) {  // owner and host of all of the stage
    for (uint32_t flat = 0; flat < map.owner_lane.size(); ++flat) {
      if (!map.has(flat)) continue;
      const ShardId shard = map.shard(flat);
      const auto master = store.now(flat).master;
      convert(device, master.data(), master.size(),
              weights.at(shard.group, map.layout->range(shard).begin));
    }
    return device.check();
  }
  for (const ShardSpan span : exchange_spans(map))
    RETURN_IF_ERROR(exchange_span(device, payload, map, span, store, scratch, weights));
  return {};
}

#define INSTANTIATE(B)                                                                          \
  template Status materialize<B>(B::Device&, PayloadExchange&, const StageMap&, ShardStore<B>&, \
                                 MaterializeScratch<B>&, ComputeWeights<B>&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
