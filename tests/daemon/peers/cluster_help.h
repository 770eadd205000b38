// A seed and nodes in one process, on one event loop, over loopback.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "daemon/peers/command_receiver.h"
#include "daemon/peers/node_link.h"
#include "daemon/peers/peer_hub.h"
#include "tests/daemon/http/loop_help.h"

namespace holdfast::daemon::test {

inline const PeerIdentity kIdentity{"test", "1.2.3"};
using TimePoint = std::chrono::steady_clock::time_point;

struct Seed {
  // `address`: port 0 first, the same port again for the next coordinator.
  Seed(boost::asio::io_context& io, const Clock& clock, const std::string& address,
       uint64_t session, int64_t heartbeat_ms) {
    auto listening = PeerServer::listen(io, address, kIdentity);
    EXPECT_TRUE(listening) << listening.error().message;
    server = std::move(*listening);
    PeerHubOptions options;
    options.node = NodeId("node-0");
    options.session = session;
    options.identity = kIdentity;
    options.heartbeat_ms = heartbeat_ms;
    PeerHubCallbacks callbacks;
    callbacks.on_event = [this](const NodeEvent& event) {
      events.push_back(event);
      if (on_event) on_event(event);
    };
    callbacks.on_down = [this](const NodeDown& down) {
      downs.push_back(down);
      down_at.push_back(std::chrono::steady_clock::now());
    };
    hub = std::make_unique<PeerHub>(io, clock, *server, options, std::move(callbacks));
    hub->start();
  }

  size_t ups(const std::string& node) const {
    size_t count = 0;
    for (const NodeEvent& event : events)
      if (const auto* up = std::get_if<NodeUp>(&event)) count += up->node.value == node ? 1 : 0;
    return count;
  }

  std::unique_ptr<PeerServer> server;
  std::vector<NodeEvent> events;
  std::vector<NodeDown> downs;
  std::vector<TimePoint> down_at;
  std::function<void(const NodeEvent&)> on_event;
  std::unique_ptr<PeerHub> hub;
};

// A node that reports NodeUp whenever it is connected.
struct PlainNode {
  PlainNode(boost::asio::io_context& io, const std::string& name, const std::string& seed,
            uint64_t session, int64_t heartbeat_ms, const PeerIdentity& identity = kIdentity,
            size_t max_queued = 100'000)
      : receiver(NodeId(name), session,
                 [this](const NodeCommand& command) { commands.push_back(command); }) {
    auto listening = PeerServer::listen(io, "127.0.0.1:0", kIdentity);
    EXPECT_TRUE(listening) << listening.error().message;
    server = std::move(*listening);
    receiver.attach(*server);
    NodeLinkOptions options;
    options.node = NodeId(name);
    options.session = session;
    options.identity = identity;
    options.seed_address = seed;
    options.heartbeat_ms = heartbeat_ms;
    options.max_queued_events = max_queued;
    NodeLinkCallbacks callbacks;
    callbacks.on_connected = [this] {
      ++connected;
      NodeUp up;
      up.peer_address = server->address();
      link->report(up);
    };
    callbacks.on_disconnected = [this](const Error& error) { troubles.push_back(error); };
    link = std::make_unique<NodeLink>(io, options, std::move(callbacks));
    link->start();
  }

  std::unique_ptr<PeerServer> server;
  CommandReceiver receiver;
  std::vector<NodeCommand> commands;
  std::vector<Error> troubles;
  int connected = 0;
  std::unique_ptr<NodeLink> link;
};

}  // namespace holdfast::daemon::test
