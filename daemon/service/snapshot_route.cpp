#include "daemon/service/snapshot_route.h"

#include <fmt/format.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/json.h"

namespace holdfast::daemon {

// A request for what another node holds, as it travels between daemons.
struct ForwardedShardQuery {
  std::string target;
};
BOOST_DESCRIBE_STRUCT(ForwardedShardQuery, (), (target))

namespace {

constexpr const char* kPeerTarget = "/peer/v1/snapshots";
constexpr int64_t kPeerTimeoutMs = 20'000;
constexpr uint32_t kMaxReading = 16;  // each takes the room of a range and its base64

}  // namespace

void SnapshotRoute::serve(PeerServer& peers) {
  peers.route(kPeerTarget, [this](const PeerRequest& request, PeerReply reply) {
    auto asked = from_json_text<ForwardedShardQuery>(request.body, kPeerTarget);
    if (!asked) return reply(tl::unexpected(asked.error()));
    HttpRequest http;
    http.method = "GET";
    http.target = std::move(asked->target);
    auto query = parse_shard_query(http);
    if (!query) return reply(tl::unexpected(query.error()));
    if (query->node != ports_.self)  // its address belongs to another node now
      return reply(fail(ErrorCode::kNotFound, fmt::format("this is {}, not {}", ports_.self.value,
                                                          query->node.value)));
    answer_here(*query, std::move(reply));
  });
}

void SnapshotRoute::handle(const HttpRequest& request, ControlAnswer answer) {
  auto query = parse_shard_query(request);
  if (!query) return answer(tl::unexpected(query.error()));
  if (query->node.value.empty() || query->node == ports_.self)
    return answer_here(*query, std::move(answer));
  forward(request, query->node, std::move(answer));
}

void SnapshotRoute::answer_here(const ShardQuery& query, ControlAnswer answer) {
  if (reading_ >= kMaxReading)
    return answer(fail(ErrorCode::kQueueFull,
                       fmt::format("{} reads {} shards already", ports_.self.value, reading_)));
  ++reading_;
  const bool held = query.hold && ports_.holds.hold(query.job, query.state);
  if (!query.hold) ports_.holds.release(query.job, query.state);
  auto body = std::make_shared<Result<std::string>>();
  ports_.loop.aside(
      [body, query, held, &arena = ports_.arena, self = ports_.self] {
        if (query.shard) {
          *body = read_shard_range(arena, self, query).map([](const api::ShardRange& range) {
            return to_json_text(range);
          });
        } else {
          *body = to_json_text(
              api::HeldShardList{self, query.state, held, held_shards(arena, query)});
        }
      },
      [this, body, answer = std::move(answer)] {
        --reading_;
        answer(std::move(*body));
      });
}

void SnapshotRoute::forward(const HttpRequest& request, const NodeId& node, ControlAnswer answer) {
  if (const auto known = addresses_.find(node); known != addresses_.end())
    return call(known->second, request, node, std::move(answer));
  HttpRequest nodes;
  nodes.method = "GET";
  nodes.target = "/v1/nodes";
  ports_.cluster(nodes, [this, request, node, answer = std::move(answer)](
                            const Result<std::string>& text) mutable {
    if (!text) return answer(tl::unexpected(text.error()));
    auto all = from_json_text<std::vector<api::Node>>(*text, "nodes of the cluster");
    if (!all) return answer(tl::unexpected(all.error()));
    addresses_.clear();
    for (const api::Node& known : *all) addresses_[known.node] = known.peer_address;
    const auto found = addresses_.find(node);
    if (found == addresses_.end())
      return answer(
          fail(ErrorCode::kNotFound, fmt::format("the cluster has no node {}", node.value)));
    call(found->second, request, node, std::move(answer));
  });
}

void SnapshotRoute::call(const std::string& address, const HttpRequest& request,
                         const NodeId& node, ControlAnswer answer) {
  ports_.calls.request(
      address, kPeerTarget, to_json_text(ForwardedShardQuery{request.target}), kPeerTimeoutMs,
      [this, node, answer = std::move(answer)](Result<std::string> reply) {
        // It may be somewhere else when it comes back.
        if (!reply && (reply.error().code == ErrorCode::kPeerUnreachable ||
                       reply.error().code == ErrorCode::kNotFound))
          addresses_.erase(node);
        answer(std::move(reply));
      });
}

}  // namespace holdfast::daemon
