#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <random>
#include <vector>

namespace holdfast {

struct JsonTestMessage {
  NodeId node;
  Epoch epoch;
  std::vector<ShardId> shards;
  double loss = 0;
};
BOOST_DESCRIBE_STRUCT(JsonTestMessage, (), (node, epoch, shards, loss))

namespace {

TEST(Json, DescribedStructsMakeTheRoundTrip) {
  const JsonTestMessage in{NodeId("node-1"), {2, 7}, {{GroupIndex(3), SliceIndex(1)}}, 0.1};
  const std::string text = to_json_text(in);
  const auto out = from_json_text<JsonTestMessage>(text, "test");
  ASSERT_TRUE(out) << out.error().to_string();
  EXPECT_EQ(out->node, in.node);
  EXPECT_EQ(out->epoch, in.epoch);
  EXPECT_EQ(out->shards, in.shards);
  EXPECT_EQ(out->loss, in.loss);
}

TEST(Json, UnknownMissingAndMistypedMembersAreErrors) {
  for (const char* text :
       {"", "[]", "{\"node\":1}",
        "{\"node\":\"a\",\"epoch\":{\"incarnation\":1,\"number\":-1},\"shards\":[],\"loss\":0.5}",
        "{\"node\":\"a\",\"epoch\":{\"incarnation\":1,\"number\":1},\"shards\":[],\"loss\":0.5,"
        "\"more\":1}"}) {
    const auto out = from_json_text<JsonTestMessage>(text, "heartbeat");
    ASSERT_FALSE(out) << text;
    EXPECT_EQ(out.error().code, ErrorCode::kBadMessage);
    EXPECT_NE(out.error().message.find("heartbeat"), std::string::npos);
  }
}

TEST(Json, DoublesComeBackBitForBit) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; ++i) {
    const double in = std::uniform_real_distribution<>(-10, 10)(random) *
                      std::pow(10.0, std::uniform_int_distribution<>(-200, 200)(random));
    const auto value = parse_json("[" + to_json_text(in) + "]", "test");
    ASSERT_TRUE(value);
    EXPECT_EQ(value->at(0).to_number<double>(), in) << i;
  }
}

TEST(Json, RestAfterTheDocumentIsAnError) {
  EXPECT_FALSE(parse_json("{} x", "test"));
  EXPECT_TRUE(parse_json(" {\"a\": [1, -2, 1e300, true, null, \"s\"]} ", "test"));
}

}  // namespace
}  // namespace holdfast
