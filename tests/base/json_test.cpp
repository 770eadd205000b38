#include "base/json.h"

#include <gtest/gtest.h>

#include <optional>
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

}  // namespace
}  // namespace holdfast
