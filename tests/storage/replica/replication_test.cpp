// Promises of replication, each on three nodes in one thread.
#include "storage/replica/messages.h"
#include "tests/storage/replica/replica_test_help.h"

namespace holdfast::storage {
namespace {

constexpr Epoch kOne{1, 1};
constexpr Epoch kTwo{1, 2};
const StateVersion kState{Version(5), kOne};
const std::set<uint32_t> kAll = {0, 1, 2, 3, 4, 5};

class Replication : public ::testing::Test {
 protected:
  Replication() : cluster_(7) { cluster_.set_epoch(kOne); }
  std::vector<NodeId> both() const { return {SeededCluster::id(1), SeededCluster::id(2)}; }

  SeededCluster cluster_;
};

TEST_F(Replication, RoundTripIsByteEqual) {
  const auto blocks = cluster_[0].capture(0, 6, kState);
  const auto results = cluster_.replicate(0, kOne, kState, blocks, both());
  for (const auto& [holder, status] : results) EXPECT_TRUE(status) << holder.value;
  EXPECT_EQ(cluster_[1].good_shards(kState), kAll);
  EXPECT_EQ(cluster_[2].good_shards(kState), kAll);

  // The writer loses everything and gets it back.
  for (const HeldBlock& b : blocks)
    ASSERT_TRUE(cluster_[0].arena->free(*cluster_[0].arena->info(b.block)));
  const FetchResult fetched = cluster_.fetch(0, kOne, kState, 6, 2);
  EXPECT_TRUE(fetched.failed.empty()) << fetched.error.to_string();
  EXPECT_EQ(fetched.blocks.size(), 6u);
  EXPECT_EQ(cluster_[0].good_shards(kState), kAll);
}

TEST_F(Replication, AHolderThatHasTheShardsIsNotWrittenTo) {
  const auto blocks = cluster_[0].capture(0, 3, kState);
  cluster_[1].capture(0, 2, kState);
  const auto results = cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)});
  EXPECT_TRUE(results.at(SeededCluster::id(1)));
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 3u);
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 0u);
}

TEST_F(Replication, ByteFlippedBeforeTheCommitIsRefused) {
  const auto blocks = cluster_[0].capture(0, 6, kState);
  cluster_.trouble.flips = 100;
  const auto results = cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)});
  const Status& status = results.at(SeededCluster::id(1));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kReplicaRefused);
  EXPECT_EQ(status.error().message, "6 shards arrived at n1 with another checksum, g0/s0 first");
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u);
}

TEST_F(Replication, ABadBlockIsNotOffered) {
  cluster_[1].capture(0, 3, kState);
  const BlockInfo bad = cluster_[1].arena->scan()[1];
  (*cluster_[1].arena->payload(bad.index))[0] ^= std::byte{1};
  const FetchResult fetched = cluster_.fetch(0, kOne, kState, 3, 1);
  ASSERT_EQ(fetched.failed, std::vector{bad.header->shard});
  EXPECT_EQ(fetched.error.code, ErrorCode::kBlockMissing);
  EXPECT_EQ(fetched.error.message, "n1 holds no good copy of g1/s0 at v5@1.1");
  EXPECT_EQ(cluster_[0].good_shards(kState), (std::set<uint32_t>{0, 2}));
  EXPECT_EQ(cluster_[0].arena->usage().blocks, 2u);
}

TEST_F(Replication, ABadBlockIsReplacedByTheNextReplication) {
  const auto blocks = cluster_[0].capture(0, 1, kState);
  cluster_[1].capture(0, 1, kState);
  (*cluster_[1].arena->payload(cluster_[1].arena->scan()[0].index))[0] ^= std::byte{1};
  EXPECT_TRUE(
      cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)}).at(SeededCluster::id(1)));
  EXPECT_EQ(cluster_[1].good_shards(kState), std::set<uint32_t>{0});
}

TEST_F(Replication, OldEpochIsRefusedOnBothSides) {
  const auto blocks = cluster_[0].capture(0, 2, kState);
  cluster_[1].set_epoch(kTwo);
  const auto results = cluster_.replicate(0, kOne, kState, blocks, both());
  ASSERT_FALSE(results.at(SeededCluster::id(1)));
  EXPECT_EQ(results.at(SeededCluster::id(1)).error().code, ErrorCode::kEpochOld);
  EXPECT_TRUE(results.at(SeededCluster::id(2)));
  EXPECT_EQ(cluster_.fetch(0, kOne, kState, 2, 1).error.code, ErrorCode::kEpochOld);

  cluster_[0].set_epoch(kTwo);
  const auto late = cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(2)});
  EXPECT_EQ(late.at(SeededCluster::id(2)).error().code, ErrorCode::kEpochOld);
  EXPECT_EQ(cluster_.fetch(0, kOne, kState, 2, 2).error.code, ErrorCode::kEpochOld);
}

TEST_F(Replication, AGrantIsNotPublishedOnceItsEpochIsOver) {
  const auto blocks = cluster_[0].capture(0, 4, kState);
  cluster_.before_request = [&](const NodeId& peer, const std::string& target) {
    if (target == kCommitTarget) cluster_.nodes.at(peer)->server->set_epoch(kTwo);
  };
  const auto results = cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)});
  EXPECT_EQ(results.at(SeededCluster::id(1)).error().code, ErrorCode::kEpochOld);
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u);
}

TEST_F(Replication, PeerThatIsCutInTheMiddleFailsAndTheOtherSucceeds) {
  const auto blocks = cluster_[0].capture(0, 6, kState);
  std::map<NodeId, Status> results;
  cluster_[0].replicator->replicate(kOne, kTestJob, kState, blocks, both(),
                                    [&](const std::vector<HolderResult>& all) {
                                      for (const HolderResult& r : all)
                                        results[r.holder] = r.status;
                                    });
  while (cluster_[1].server->granted_blocks() == 0) ASSERT_TRUE(cluster_.loop.step());
  cluster_.net.cut(cluster_[1].fabric->address());
  cluster_.loop.drain();
  ASSERT_EQ(results.size(), 2u);
  ASSERT_FALSE(results.at(SeededCluster::id(1)));
  EXPECT_EQ(results.at(SeededCluster::id(1)).error().code, ErrorCode::kFabricLost);
  EXPECT_TRUE(results.at(SeededCluster::id(2)));
  EXPECT_EQ(cluster_[2].good_shards(kState), kAll);
  EXPECT_TRUE(cluster_[1].good_shards(kState).empty());
}

TEST_F(Replication, NodeThatIsGoneIsUnreachable) {
  const auto blocks = cluster_[0].capture(0, 2, kState);
  cluster_.stop(1);
  const auto results = cluster_.replicate(0, kOne, kState, blocks, both());
  EXPECT_EQ(results.at(SeededCluster::id(1)).error().code, ErrorCode::kPeerUnreachable);
  EXPECT_TRUE(results.at(SeededCluster::id(2)));
  EXPECT_EQ(cluster_.fetch(0, kOne, kState, 2, 1).error.code, ErrorCode::kPeerUnreachable);
}

TEST_F(Replication, AFullHolderRefusesAndKeepsNothing) {
  ASSERT_TRUE(cluster_[1].arena->allocate(kTestArenaBytes - 100'000, NodeId("n1"), kOne));
  const auto blocks = cluster_[0].capture(0, 12, kState);
  const auto results = cluster_.replicate(0, kOne, kState, blocks, both());
  EXPECT_EQ(results.at(SeededCluster::id(1)).error().code, ErrorCode::kArenaFull);
  EXPECT_TRUE(results.at(SeededCluster::id(2)));
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 1u);
}

// The writes of an epoch that is over land after its channels were closed. The room of the grant
// may not hold anything else by then.
TEST_F(Replication, LateWriteOfAnOldEpochTouchesNoPublishedBlock) {
  cluster_.trouble.lands_late = 100;
  cluster_.trouble.late_ms = kTestQuarantine - 1;
  cluster_.trouble.delay_ms = 100;
  const auto blocks = cluster_[0].capture(0, 6, kState);
  std::optional<Status> result;
  cluster_[0].replicator->replicate(
      kOne, kTestJob, kState, blocks, {SeededCluster::id(1)},
      [&](const std::vector<HolderResult>& all) { result = all.front().status; });
  while (cluster_[1].server->granted_blocks() == 0) ASSERT_TRUE(cluster_.loop.step());
  const int64_t granted = cluster_.loop.now_ms();
  while (cluster_.loop.now_ms() < granted + 30) ASSERT_TRUE(cluster_.loop.step());
  cluster_.set_epoch(kTwo);
  cluster_.loop.post([] {});
  while (!result) ASSERT_TRUE(cluster_.loop.step());
  EXPECT_EQ(result->error().code, ErrorCode::kEpochOld);

  // The same node replicates something else at once.
  const StateVersion next{Version(6), kTwo};
  std::map<NodeId, Status> results;
  const auto more = cluster_[0].capture(0, 6, next);
  EXPECT_TRUE(
      cluster_.replicate(0, kTwo, next, more, {SeededCluster::id(1)}).at(SeededCluster::id(1)));
  EXPECT_EQ(cluster_[1].damaged(), "");
  EXPECT_EQ(cluster_[1].good_shards(next), kAll);
  EXPECT_TRUE(cluster_[1].good_shards(kState).empty());
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 0u);  // and the room came back in the end
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 6u);
}

TEST_F(Replication, ALostReleaseIsMadeGoodByTheNextGrant) {
  const auto blocks = cluster_[0].capture(0, 3, kState);
  cluster_.before_request = [&](const NodeId&, const std::string& target) {
    if (target == kGrantTarget) cluster_.trouble.request_lost = 100;  // its reply and the release
  };
  const auto lost = cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)});
  EXPECT_EQ(lost.at(SeededCluster::id(1)).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 3u);

  cluster_.before_request = nullptr;
  cluster_.trouble.request_lost = 0;
  EXPECT_TRUE(
      cluster_.replicate(0, kOne, kState, blocks, {SeededCluster::id(1)}).at(SeededCluster::id(1)));
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 0u);
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 3u);
}

TEST_F(Replication, GrantsOfAWriterThatIsLostComeBackLongAfterTheNextView) {
  const auto blocks = cluster_[0].capture(0, 3, kState);
  cluster_[0].replicator->replicate(kOne, kTestJob, kState, blocks, {SeededCluster::id(1)},
                                    [](const std::vector<HolderResult>&) {});
  while (cluster_[1].server->granted_blocks() == 0) ASSERT_TRUE(cluster_.loop.step());
  cluster_.stop(0);
  cluster_.loop.drain();
  cluster_[1].set_epoch(kTwo);
  cluster_.loop.drain();
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 3u);  // no view has opened yet
  cluster_[1].server->view_opened(kTwo, {SeededCluster::id(1), SeededCluster::id(2)});
  bool quarantine_over = false;
  cluster_.loop.after_ms(kTestQuarantine + 1, [&] { quarantine_over = true; });
  while (!quarantine_over) ASSERT_TRUE(cluster_.loop.step());
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 3u) << "it may only be cut off";
  cluster_.loop.drain();
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 0u);
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u);
}

// Its release was lost, and it has other holders now.
TEST_F(Replication, GrantsOfAMemberOfTheNextViewComeBackAfterTheQuarantine) {
  const auto blocks = cluster_[0].capture(0, 3, kState);
  cluster_[0].replicator->replicate(kOne, kTestJob, kState, blocks, {SeededCluster::id(1)},
                                    [](const std::vector<HolderResult>&) {});
  while (cluster_[1].server->granted_blocks() == 0) ASSERT_TRUE(cluster_.loop.step());
  cluster_.trouble.request_lost = 100;
  cluster_.set_epoch(kTwo);
  cluster_.loop.drain();
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 3u);
  cluster_[1].server->view_opened(kOne, {SeededCluster::id(0)});  // of its own epoch: not over
  cluster_.loop.drain();
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 3u);
  cluster_[1].server->view_opened(kTwo, {SeededCluster::id(0)});
  bool quarantine_over = false;
  cluster_.loop.after_ms(kTestQuarantine + 1, [&] { quarantine_over = true; });
  while (!quarantine_over) ASSERT_TRUE(cluster_.loop.step());
  EXPECT_EQ(cluster_[1].server->granted_blocks(), 0u);
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u);
}

TEST_F(Replication, WritesThatDoNotGetOnAreGivenUp) {
  const auto blocks = cluster_[0].capture(0, 6, kState);
  cluster_.trouble.delay_ms = 100 * write_limit_ms(0);
  const int64_t begun = cluster_.loop.now_ms();
  std::optional<Status> result;
  cluster_[0].replicator->replicate(
      kOne, kTestJob, kState, blocks, {SeededCluster::id(1)},
      [&](const std::vector<HolderResult>& all) { result = all.front().status; });
  while (!result) ASSERT_TRUE(cluster_.loop.step());
  ASSERT_FALSE(*result);
  EXPECT_EQ(result->error().code, ErrorCode::kFabricTimeout) << result->error().to_string();
  EXPECT_LT(cluster_.loop.now_ms() - begun, write_limit_ms(0) + 1'000);
  cluster_.loop.drain();
  EXPECT_EQ(cluster_[1].arena->usage().blocks, 0u);
}

TEST_F(Replication, ARefusedGrantNamesTheSessionsOfItsWriter) {
  const auto ask = [&](uint64_t session) {
    std::optional<Result<std::string>> reply;
    GrantRequest request{{NodeId("n1"), session, 1}, kOne, kTestJob, kState, {}, {}};
    cluster_[0].server->handle(kGrantTarget, to_json_text(request),
                               [&](Result<std::string> r) { reply = std::move(r); });
    cluster_.loop.drain();
    return reply.value();
  };
  ASSERT_TRUE(ask(9));
  const auto refused = ask(8);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message,
            "a grant request of n1 in session 8, epoch 1.1 came after one in session 9, epoch 1.1");
}

TEST_F(Replication, MalformedRequestsAreAnswered) {
  const auto ask = [&](const std::string& target, const std::string& body) {
    std::optional<Result<std::string>> reply;
    cluster_[0].server->handle(target, body, [&](Result<std::string> r) { reply = std::move(r); });
    cluster_.loop.drain();
    return reply.value().error();
  };
  EXPECT_EQ(ask("/replica/nothing", "{}").code, ErrorCode::kBadMessage);
  for (const char* target : {kGrantTarget, kCommitTarget, kReleaseTarget, kLocateTarget}) {
    EXPECT_EQ(ask(target, "{").code, ErrorCode::kBadMessage);
    EXPECT_EQ(ask(target, "{}").code, ErrorCode::kBadMessage);
  }
  EXPECT_EQ(ask(kCommitTarget, to_json_text(CommitRequest{{NodeId("n1"), 1, 9}})).message,
            "attempt 9 of n1 is not open at n0");
}

}  // namespace
}  // namespace holdfast::storage
