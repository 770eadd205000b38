#include "ctl/export/state_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/checksum.h"
#include "base/json.h"
#include "train/worker/base64.h"

namespace holdfast::ctl {
namespace {

namespace api = daemon::api;

constexpr int64_t kReadTimeoutMs = 30'000;  // a node sums the whole shard first
constexpr int64_t kReleaseTimeoutMs = 1'000;

}  // namespace

StateReader::StateReader(daemon::ControlClient client, std::string key, const StateVersion& state,
                         const train::ParameterLayout& layout)
    : client_(std::move(client)), key_(std::move(key)), state_(state), layout_(layout) {}

StateReader::~StateReader() {
  for (const NodeId& node : asked_)
    (void)client_.call("GET", target("", node) + "&hold=0", {}, kReleaseTimeoutMs);
}

std::string StateReader::target(const std::string& part, const NodeId& node) const {
  return fmt::format("/v1/snapshots/{}/shards{}?version={}&made={}&node={}", key_, part,
                     state_.version.value, to_string(state_.made), node.value);
}

Status StateReader::locate() {
  ASSIGN_OR_RETURN(const auto body, client_.call("GET", "/v1/nodes", {}, kReadTimeoutMs));
  ASSIGN_OR_RETURN(auto nodes, from_json<std::vector<api::Node>>(body, "nodes"));
  ASSIGN_OR_RETURN(const auto here, client_.call("GET", "/v1/snapshots", {}, kReadTimeoutMs));
  ASSIGN_OR_RETURN(const auto own, from_json<api::Snapshots>(here, "snapshots"));
  // What this daemon holds itself travels once.
  std::stable_partition(nodes.begin(), nodes.end(),
                        [&](const api::Node& node) { return node.node == own.node; });
  std::string silent;
  for (const api::Node& node : nodes) {
    if (node.state == "down") continue;
    const auto answer = client_.call("GET", target("", node.node), {}, kReadTimeoutMs);
    if (!answer) {  // others may hold the same
      silent += fmt::format("; {}", answer.error().message);
      continue;
    }
    asked_.push_back(node.node);
    ASSIGN_OR_RETURN(const auto held, from_json<api::HeldShardList>(*answer, "shards"));
    for (const ShardId shard : held.shards) holders_[shard].push_back(node.node);
  }
  for (uint32_t flat = 0; flat < layout_.shard_count(); ++flat) {
    const ShardId shard = ShardId::unflat(flat, layout_.slices());
    if (layout_.range(shard).size() > 0 && !holders_.contains(shard))
      return fail(ErrorCode::kBlockMissing, fmt::format("no node that is up holds {} at {}{}",
                                                        to_string(shard), to_string(state_), silent));
  }
  return {};
}

Status StateReader::read(const std::function<Status(std::span<const float>)>& take) {
  for (uint32_t flat = 0; flat < layout_.shard_count(); ++flat)
    RETURN_IF_ERROR(read_shard(ShardId::unflat(flat, layout_.slices()), take));
  return {};
}

// Master weights come first in a payload (docs/formats.md). A holder that fails is asked last.
Status StateReader::read_shard(ShardId shard,
                               const std::function<Status(std::span<const float>)>& take) {
  const uint64_t bytes = layout_.range(shard).size() * sizeof(float);
  if (bytes == 0) return {};
  std::vector<NodeId>& holders = holders_.at(shard);
  std::stable_partition(holders.begin(), holders.end(),
                        [&](const NodeId& node) { return !silent_.contains(node); });
  for (uint64_t offset = 0; offset < bytes;) {
    const uint64_t length = std::min(bytes - offset, api::kMaxShardRangeBytes);
    Result<std::vector<float>> values;
    for (size_t i = 0; i < holders.size(); ++i) {
      values = read_range(shard, holders.front(), offset, length);
      if (values) break;
      const ErrorCode code = values.error().code;
      if (code == ErrorCode::kPeerUnreachable || code == ErrorCode::kTimeout)
        silent_.insert(holders.front());
      std::rotate(holders.begin(), holders.begin() + 1, holders.end());
    }
    if (!values) return fail(values.error());
    RETURN_IF_ERROR(take(*values));
    offset += length;
  }
  return {};
}

Result<std::vector<float>> StateReader::read_range(ShardId shard, const NodeId& node,
                                                   uint64_t offset, uint64_t length) const {
  const std::string part = fmt::format("/{}/{}", shard.group.value, shard.slice.value);
  ASSIGN_OR_RETURN(
      const auto body,
      client_.call("GET", target(part, node) + fmt::format("&offset={}&length={}", offset, length),
                   {}, kReadTimeoutMs));
  ASSIGN_OR_RETURN(const auto range, from_json<api::ShardRange>(body, "range of a shard"));
  ASSIGN_OR_RETURN(const std::string bytes, train::from_base64(range.data));
  const auto damaged = [&](const std::string& why) {
    return fail(ErrorCode::kBlockInvalid, fmt::format("[{}, +{}) of {} at {} came from {} {}", offset,
                                                      length, to_string(shard), to_string(state_),
                                                      node.value, why));
  };
  if (range.shard != shard || range.state != state_ || range.offset != offset ||
      bytes.size() != length)
    return damaged("as something else");
  if (range.payload_bytes != layout_.shard_bytes(shard))
    return damaged(fmt::format("out of {} bytes, the model's shard has {}", range.payload_bytes,
                               layout_.shard_bytes(shard)));
  if (checksum64(bytes) != range.checksum) return damaged("with another checksum");
  std::vector<float> values(length / sizeof(float));
  std::memcpy(values.data(), bytes.data(), length);
  return values;
}

}  // namespace holdfast::ctl
