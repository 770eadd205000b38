#include "train/optimizer/reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "train/kernels/backends.h"

namespace holdfast::train {
namespace {

__extension__ using Int128 = __int128;

// Squares are taken of 2^32 steps to one: together they stay below 2^127 for any model.
constexpr int kNormShift = kFixedPointBits - 32;
constexpr int64_t kNormLimit = int64_t{1} << 46;

// Calls take(flat, range) for what this lane sends to `to`, in the order that it is sent.
template <class Take>
void for_each_sent(const StageMap& map, ShardSpan span, uint32_t to, Take take) {
  for (uint32_t flat = span.begin; flat < span.end; ++flat)
    if (map.owner_lane[flat] == to && map.hosts(map.shard(flat).group, map.lane))
      take(map.shard(flat), map.layout->range(map.shard(flat)));
}

// And for what it gets: contributions lie in lane order, and within a lane in shard order.
template <class Take>
Status for_each_received(const StageMap& map, ShardSpan span, Take take) {
  for (uint32_t lane = 0; lane < map.lanes; ++lane)
    for (uint32_t flat = span.begin; flat < span.end; ++flat)
      if (map.owner_lane[flat] == map.lane && map.hosts(map.shard(flat).group, lane))
        RETURN_IF_ERROR(take(flat, map.layout->range(map.shard(flat)).size()));
  return {};
}

Status add_fixed(const int64_t* from, uint32_t shard, std::vector<int64_t>& sum) {
  for (size_t i = 0; i < sum.size(); ++i)
    if (__builtin_add_overflow(sum[i], from[i], &sum[i]))
      return fail(
          ErrorCode::kGradientOverflow,
          fmt::format("the sum of element {} of shard {} does not fit fixed point", i, shard));
  return {};
}

Result<Int128> sum_of_squares(const std::vector<int64_t>& sums, uint32_t shard) {
  Int128 squares = 0;
  for (const int64_t sum : sums) {
    const int64_t part = sum >> kNormShift;
    if (part >= kNormLimit || part <= -kNormLimit)
      return fail(ErrorCode::kGradientOverflow,
                  fmt::format("a gradient of shard {} is too large for the norm", shard));
    squares += static_cast<Int128>(part) * part;
  }
  return squares;
}

}  // namespace

// Room for the owned shards' sums.
template <class B>
void Reducer<B>::open(const StageMap& map) {
  size_t elements = 0;
  std::map<uint32_t, size_t> offsets;
  for (uint32_t flat = 0; flat < map.owner_lane.size(); ++flat) {
    if (map.owner_lane[flat] != map.lane) continue;
    offsets[flat] = elements;
    elements += (map.layout->range(map.shard(flat)).size() + 3) / 4 * 4;
  }
  sums_.resize(elements);
  values_.clear();
  own_.clear();
  for (const auto& [flat, offset] : offsets) values_[flat] = own_[flat] = sums_.data() + offset;
}

template <class B>
Status Reducer<B>::reduce(PayloadExchange& payload, const StageMap& map,
                          const Gradients<B>& gradients) {
  reproducible_ = gradients.reproducible();
  if (reproducible_) return reduce_fixed(payload, map, gradients);
  if (map.lanes > 1) return reduce_sums(payload, map, gradients);
  values_.clear();  // one lane: its own sums are the sums
  for (uint32_t flat = 0; flat < map.owner_lane.size(); ++flat) {
    if (!map.has(flat)) continue;
    const ShardId shard = map.shard(flat);
    values_[flat] = gradients.sums(shard.group, map.layout->range(shard).begin);
  }
  return {};
}

template <class B>
Status Reducer<B>::reduce_sums(PayloadExchange& payload, const StageMap& map,
                               const Gradients<B>& gradients) {
  open(map);
  zero(device_, sums_.data(), sums_.size());
  for (const ShardSpan span : exchange_spans(map)) {
    const SpanTraffic traffic = span_traffic(map, span);
    send_.resize(PayloadExchange::total(traffic.hosted_here));
    recv_.resize(PayloadExchange::total(traffic.owned_here));
    float* to_send = send_.data();
    for (uint32_t to = 0; to < map.lanes; ++to)
      for_each_sent(map, span, to, [&](ShardId shard, ElementRange range) {
        copy(device_, gradients.sums(shard.group, range.begin), range.size(), to_send);
        to_send += range.size();
      });
    RETURN_IF_ERROR(payload.all_to_all(reinterpret_cast<const std::byte*>(send_.data()),
                                       in_bytes(traffic.hosted_here, sizeof(float)),
                                       reinterpret_cast<std::byte*>(recv_.data()),
                                       in_bytes(traffic.owned_here, sizeof(float))));
    const float* from = recv_.data();
    RETURN_IF_ERROR(for_each_received(map, span, [&](uint32_t flat, size_t elements) -> Status {
      add(device_, from, elements, own_.at(flat));
      from += elements;
      return {};
    }));
  }
  return device_.check();
}

template <class B>
Status Reducer<B>::reduce_fixed(PayloadExchange& payload, const StageMap& map,
                                const Gradients<B>& gradients) {
  open(map);
  squares_ = 0;
  for (const ShardSpan span : exchange_spans(map)) {
    const SpanTraffic traffic = span_traffic(map, span);
    std::vector<int64_t> send, recv(PayloadExchange::total(traffic.owned_here));
    for (uint32_t to = 0; to < map.lanes; ++to)
      for_each_sent(map, span, to, [&](ShardId shard, ElementRange range) {
        const int64_t* from = gradients.fixed(shard.group, range.begin);
        send.insert(send.end(), from, from + range.size());
      });
    RETURN_IF_ERROR(payload.all_to_all(reinterpret_cast<const std::byte*>(send.data()),
                                       in_bytes(traffic.hosted_here, sizeof(int64_t)),
                                       reinterpret_cast<std::byte*>(recv.data()),
                                       in_bytes(traffic.owned_here, sizeof(int64_t))));
    std::map<uint32_t, std::vector<int64_t>> sums;
    const int64_t* from = recv.data();
    RETURN_IF_ERROR(for_each_received(map, span, [&](uint32_t flat, size_t elements) {
      std::vector<int64_t>& sum = sums[flat];
      sum.resize(elements);
      const Status added = add_fixed(from, flat, sum);
      from += elements;
      return added;
    }));
    for (const auto& [flat, sum] : sums) {
      ASSIGN_OR_RETURN(const Int128 squares, sum_of_squares(sum, flat));
      squares_ += squares;
      float* values = own_.at(flat);
      for (size_t i = 0; i < sum.size(); ++i)
        values[i] = static_cast<float>(std::ldexp(static_cast<double>(sum[i]), -kFixedPointBits));
    }
  }
  return {};
}

template <class B>
Result<double> Reducer<B>::exact_norm(Communicator& comm) const {
  std::vector<Int128> all(comm.size());
  const std::vector<size_t> sizes(comm.size(), sizeof squares_);
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&squares_, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  Int128 total = 0;
  for (const Int128 one : all) total += one;
  return std::sqrt(static_cast<double>(total)) * 0x1p-32;
}

template <class B>
Result<double> Reducer<B>::norm(Communicator& comm, const ParameterLayout& layout,
                                std::span<const uint32_t> owners) {
  if (reproducible_) {
    RETURN_IF_ERROR(device_.finish());
    return exact_norm(comm);
  }
  shard_squares_.resize(values_.size());
  host_squares_.resize(values_.size());
  std::vector<kernels::FloatRange> ranges;
  for (const auto& [flat, values] : values_)
    ranges.push_back({values, layout.range(ShardId::unflat(flat, layout.slices())).size()});
  sum_squares(device_, ranges, shard_squares_.data());
  download(device_, shard_squares_.data(), values_.size(), host_squares_.data());
  RETURN_IF_ERROR(device_.finish());

  std::vector<uint32_t> ranks;
  std::copy_if(owners.begin(), owners.end(), std::back_inserter(ranks),
               [](uint32_t rank) { return rank != kNoLane; });
  std::vector<size_t> sizes(comm.size());
  for (const uint32_t rank : ranks) sizes[rank] += sizeof(double);
  std::vector<double> all(ranks.size());
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(host_squares_.span()),
                                  std::as_writable_bytes(std::span(all)), sizes));
  // By owner, then by shard: back into shard order.
  std::vector<size_t> next(comm.size());
  for (uint32_t rank = 1; rank < comm.size(); ++rank)
    next[rank] = next[rank - 1] + sizes[rank - 1] / sizeof(double);
  double total = 0;
  for (const uint32_t rank : ranks) total += all[next[rank]++];
  return std::sqrt(total);
}

template class Reducer<CpuBackend<float>>;
#define INSTANTIATE(B) template class Reducer<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
