#include "daemon/peers/codec.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "tests/daemon/peers/random_message.h"

namespace holdfast::daemon {
namespace {

constexpr int kRounds = 200;

uint64_t chosen_seed() {
  const char* given = std::getenv("HOLDFAST_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

template <class Variant, class Encode, class Decode>
void check_round_trips(Encode encode, Decode decode) {
  const uint64_t seed = chosen_seed();
  SCOPED_TRACE(fmt::format("HOLDFAST_TEST_SEED={}", seed));
  test::Random random(seed);
  std::set<std::string> types;
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < std::variant_size_v<Variant>; ++i) {
      const Variant message = test::random_alternative<Variant>(random, i);
      const boost::json::value json = encode(message);
      const auto parsed = parse_json(boost::json::serialize(json), "test");
      ASSERT_TRUE(parsed) << parsed.error().message;
      const Result<Variant> back = decode(*parsed);
      ASSERT_TRUE(back) << back.error().message << "\n" << json;
      ASSERT_EQ(back->index(), i);
      ASSERT_EQ(boost::json::serialize(encode(*back)), boost::json::serialize(json));
      types.insert(std::string(json.at("type").as_string()));
    }
  EXPECT_EQ(types.size(), std::variant_size_v<Variant>);
}

TEST(PeerCodec, EventsRoundTrip) { check_round_trips<NodeEvent>(encode_event, decode_event); }
TEST(PeerCodec, CommandsRoundTrip) {
  check_round_trips<NodeCommand>(encode_command, decode_command);
}

TEST(PeerCodec, NamesTheTypeAndKeepsEveryMember) {
  WorkerReplicated event{NodeId("node-1"), 17, 2, {3, 4}, {Version(5), {3, 4}}, {NodeId("node-2")}};
  const boost::json::value json = encode_event(event);
  EXPECT_EQ(json.at("type"), "WorkerReplicated");
  const auto back = decode_event(json);
  ASSERT_TRUE(back);
  const auto& same = std::get<WorkerReplicated>(*back);
  EXPECT_EQ(same.node, event.node);
  EXPECT_EQ(same.session, 17u);
  EXPECT_EQ(same.slot, 2u);
  EXPECT_EQ(same.epoch, (Epoch{3, 4}));
  EXPECT_EQ(same.state, event.state);
  EXPECT_EQ(same.holders, event.holders);
}

TEST(PeerCodec, RefusesWhatTheSameReleaseWouldNotWrite) {
  const auto refused = [](const char* text) {
    const auto json = parse_json(text, "test");
    ASSERT_TRUE(json) << text;
    const auto command = decode_command(*json);
    ASSERT_FALSE(command) << text;
    EXPECT_EQ(command.error().code, ErrorCode::kBadMessage) << text;
  };
  refused("[]");
  refused("{}");
  refused(R"({"type":"CommandNothing","body":{}})");
  refused(R"({"type":7,"body":{}})");
  refused(R"({"type":"CommandGo"})");
  refused(R"({"type":"CommandGo","body":{"epoch":{"incarnation":1,"number":2}}})");
  refused(
      R"({"type":"CommandCapture","body":{"epoch":{"incarnation":1,"number":2},"version":-1}})");
  refused(
      R"({"type":"CommandCapture","body":{"epoch":{"incarnation":1,"number":2},"version":1,"x":1}})");
  refused(
      R"({"type":"CommandCapture","body":{"epoch":{"incarnation":1,"number":2},"version":1},"x":1})");
}

}  // namespace
}  // namespace holdfast::daemon
