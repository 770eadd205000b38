#include "daemon/peers/command_receiver.h"

#include <gtest/gtest.h>

#include <vector>

#include "daemon/peers/codec.h"

namespace holdfast::daemon {
namespace {

class CommandReceiverTest : public testing::Test {
 protected:
  // Captures of these versions.
  static std::string post(uint64_t coordinator, uint64_t sequence, std::vector<uint64_t> versions,
                          const std::string& node = "node-1", uint64_t session = 7) {
    CommandsPost post{NodeId(node), session, coordinator, sequence, {}};
    for (const uint64_t version : versions)
      post.commands.push_back(encode_command(CommandCapture{{1, 1}, Version(version)}));
    return to_json_text(post);
  }
  ErrorCode refusal(const std::string& body) {
    const auto result = receiver_.receive(body);
    EXPECT_FALSE(result) << body;
    return result ? ErrorCode::kInternal : result.error().code;
  }

  std::vector<uint64_t> taken_;
  CommandReceiver receiver_{NodeId("node-1"), 7, [this](const NodeCommand& command) {
                              taken_.push_back(std::get<CommandCapture>(command).version.value);
                            }};
};

TEST_F(CommandReceiverTest, TakesCommandsOnceAndInOrder) {
  EXPECT_TRUE(receiver_.receive(post(100, 1, {1, 2})));
  EXPECT_TRUE(receiver_.receive(post(100, 4, {3})));  // others were for other nodes
  EXPECT_EQ(refusal(post(100, 4, {3})), ErrorCode::kEpochOld);
  EXPECT_EQ(refusal(post(100, 2, {9})), ErrorCode::kEpochOld);
  EXPECT_EQ(taken_, (std::vector<uint64_t>{1, 2, 3}));
}

TEST_F(CommandReceiverTest, ObeysTheNewestCoordinatorOnly) {
  EXPECT_TRUE(receiver_.receive(post(100, 50, {1})));
  EXPECT_TRUE(receiver_.receive(post(101, 1, {2})));
  EXPECT_EQ(refusal(post(100, 51, {9})), ErrorCode::kEpochOld);
  EXPECT_EQ(taken_, (std::vector<uint64_t>{1, 2}));
}

TEST_F(CommandReceiverTest, RefusesWhatIsForAnotherNodeOrLife) {
  EXPECT_EQ(refusal(post(100, 1, {9}, "node-2")), ErrorCode::kBadMessage);
  EXPECT_EQ(refusal(post(100, 1, {9}, "node-1", 6)), ErrorCode::kEpochOld);
  EXPECT_EQ(refusal("{}"), ErrorCode::kBadMessage);
  EXPECT_TRUE(taken_.empty());
}

TEST_F(CommandReceiverTest, HandlesNothingOfARequestThatCannotBeReadWhole) {
  CommandsPost half{NodeId("node-1"), 7, 100, 1, {}};
  half.commands.push_back(encode_command(CommandCapture{{1, 1}, Version(1)}));
  half.commands.push_back({{"type", "CommandUnknown"}, {"body", {}}});
  EXPECT_EQ(refusal(to_json_text(half)), ErrorCode::kBadMessage);
  EXPECT_TRUE(taken_.empty());
  EXPECT_TRUE(receiver_.receive(post(100, 1, {1})));
}

}  // namespace
}  // namespace holdfast::daemon
