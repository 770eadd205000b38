// A peer that answers what nobody asked for: nothing is read, written or kept for it.
#include "storage/replica/messages.h"
#include "tests/storage/replica/replica_test_help.h"

namespace holdfast::storage {
namespace {

constexpr Epoch kOne{1, 1};
const StateVersion kState{Version(5), kOne};
constexpr ShardId kStranger{GroupIndex(40), SliceIndex(0)};

class BadReplies : public ::testing::Test {
 protected:
  BadReplies() : cluster_(7) { cluster_.set_epoch(kOne); }

  // What replicating three shards brings when the grant was changed on its way.
  Status replicate(const std::function<void(GrantReply&)>& change) {
    const auto blocks = cluster_[0].capture(0, 3, kState);
    tamper<GrantReply>(kGrantTarget, change);
    return cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)})
        .at(SeededCluster::id(1));
  }
  FetchResult fetch(const std::function<void(LocateReply&)>& change) {
    cluster_[1].capture(0, 3, kState);
    tamper<LocateReply>(kLocateTarget, change);
    return cluster_.fetch(0, kOne, kState, 3, 1);
  }
  void expect_refused(const FetchResult& fetched) {
    EXPECT_EQ(fetched.error.code, ErrorCode::kBadMessage) << fetched.error.to_string();
    EXPECT_EQ(fetched.failed.size(), 3u);
    EXPECT_EQ(cluster_[0].arena->usage().blocks, 0u);
  }
  void expect_refused(const Status& status) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kBadMessage) << status.error().to_string();
    EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u) << "what was granted was released";
  }

  SeededCluster cluster_;

 private:
  template <class Message>
  void tamper(const std::string& of, const std::function<void(Message&)>& change) {
    cluster_.tamper = [of, change](const std::string& target, std::string& reply) {
      if (target != of) return;
      auto message = from_json_text<Message>(reply, "reply");
      ASSERT_TRUE(message);
      change(*message);
      reply = to_json_text(*message);
    };
  }
};

TEST_F(BadReplies, ReplacedGrantIsRefused) {
  expect_refused(replicate([](GrantReply& g) { g.blocks[1].shard = kStranger; }));
}
// As many as were asked for: counting does not find it.
TEST_F(BadReplies, StrangerBesideAHeldShardIsRefused) {
  expect_refused(replicate([](GrantReply& g) {
    g.have.push_back(g.blocks[0].shard);
    g.blocks[0].shard = kStranger;
  }));
}
TEST_F(BadReplies, DoubledGrantIsRefused) {
  expect_refused(replicate([](GrantReply& g) { g.blocks[1] = g.blocks[0]; }));
}
TEST_F(BadReplies, GrantThatIsShortIsRefused) {
  expect_refused(replicate([](GrantReply& g) { g.blocks.pop_back(); }));
}
TEST_F(BadReplies, HeldTwiceIsRefused) {
  expect_refused(replicate([](GrantReply& g) {
    g.blocks.clear();
    g.have = {{GroupIndex(0), SliceIndex(0)}, {GroupIndex(0), SliceIndex(0)},
              {GroupIndex(1), SliceIndex(0)}};
  }));
}
TEST_F(BadReplies, GrantAsItCameIsTaken) {
  EXPECT_TRUE(replicate([](GrantReply&) {}));
}

TEST_F(BadReplies, LocatedBlockOfAnotherLengthIsRefused) {
  expect_refused(fetch([](LocateReply& l) { l.blocks[2].length = kTestArenaBytes / 2; }));
}
TEST_F(BadReplies, LocatedBlockThatNobodyAskedForIsRefused) {
  expect_refused(fetch([](LocateReply& l) { l.blocks[0].shard = kStranger; }));
}
TEST_F(BadReplies, BlockLocatedTwiceIsRefused) {
  expect_refused(fetch([](LocateReply& l) { l.blocks.push_back(l.blocks[0]); }));
}
TEST_F(BadReplies, LocatedBlocksAsTheyCameAreRead) {
  EXPECT_TRUE(fetch([](LocateReply&) {}).failed.empty());
}

TEST_F(BadReplies, GrantRequestThatNamesAShardTwiceIsRefused) {
  const ShardBytes shard{{GroupIndex(1), SliceIndex(0)}, 100, 1};
  const GrantRequest request{{NodeId("n1"), 9, 1}, kOne, kTestJob, kState, {shard, shard}, {}};
  std::optional<Result<std::string>> reply;
  cluster_[0].server->handle(kGrantTarget, to_json_text(request),
                             [&](Result<std::string> r) { reply = std::move(r); });
  cluster_.loop.drain();
  ASSERT_FALSE(reply.value());
  EXPECT_EQ(reply->error().code, ErrorCode::kBadMessage);
  EXPECT_EQ(cluster_[0].server->granted_blocks(), 0u);
}

}  // namespace
}  // namespace holdfast::storage
