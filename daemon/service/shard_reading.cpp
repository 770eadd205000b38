#include "daemon/service/shard_reading.h"

#include <fmt/format.h>

#include <atomic>
#include <charconv>
#include <set>
#include <string_view>

#include "base/checksum.h"
#include "daemon/service/cluster_routes.h"
#include "train/worker/base64.h"

namespace holdfast::daemon {
namespace {

using storage::BlockInfo;

template <class Number>
bool parse_number(std::string_view text, Number& number, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return error == std::errc() && end == text.data() + text.size();
}

// "3.17"
bool parse_epoch(std::string_view text, Epoch& epoch) {
  const size_t dot = text.find('.');
  return dot != std::string_view::npos && parse_number(text.substr(0, dot), epoch.incarnation) &&
         parse_number(text.substr(dot + 1), epoch.number);
}

// "4/1": group and slice
bool parse_shard(std::string_view text, ShardId& shard) {
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && parse_number(text.substr(0, slash), shard.group.value) &&
         parse_number(text.substr(slash + 1), shard.slice.value);
}

bool is_wanted(const BlockInfo& block, const ShardQuery& query) {
  return block.header && block.header->job == query.job && block.header->state == query.state &&
         (!query.shard || block.header->shard == *query.shard);
}

// The payload is checked where it lies and copied. A block that was freed meanwhile may have been
// written over: then it is not the same grant any more.
Result<std::string> copy_range(storage::Arena& arena, const BlockInfo& block,
                               const ShardQuery& query) {
  ASSIGN_OR_RETURN(const auto payload, arena.read_verified(block.index, *block.header));
  if (query.offset > payload.size() || query.length > payload.size() - query.offset)
    return fail(ErrorCode::kUsage, fmt::format("[{}, +{}) is not within the {} bytes of {}",
                                               query.offset, query.length, payload.size(),
                                               to_string(*query.shard)));
  const auto range = payload.subspan(query.offset, query.length);
  std::string bytes(reinterpret_cast<const char*>(range.data()), range.size());
  std::atomic_thread_fence(std::memory_order_acquire);
  const auto after = arena.info(block.index);
  if (!after || after->generation != block.generation || after->header != block.header)
    return fail(ErrorCode::kBlockMissing, fmt::format("{} at {} was freed while it was read",
                                                      to_string(*query.shard),
                                                      to_string(query.state)));
  return bytes;
}

}  // namespace

Result<ShardQuery> parse_shard_query(const HttpRequest& request) {
  constexpr std::string_view kSnapshots = "/v1/snapshots/";
  constexpr std::string_view kShards = "shards";
  const auto bad = [&](std::string_view what) {
    return fail(ErrorCode::kUsage, fmt::format("{} in {}", what, request.target));
  };
  std::string_view path = request.path();
  if (request.method != "GET" || !path.starts_with(kSnapshots)) return unknown_path(request);
  path.remove_prefix(kSnapshots.size());
  const size_t slash = path.find('/');
  ShardQuery query;
  if (slash != 16 || !parse_number(path.substr(0, slash), query.job, 16))
    return bad("a job's key has 16 hexadecimal digits; it is not so");
  path.remove_prefix(slash + 1);
  if (!path.starts_with(kShards)) return unknown_path(request);
  path.remove_prefix(kShards.size());
  if (!path.empty()) {
    query.shard.emplace();
    if (path.front() != '/' || !parse_shard(path.substr(1), *query.shard))
      return bad("shards/GROUP/SLICE are two numbers; they are not so");
  }
  if (request.query("version").empty()) return bad("version= is missing");
  ASSIGN_OR_RETURN(query.state.version.value, query_number(request, "version", 0));
  if (!parse_epoch(request.query("made"), query.state.made))
    return bad("made= is an epoch like 1732000000.17; it is not so");
  ASSIGN_OR_RETURN(query.offset, query_number(request, "offset", 0));
  ASSIGN_OR_RETURN(query.length, query_number(request, "length", 0));
  if (query.length > api::kMaxShardRangeBytes)
    return bad(fmt::format("length= is at most {}; it is not so", api::kMaxShardRangeBytes));
  query.hold = request.query("hold") != "0";
  query.node = NodeId(std::string(request.query("node")));
  return query;
}

std::vector<ShardId> held_shards(storage::Arena& arena, const ShardQuery& query) {
  std::set<ShardId> shards;
  for (const BlockInfo& block : arena.scan())
    if (is_wanted(block, query)) shards.insert(block.header->shard);
  return {shards.begin(), shards.end()};
}

Result<api::ShardRange> read_shard_range(storage::Arena& arena, const NodeId& self,
                                         const ShardQuery& query) {
  Error why{ErrorCode::kBlockMissing, fmt::format("{} does not hold {} at {}", self.value,
                                                  to_string(*query.shard), to_string(query.state))};
  for (const BlockInfo& block : arena.scan()) {
    if (!is_wanted(block, query)) continue;
    auto bytes = copy_range(arena, block, query);
    if (bytes)
      return api::ShardRange{self,         *query.shard,       query.state, block.header->length,
                             query.offset, checksum64(*bytes), train::to_base64(*bytes)};
    why = std::move(bytes).error();
  }
  return fail(std::move(why));
}

}  // namespace holdfast::daemon
