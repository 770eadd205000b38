#include "daemon/peers/peer_hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <utility>
#include <variant>
#include <vector>

#include "daemon/peers/codec.h"
#include "daemon/peers/command_channel.h"
#include "daemon/peers/liveness.h"

namespace holdfast::daemon {

namespace asio = boost::asio;

class PeerHub::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, const Clock& clock, PeerServer& server, PeerHubOptions options,
       PeerHubCallbacks callbacks)
      : io_(io),
        clock_(clock),
        server_(server),
        options_(std::move(options)),
        callbacks_(std::move(callbacks)),
        command_timeout_ms_(std::max<int64_t>(kMinPeerTimeoutMs,
                                              options_.heartbeat_ms * options_.missed_heartbeats)),
        liveness_(options_.heartbeat_ms, options_.missed_heartbeats),
        timer_(io) {}

  // Weakly: the server keeps its routes for longer than the hub lives.
  void attach() {
    const std::weak_ptr<Impl> weak = weak_from_this();
    server_.route(std::string(kEventsTarget),
                  [weak](const PeerRequest& request, const PeerReply& reply) {
                    const auto self = weak.lock();
                    if (self == nullptr || self->stopped_)
                      return reply(fail(ErrorCode::kNotCoordinator, "the coordinator has ended"));
                    reply(self->receive(request));
                  });
    server_.on_closed([weak](uint64_t connection) {
      if (const auto self = weak.lock(); self && !self->stopped_) self->on_closed(connection);
    });
  }

  void stop() {
    stopped_ = true;
    timer_.cancel();
    nodes_.clear();
  }

  void check_liveness() {
    for (const SilentNode& silent : liveness_.check(clock_.monotonic_ms()))
      down(silent.node, fmt::format("no word for {} ms", silent.silent_ms));
    if (stopped_) return;
    timer_.expires_after(std::chrono::milliseconds(options_.heartbeat_ms));
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& cancelled) {
      if (!cancelled && !self->stopped_) self->check_liveness();
    });
  }

  void send(const NodeId& node, const NodeCommand& command) {
    const auto found = nodes_.find(node);
    if (found == nodes_.end() || found->second.commands == nullptr) return;
    const Status queued = found->second.commands->send(encode_command(command));
    if (queued) return;
    asio::post(io_, [self = shared_from_this(), node, connection = found->second.connection,
                     why = queued.error().message] { self->down_if(node, connection, why); });
  }

  bool is_connected(const NodeId& node) const {
    const auto found = nodes_.find(node);
    return found != nodes_.end() && found->second.commands != nullptr;
  }

 private:
  struct Node {
    uint64_t session = 0;     // the newest that greeted
    uint64_t connection = 0;  // of its events; 0: none
    uint64_t next_sequence = 0;
    std::unique_ptr<CommandChannel> commands;  // from NodeUp until it is down
  };

  Result<std::string> receive(const PeerRequest& request) {
    ASSIGN_OR_RETURN(const auto post, from_json_text<EventsPost>(request.body, "events"));
    RETURN_IF_ERROR(post.sequence == 0 ? greet(post, request.connection)
                                       : take(post, request.connection));
    if (stopped_) return fail(ErrorCode::kNotCoordinator, "the coordinator has ended");
    liveness_.heard(post.node, clock_.monotonic_ms());
    return to_json_text(EventsReply{options_.node, options_.session});
  }

  Status greet(const EventsPost& post, uint64_t connection) {
    for (const auto& [name, node] : nodes_)
      if (node.connection == connection)
        return fail(ErrorCode::kBadMessage, fmt::format("node {} greets on a connection of node {}",
                                                        post.node.value, name.value));
    if (!post.events.empty())
      return fail(ErrorCode::kBadMessage,
                  fmt::format("node {} greets with events", post.node.value));
    const auto known = nodes_.find(post.node);
    if (known != nodes_.end() && post.session < known->second.session)
      return fail(ErrorCode::kEpochOld,
                  fmt::format("session {} of node {} is over, {} is newer", post.session,
                              post.node.value, known->second.session));
    down(post.node, "it connected anew");
    Node& node = nodes_[post.node];
    node.session = post.session;
    node.connection = connection;
    node.next_sequence = 1;
    return {};
  }

  Status take(const EventsPost& post, uint64_t connection) {
    const auto found = nodes_.find(post.node);
    if (found == nodes_.end() || found->second.connection != connection ||
        found->second.session != post.session)
      return fail(ErrorCode::kEpochOld, fmt::format("node {} has to greet first", post.node.value));
    Node& node = found->second;
    if (post.sequence != node.next_sequence)
      return fail(ErrorCode::kBadMessage,
                  fmt::format("events {} of node {} came instead of {}", post.sequence,
                              post.node.value, node.next_sequence));
    ASSIGN_OR_RETURN(const std::vector<NodeEvent> events, decode_events(post, node));
    ++node.next_sequence;
    for (const NodeEvent& event : events) {
      if (const auto* up = std::get_if<NodeUp>(&event)) open_commands(*up);
      callbacks_.on_event(event);
      if (stopped_) break;
    }
    return {};
  }

  // All of them or none, each from the node that sends it, NodeUp first.
  static Result<std::vector<NodeEvent>> decode_events(const EventsPost& post, const Node& node) {
    std::vector<NodeEvent> events;
    events.reserve(post.events.size());
    for (const boost::json::value& json : post.events) {
      ASSIGN_OR_RETURN(NodeEvent event, decode_event(json));
      const bool own = std::visit(
          [&](const auto& body) { return body.node == post.node && body.session == post.session; },
          event);
      if (!own)
        return fail(ErrorCode::kBadMessage,
                    fmt::format("node {} reports for somebody else", post.node.value));
      if (events.empty() && node.commands == nullptr && !std::holds_alternative<NodeUp>(event))
        return fail(ErrorCode::kBadMessage,
                    fmt::format("node {} did not begin with NodeUp", post.node.value));
      events.push_back(std::move(event));
    }
    return events;
  }

  void open_commands(const NodeUp& up) {
    Node& node = nodes_.at(up.node);
    if (node.commands != nullptr) return;  // NodeUp again on one connection: only newer facts
    node.commands = std::make_unique<CommandChannel>(
        io_, options_.identity, CommandTarget{up.node, up.session, up.peer_address},
        options_.session, sequence_, options_.max_queued_commands, command_timeout_ms_,
        [this, name = up.node, connection = node.connection](const Error& error) {
          down_if(name, connection, error.message);
        });
  }

  void on_closed(uint64_t connection) {
    for (const auto& [name, node] : nodes_)
      if (node.connection == connection) return down(NodeId(name), "its connection ended");
  }

  void down_if(const NodeId& name, uint64_t connection, const std::string& why) {
    const auto found = nodes_.find(name);
    if (!stopped_ && found != nodes_.end() && found->second.connection == connection)
      down(NodeId(name), why);
  }

  // By value: callers name the node from what this takes apart.
  void down(NodeId name, std::string why) {
    const auto found = nodes_.find(name);
    if (found == nodes_.end() || found->second.connection == 0) return;
    Node& node = found->second;
    const bool was_up = node.commands != nullptr;
    const uint64_t connection = std::exchange(node.connection, 0);
    node.commands.reset();
    liveness_.forget(name);
    server_.close(connection);
    if (was_up) callbacks_.on_down({std::move(name), node.session, std::move(why)});
  }

  asio::io_context& io_;
  const Clock& clock_;
  PeerServer& server_;
  const PeerHubOptions options_;
  const PeerHubCallbacks callbacks_;
  const int64_t command_timeout_ms_;
  Liveness liveness_;
  asio::steady_timer timer_;
  std::map<NodeId, Node> nodes_;
  uint64_t sequence_ = 0;  // of command requests, to all nodes
  bool stopped_ = false;
};

PeerHub::PeerHub(asio::io_context& io, const Clock& clock, PeerServer& server,
                 PeerHubOptions options, PeerHubCallbacks callbacks)
    : impl_(std::make_shared<Impl>(io, clock, server, std::move(options), std::move(callbacks))) {
  impl_->attach();
}
PeerHub::~PeerHub() { impl_->stop(); }

void PeerHub::start() { impl_->check_liveness(); }
void PeerHub::send(const NodeId& node, const NodeCommand& command) { impl_->send(node, command); }
bool PeerHub::is_connected(const NodeId& node) const { return impl_->is_connected(node); }

}  // namespace holdfast::daemon
