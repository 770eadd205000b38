#include <gtest/gtest.h>

#include "daemon/http/client.h"
#include "daemon/peers/codec.h"
#include "daemon/peers/peer_caller.h"
#include "tests/daemon/http/raw_socket.h"
#include "tests/daemon/peers/cluster_help.h"

namespace holdfast::daemon {
namespace {

using test::kIdentity;
using test::PlainNode;
using test::run_until;
using test::Seed;

constexpr int64_t kHeartbeatMs = 20;
constexpr int64_t kLongMs = 60'000;  // a heartbeat that no test waits for

class PeersTest : public testing::Test {
 protected:
  void start_seed(int64_t heartbeat_ms, const std::string& address = "127.0.0.1:0",
                  uint64_t session = 1'000) {
    seed_ = std::make_unique<Seed>(io_, clock_, address, session, heartbeat_ms);
    address_ = seed_->server->address();
  }
  // node-0 (the seed's own), node-1, ...
  void start_nodes(int count, int64_t heartbeat_ms) {
    for (int i = 0; i < count; ++i) {
      const std::string name = fmt::format("node-{}", i);
      nodes_.push_back(std::make_unique<PlainNode>(io_, name, address_, 500 + i, heartbeat_ms));
    }
    ASSERT_TRUE(run_until(io_, [&] {
      for (int i = 0; i < count; ++i)
        if (!seed_->hub->is_connected(NodeId(fmt::format("node-{}", i)))) return false;
      return true;
    }));
  }
  static WorkerStopped numbered(uint64_t step) {
    WorkerStopped event;
    event.step = Step(step);
    return event;
  }

  SystemClock clock_;
  boost::asio::io_context io_;
  std::unique_ptr<Seed> seed_;
  std::string address_;
  std::vector<std::unique_ptr<PlainNode>> nodes_;
};

TEST_F(PeersTest, EventsOfEveryNodeArriveOnceAndInOrder) {
  constexpr uint64_t kEvents = 10'000;
  start_seed(kLongMs);
  start_nodes(4, kLongMs);
  for (uint64_t i = 0; i < kEvents; ++i)
    for (const auto& node : nodes_) node->link->report(numbered(i));
  ASSERT_TRUE(run_until(io_, [&] { return seed_->events.size() == 4 * (kEvents + 1); }));
  std::map<std::string, uint64_t> next;
  for (const NodeEvent& event : seed_->events)
    if (const auto* stopped = std::get_if<WorkerStopped>(&event)) {
      ASSERT_EQ(stopped->step.value, next[stopped->node.value]++);
      ASSERT_GE(stopped->session, 500u);
    }
  ASSERT_EQ(next.size(), 4u);
  for (const auto& [node, count] : next) EXPECT_EQ(count, kEvents) << node;
  EXPECT_TRUE(seed_->downs.empty());
}

TEST_F(PeersTest, CommandsArriveOnceAndInOrder) {
  constexpr uint64_t kCommands = 5'000;
  start_seed(kLongMs);
  start_nodes(3, kLongMs);
  for (uint64_t i = 0; i < kCommands; ++i)
    for (int n = 0; n < 3; ++n)
      seed_->hub->send(NodeId(fmt::format("node-{}", n)), CommandCapture{{1, 1}, Version(i)});
  ASSERT_TRUE(run_until(io_, [&] {
    return std::all_of(nodes_.begin(), nodes_.end(),
                       [](const auto& node) { return node->commands.size() == kCommands; });
  }));
  for (const auto& node : nodes_)
    for (uint64_t i = 0; i < kCommands; ++i)
      ASSERT_EQ(std::get<CommandCapture>(node->commands[i]).version.value, i);
}

TEST_F(PeersTest, CommandsMayBeSentWhileAnEventIsHandled) {
  start_seed(kLongMs);
  seed_->on_event = [&](const NodeEvent& event) {
    if (const auto* up = std::get_if<NodeUp>(&event))
      seed_->hub->send(up->node, CommandCapture{{1, 1}, Version(7)});
  };
  start_nodes(2, kLongMs);
  ASSERT_TRUE(run_until(
      io_, [&] { return nodes_[0]->commands.size() == 1 && nodes_[1]->commands.size() == 1; }));
}

TEST_F(PeersTest, ADeadNodeIsNoticedBeforeItsFirstMissedHeartbeat) {
  start_seed(kLongMs);  // heartbeats have no part in it
  start_nodes(4, kLongMs);
  const auto killed = std::chrono::steady_clock::now();
  nodes_[2]->link.reset();
  ASSERT_TRUE(run_until(io_, [&] { return seed_->downs.size() == 1; }));
  EXPECT_LT(seed_->down_at[0] - killed, std::chrono::milliseconds(kLongMs));
  EXPECT_EQ(seed_->downs[0].node.value, "node-2");
  EXPECT_EQ(seed_->downs[0].session, 502u);
  EXPECT_FALSE(seed_->hub->is_connected(NodeId("node-2")));
  seed_->hub->send(NodeId("node-2"), CommandCapture{{1, 1}, Version(7)});
  test::run_ready(io_);
  EXPECT_EQ(seed_->downs.size(), 1u);
}

TEST_F(PeersTest, ASilentNodeIsDownAfterTheMissedHeartbeats) {
  start_seed(kHeartbeatMs);
  start_nodes(2, kHeartbeatMs);
  nodes_.push_back(std::make_unique<PlainNode>(io_, "silent", address_, 1, kLongMs));
  ASSERT_TRUE(run_until(io_, [&] { return seed_->downs.size() == 1; }));
  EXPECT_EQ(seed_->downs[0].node.value, "silent");
  EXPECT_NE(seed_->downs[0].why.find("no word for"), std::string::npos);
  // Its connection was closed, so that it comes back by itself.
  ASSERT_TRUE(run_until(io_, [&] { return nodes_[2]->troubles.size() == 1; }));
}

TEST(PeerHubClock, ALateDetectorAccusesNobody) {
  ManualClock clock;
  boost::asio::io_context io;
  Seed seed(io, clock, "127.0.0.1:0", 1'000, 5);
  PlainNode node(io, "node-1", seed.server->address(), 1, kLongMs);
  ASSERT_TRUE(run_until(io, [&] { return seed.hub->is_connected(NodeId("node-1")); }));
  clock.advance_ms(10'000);  // the machine slept
  EXPECT_FALSE(run_until(
      io, [&] { return !seed.downs.empty(); }, std::chrono::milliseconds(20)));
  EXPECT_TRUE(seed.downs.empty());
  const int64_t woke = clock.monotonic_ms();
  ASSERT_TRUE(run_until(io, [&] {
    clock.advance_ms(1);
    return !seed.downs.empty();
  }));
  EXPECT_GE(clock.monotonic_ms() - woke, 25);
}

TEST_F(PeersTest, AfterACoordinatorDiedTheNextOneHearsNodeUpFirst) {
  start_seed(kHeartbeatMs);
  start_nodes(3, kHeartbeatMs);
  ASSERT_TRUE(run_until(io_, [&] { return seed_->events.size() >= 3; }));
  seed_->hub.reset();
  seed_->server.reset();
  ASSERT_TRUE(run_until(io_, [&] {
    return std::all_of(nodes_.begin(), nodes_.end(),
                       [](const auto& node) { return !node->link->connected(); });
  }));
  for (const auto& node : nodes_) {
    node->link->report(numbered(1));  // nobody hears it: dropped
    EXPECT_FALSE(node->troubles.empty());
  }
  start_seed(kHeartbeatMs, address_, 2'000);
  ASSERT_TRUE(run_until(io_, [&] { return seed_->events.size() >= 3; }));
  for (const auto& node : nodes_) {
    EXPECT_EQ(node->connected, 2);
    EXPECT_EQ(node->link->coordinator_session(), 2'000u);
  }
  for (const NodeEvent& event : seed_->events) EXPECT_TRUE(std::holds_alternative<NodeUp>(event));
}

TEST_F(PeersTest, BetweenTwoConnectionsOfANodeThereIsANodeDown) {
  start_seed(kLongMs);
  start_nodes(1, kLongMs);
  nodes_[0]->link.reset();
  nodes_.push_back(std::make_unique<PlainNode>(io_, "node-0", address_, 600, kLongMs));
  ASSERT_TRUE(run_until(io_, [&] { return seed_->ups("node-0") == 2; }));
  ASSERT_EQ(seed_->downs.size(), 1u);
  EXPECT_EQ(seed_->downs[0].session, 500u);
}

TEST_F(PeersTest, AnOlderLifeOfANodeIsRefused) {
  start_seed(kLongMs);
  start_nodes(1, kLongMs);
  PlainNode older(io_, "node-0", address_, 499, kHeartbeatMs);
  ASSERT_TRUE(run_until(io_, [&] { return !older.troubles.empty(); }));
  EXPECT_EQ(older.troubles[0].code, ErrorCode::kEpochOld);
  EXPECT_EQ(older.connected, 0);
  EXPECT_TRUE(seed_->downs.empty());
  EXPECT_TRUE(seed_->hub->is_connected(NodeId("node-0")));
}

TEST_F(PeersTest, ForeignClustersAndReleasesAreRefusedByName) {
  start_seed(kLongMs);
  PlainNode foreign(io_, "node-1", address_, 1, kHeartbeatMs, {"other", kIdentity.release});
  PlainNode newer(io_, "node-2", address_, 1, kHeartbeatMs, {kIdentity.cluster, "9.9.9"});
  ASSERT_TRUE(run_until(io_, [&] { return !foreign.troubles.empty() && !newer.troubles.empty(); }));
  EXPECT_EQ(foreign.troubles[0].code, ErrorCode::kClusterForeign);
  EXPECT_EQ(newer.troubles[0].code, ErrorCode::kClusterVersion);
  for (const char* name : {"\"test\"", "\"other\""})
    EXPECT_NE(foreign.troubles[0].message.find(name), std::string::npos);
  for (const char* name : {"\"1.2.3\"", "\"9.9.9\""})
    EXPECT_NE(newer.troubles[0].message.find(name), std::string::npos);
  EXPECT_TRUE(seed_->events.empty());
}

TEST_F(PeersTest, ANodeThatCannotTakeCommandsIsDown) {
  start_seed(kLongMs);
  start_nodes(1, kLongMs);
  nodes_[0]->server.reset();
  seed_->hub->send(NodeId("node-0"), CommandCapture{{1, 1}, Version(7)});
  EXPECT_TRUE(seed_->downs.empty());
  ASSERT_TRUE(run_until(io_, [&] { return seed_->downs.size() == 1; }));
  EXPECT_EQ(seed_->downs[0].session, 500u);
}

TEST_F(PeersTest, AnOverflowingQueueIsABrokenConnection) {
  start_seed(kLongMs);
  PlainNode node(io_, "node-1", address_, 1, kHeartbeatMs, kIdentity, 10);
  ASSERT_TRUE(run_until(io_, [&] { return seed_->hub->is_connected(NodeId("node-1")); }));
  for (uint64_t i = 0; i < 1'000; ++i) node.link->report(numbered(i));
  ASSERT_TRUE(run_until(io_, [&] { return seed_->ups("node-1") == 2; }));
  ASSERT_EQ(node.troubles.size(), 1u);
  EXPECT_EQ(node.troubles[0].code, ErrorCode::kQueueFull);
  EXPECT_EQ(seed_->downs.size(), 1u);
  EXPECT_LT(seed_->events.size(), 1'000u);
}

// What no NodeLink says.
TEST_F(PeersTest, EventsOutOfTurnAreRefused) {
  start_seed(kLongMs);
  HttpClient client(io_, address_);
  const auto post = [&](uint64_t sequence, std::vector<NodeEvent> events) {
    EventsPost body{NodeId("node-1"), 7, sequence, {}};
    for (const NodeEvent& event : events) body.events.push_back(encode_event(event));
    std::optional<Result<std::string>> answer;
    client.request(make_peer_call(kIdentity, kEventsTarget, to_json_text(body), 10'000),
                   [&](Result<HttpResponse> r) { answer = peer_result(std::move(r), "post"); });
    EXPECT_TRUE(run_until(io_, [&] { return answer.has_value(); }));
    return answer && *answer ? std::optional<ErrorCode>() : (*answer).error().code;
  };
  WorkerStopped own = numbered(1);
  own.node = NodeId("node-1");
  own.session = 7;
  NodeUp up;
  up.node = own.node;
  up.session = 7;
  up.peer_address = address_;
  WorkerStopped others = own;
  others.node = NodeId("node-2");
  WorkerStopped old = own;
  old.session = 6;

  EXPECT_EQ(post(1, {}), ErrorCode::kEpochOld);       // no greeting
  EXPECT_EQ(post(0, {own}), ErrorCode::kBadMessage);  // a greeting is empty
  EXPECT_EQ(post(0, {}), std::nullopt);
  EXPECT_EQ(post(0, {}), ErrorCode::kBadMessage);     // twice
  EXPECT_EQ(post(1, {own}), ErrorCode::kBadMessage);  // NodeUp first
  EXPECT_EQ(post(2, {up}), ErrorCode::kBadMessage);   // 1 is next
  EXPECT_EQ(post(1, {up, others}), ErrorCode::kBadMessage);
  EXPECT_EQ(post(1, {up, old}), ErrorCode::kBadMessage);
  EXPECT_TRUE(seed_->events.empty());
  EXPECT_EQ(post(1, {up, own}), std::nullopt);
  EXPECT_EQ(seed_->events.size(), 2u);
  EXPECT_EQ(post(1, {own}), ErrorCode::kBadMessage);  // again
  EXPECT_EQ(seed_->events.size(), 2u);
}

TEST_F(PeersTest, AHubThatEndedSaysSo) {
  start_seed(kLongMs);
  seed_->hub.reset();
  PlainNode node(io_, "node-1", address_, 1, kHeartbeatMs);
  ASSERT_TRUE(run_until(io_, [&] { return !node.troubles.empty(); }));
  EXPECT_EQ(node.troubles[0].code, ErrorCode::kNotCoordinator);
}

TEST_F(PeersTest, ACallerReachesAnyNodeAndGetsItsErrors) {
  start_seed(kLongMs);
  std::vector<PeerReply> held;
  seed_->server->route("/peer/v1/blocks/", [&](const PeerRequest& request, PeerReply reply) {
    if (request.target == "/peer/v1/blocks/hold") return held.push_back(std::move(reply));
    if (request.target == "/peer/v1/blocks/full")
      return reply(fail(ErrorCode::kArenaFull, "no room"));
    reply(request.body);
  });
  PeerCaller caller(io_, kIdentity);
  std::vector<std::string> answers;
  const auto keep = [&](const Result<std::string>& answer) {
    answers.push_back(answer ? *answer
                             : fmt::format("HF-{}", static_cast<int>(answer.error().code)));
  };
  caller.request(address_, "/peer/v1/blocks/echo", "[1]", 10'000, keep);
  caller.request(address_, "/peer/v1/blocks/full", "{}", 10'000, keep);
  caller.request(address_, "/peer/v1/nothing", "{}", 10'000, keep);
  ASSERT_TRUE(run_until(io_, [&] { return answers.size() == 3; }));
  caller.request(address_, "/peer/v1/blocks/hold", "{}", 10'000, keep);
  ASSERT_TRUE(run_until(io_, [&] { return held.size() == 1; }));
  held[0]("[2]");
  held.clear();
  ASSERT_TRUE(run_until(io_, [&] { return answers.size() == 4; }));
  seed_->hub.reset();
  seed_->server.reset();
  caller.request(address_, "/peer/v1/blocks/echo", "[3]", 10'000, keep);
  ASSERT_TRUE(run_until(io_, [&] { return answers.size() == 5; }));
  EXPECT_EQ(answers, (std::vector<std::string>{"[1]", "HF-302", "HF-706", "[2]", "HF-704"}));
}

}  // namespace
}  // namespace holdfast::daemon
