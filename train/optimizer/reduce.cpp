#include "train/optimizer/reduce.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

namespace holdfast::train {
namespace {

__extension__ using Int128 = __int128;

// Squares are taken of 2^32 steps to one: together they stay below 2^127 for any model.
constexpr int kNormShift = kFixedPointBits - 32;
constexpr int64_t kNormLimit = int64_t{1} << 46;

struct Exchange {
  std::vector<std::byte> send, recv;
  std::vector<size_t> send_bytes, recv_bytes;
};

// What this lane sends and receives for the shards of one span.
Exchange prepare(const StageMap& map, const Gradients& gradients, ShardSpan span) {
  Exchange exchange;
  exchange.send_bytes.resize(map.lanes);
  exchange.recv_bytes.resize(map.lanes);
  const size_t width = gradients.element_bytes();
  for (uint32_t to = 0; to < map.lanes; ++to) {
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      const ShardId shard = map.shard(flat);
      if (map.owner_lane[flat] != to || !map.hosts(shard.group, map.lane)) continue;
      const ElementRange range = map.layout->range(shard);
      const std::byte* from = gradients.bytes(shard.group, range.begin);
      exchange.send.insert(exchange.send.end(), from, from + range.size() * width);
      exchange.send_bytes[to] += range.size() * width;
    }
  }
  size_t total = 0;
  for (uint32_t from = 0; from < map.lanes; ++from) {
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      const ShardId shard = map.shard(flat);
      if (map.owner_lane[flat] != map.lane || !map.hosts(shard.group, from)) continue;
      exchange.recv_bytes[from] += map.layout->range(shard).size() * width;
    }
    total += exchange.recv_bytes[from];
  }
  exchange.recv.resize(total);
  return exchange;
}

Status add(std::vector<float>& sum, const std::byte* from, uint32_t) {
  for (size_t i = 0; i < sum.size(); ++i) {
    float value;
    std::memcpy(&value, from + i * sizeof value, sizeof value);
    sum[i] += value;
  }
  return {};
}

Status add(std::vector<int64_t>& sum, const std::byte* from, uint32_t shard) {
  for (size_t i = 0; i < sum.size(); ++i) {
    int64_t value;
    std::memcpy(&value, from + i * sizeof value, sizeof value);
    if (__builtin_add_overflow(sum[i], value, &sum[i]))
      return fail(ErrorCode::kGradientOverflow,
                  fmt::format("the sum of element {} of shard {} does not fit fixed point", i,
                              shard));
  }
  return {};
}

// Contributions lie in lane order, and within a lane in shard order.
template <class Sum>
Status sum_up(const StageMap& map, ShardSpan span, const Exchange& exchange,
              std::map<uint32_t, std::vector<Sum>>& sums) {
  const std::byte* from = exchange.recv.data();
  for (uint32_t flat = span.begin; flat < span.end; ++flat)
    if (map.owner_lane[flat] == map.lane)
      sums[flat].assign(map.layout->range(map.shard(flat)).size(), Sum{});
  for (uint32_t lane = 0; lane < map.lanes; ++lane) {
    for (uint32_t flat = span.begin; flat < span.end; ++flat) {
      if (map.owner_lane[flat] != map.lane || !map.hosts(map.shard(flat).group, lane)) continue;
      RETURN_IF_ERROR(add(sums[flat], from, flat));
      from += sums[flat].size() * sizeof(Sum);
    }
  }
  return {};
}

}  // namespace

std::vector<float> ReducedGradients::values(uint32_t shard) const {
  if (!reproducible_) return sums_.at(shard);
  std::vector<float> values;
  for (const int64_t sum : fixed_.at(shard))
    values.push_back(static_cast<float>(std::ldexp(static_cast<double>(sum), -kFixedPointBits)));
  return values;
}

Result<ReducedGradients> reduce(Communicator& comm, const StageMap& map,
                                const Gradients& gradients) {
  ReducedGradients reduced;
  reduced.reproducible_ = gradients.reproducible();
  for (const ShardSpan span : exchange_spans(*map.layout)) {
    Exchange exchange = prepare(map, gradients, span);
    RETURN_IF_ERROR(comm.all_to_all(exchange.send, exchange.send_bytes, exchange.recv,
                                    exchange.recv_bytes));
    RETURN_IF_ERROR(gradients.reproducible() ? sum_up(map, span, exchange, reduced.fixed_)
                                             : sum_up(map, span, exchange, reduced.sums_));
  }
  return reduced;
}

namespace {

Result<double> exact_norm(Communicator& comm,
                          const std::map<uint32_t, std::vector<int64_t>>& fixed) {
  Int128 squares = 0;
  for (const auto& [shard, sums] : fixed) {
    for (const int64_t sum : sums) {
      const int64_t part = sum >> kNormShift;
      if (part >= kNormLimit || part <= -kNormLimit)
        return fail(ErrorCode::kGradientOverflow,
                    fmt::format("a gradient of shard {} is too large for the norm", shard));
      squares += static_cast<Int128>(part) * part;
    }
  }
  std::vector<Int128> all(comm.size());
  const std::vector<size_t> sizes(comm.size(), sizeof squares);
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&squares, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  Int128 total = 0;
  for (const Int128 one : all) total += one;
  return std::sqrt(static_cast<double>(total)) * 0x1p-32;
}

}  // namespace

Result<double> global_norm(Communicator& comm, const StageMap& map,
                           const ReducedGradients& gradients) {
  if (gradients.reproducible_) return exact_norm(comm, gradients.fixed_);
  std::vector<double> mine;
  for (const auto& [shard, sums] : gradients.sums_) {
    double squares = 0;
    for (const float sum : sums) squares += double{sum} * sum;
    mine.push_back(squares);
  }
  std::vector<size_t> sizes(map.lanes);
  for (const uint32_t lane : map.owner_lane) sizes[lane] += sizeof(double);
  std::vector<double> all(map.owner_lane.size());
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(mine)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  // By owner, then by shard: back into shard order.
  std::vector<size_t> next(map.lanes);
  for (uint32_t lane = 1; lane < map.lanes; ++lane)
    next[lane] = next[lane - 1] + sizes[lane - 1] / sizeof(double);
  double total = 0;
  for (const uint32_t lane : map.owner_lane) total += all[next[lane]++];
  return std::sqrt(total);
}

}  // namespace holdfast::train
