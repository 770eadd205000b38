// Random walks: captures, replication, fetches, epochs, deaths and restarts, over a fabric whose
// operations fail and land late and requests that get lost. After every step every published block
// of every arena has the bytes of its header.
#include "tests/storage/replica/replica_test_help.h"

namespace holdfast::storage {
namespace {

class Walk {
 public:
  Walk(uint32_t seed, int64_t quarantine_ms) : cluster_(seed, quarantine_ms) {
    cluster_.trouble = {.fails = 10,
                        .lands_late = 60,
                        .late_ms = kTestQuarantine - 1,
                        .request_lost = 4,
                        .flips = 3,
                        .delay_ms = 20};
    cluster_.set_epoch(epoch_);
  }

  // What went wrong, or "".
  std::string run(uint32_t moves) {
    for (uint32_t i = 0; i < moves; ++i) {
      if (cluster_.loop.chance(20)) act();
      if (!cluster_.loop.step()) act();
      if (const std::string why = check(); !why.empty())
        return fmt::format("after move {}: {}", i, why);
    }
    return finish();
  }

  uint64_t replicated() const { return replicated_; }
  uint64_t fetched() const { return fetched_; }
  uint64_t failed() const { return failed_; }

 private:
  uint32_t any() { return cluster_.loop.pick(3); }

  void act() {
    switch (cluster_.loop.pick(20)) {
      case 0:
        epoch_ = epoch_.next();
        for (uint32_t i = 0; i < 3; ++i)
          // Not every node hears of it at once.
          cluster_.loop.after_ms(cluster_.loop.pick(50), [this, i, epoch = epoch_] {
            if (cluster_.nodes.contains(SeededCluster::id(i))) cluster_[i].set_epoch(epoch);
          });
        break;
      case 1: {
        const uint32_t node = any();
        if (!cluster_.nodes.contains(SeededCluster::id(node))) break;
        // Its operations end with it; open calls are not answered any more.
        open_ -= open_of_[node];
        open_of_[node] = 0;
        ++life_[node];
        cluster_.stop(node);
        cluster_.loop.after_ms(cluster_.loop.pick(500), [this, node] {
          if (cluster_.nodes.contains(SeededCluster::id(node))) return;
          cluster_.start(node);
          cluster_[node].set_epoch(epoch_);
        });
        break;
      }
      case 2:
      case 3:
      case 4:
        fetch(any());
        break;
      case 5:
      case 6:
      case 7:
      case 8:
        trim(any());
        break;
      default:
        replicate(any());
    }
  }

  void replicate(uint32_t node) {
    if (!cluster_.nodes.contains(SeededCluster::id(node))) return;
    if (cluster_[node].arena->usage().blocks > 60) return;
    state_ = {Version(state_.version.value + 1), epoch_};
    std::vector<NodeId> holders;
    for (uint32_t i = 0; i < 3; ++i)
      if (i != node) holders.push_back(SeededCluster::id(i));
    const auto blocks = cluster_[node].capture(node * 4, 1 + cluster_.loop.pick(4), state_);
    states_.push_back(state_);
    begin(node);
    cluster_[node].replicator->replicate(
        epoch_, kTestJob, state_, blocks, holders,
        [this, node, life = life_[node]](const std::vector<HolderResult>& results) {
          if (!end(node, life)) return;
          for (const HolderResult& r : results) ++(r.status ? replicated_ : failed_);
        });
  }

  void fetch(uint32_t node) {
    if (states_.empty() || !cluster_.nodes.contains(SeededCluster::id(node))) return;
    if (cluster_[node].arena->usage().blocks > 60) return;
    std::vector<WantedShard> shards;
    for (uint32_t i = 0; i < 12; ++i) shards.push_back(wanted_shard(i));
    const size_t newest = std::min<size_t>(states_.size(), 5);
    const StateVersion state =
        states_[states_.size() - 1 - cluster_.loop.pick(static_cast<uint32_t>(newest))];
    begin(node);
    cluster_[node].replicator->fetch(
        epoch_, kTestJob, state, shards, SeededCluster::id((node + 1) % 3),
        [this, node, life = life_[node], state](const FetchResult& result) {
          if (!end(node, life)) return;
          if (result.blocks.size() + result.failed.size() != 12) wrong_ = "a shard is not answered";
          fetched_ += result.blocks.size();
          failed_ += result.failed.size();
        });
  }

  // The watermark passes all but the newest states.
  void trim(uint32_t node) {
    if (!cluster_.nodes.contains(SeededCluster::id(node))) return;
    const uint64_t keep = cluster_.loop.pick(4);
    for (const BlockInfo& block : cluster_[node].arena->scan())
      if (block.header && block.header->state.version.value + keep < state_.version.value &&
          !cluster_[node].arena->free(block))
        wrong_ = "a published block could not be freed";
  }

  void begin(uint32_t node) {
    ++open_;
    ++open_of_[node];
  }
  bool end(uint32_t node, uint32_t life) {
    if (life != life_[node]) return false;
    --open_;
    --open_of_[node];
    return true;
  }

  std::string check() {
    if (!wrong_.empty()) return wrong_;
    for (auto& [id, node] : cluster_.nodes)
      if (std::string why = node->damaged(); !why.empty()) return why;
    return "";
  }

  // When all is calm every call is answered, and what is granted is only what a dead writer left.
  std::string finish() {
    cluster_.loop.drain();
    for (uint32_t i = 0; i < 3; ++i)
      if (!cluster_.nodes.contains(SeededCluster::id(i))) cluster_.start(i);
    cluster_.trouble.request_lost = 0;
    epoch_ = epoch_.next();
    cluster_.set_epoch(epoch_);
    cluster_.loop.drain();
    for (uint32_t i = 0; i < 3; ++i) trim(i);
    for (uint32_t i = 0; i < 3; ++i) replicate(i);
    cluster_.loop.drain();
    if (const std::string why = check(); !why.empty()) return why;
    if (open_ != 0) return fmt::format("{} calls were never answered", open_);
    for (auto& [id, node] : cluster_.nodes)
      if (const uint32_t left = node->server->granted_blocks(); left != 0)
        return fmt::format("{} keeps {} granted blocks", id.value, left);
    for (auto& [id, node] : cluster_.nodes)
      for (const BlockInfo& block : node->arena->scan())
        if (!block.header)
          return fmt::format("{}: block {} of {} was never freed", id.value, block.index.value,
                             block.writer.value);
    return "";
  }

  SeededCluster cluster_;
  Epoch epoch_{1, 1};
  StateVersion state_;
  std::vector<StateVersion> states_;
  int64_t open_ = 0;
  std::map<uint32_t, int64_t> open_of_;
  std::map<uint32_t, uint32_t> life_;
  std::string wrong_;
  uint64_t replicated_ = 0;
  uint64_t fetched_ = 0;
  uint64_t failed_ = 0;
};

uint32_t seeds() {
  const char* text = std::getenv("HOLDFAST_SEEDS");
  return text ? static_cast<uint32_t>(std::stoul(text)) : 20;
}

TEST(ReplicationWalk, PublishedBlocksAlwaysHaveTheirBytes) {
  uint64_t replicated = 0;
  uint64_t fetched = 0;
  uint64_t failed = 0;
  for (uint32_t seed = 1; seed <= seeds(); ++seed) {
    Walk walk(seed, kTestQuarantine);
    ASSERT_EQ(walk.run(1'500), "") << "seed " << seed;
    replicated += walk.replicated();
    fetched += walk.fetched();
    failed += walk.failed();
  }
  // The walk must go through both good and bad.
  EXPECT_GT(replicated, seeds() * 5);
  EXPECT_GT(fetched, seeds() * 2);
  EXPECT_GT(failed, seeds() * 5);
}

// The walk would notice: without the quarantine, late writes land in blocks that others have.
TEST(ReplicationWalk, FindsTheDamageThatTheQuarantinePrevents) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    Walk walk(seed, 0);
    if (walk.run(1'500).find("the checksum taken at capture") != std::string::npos) return;
  }
  FAIL() << "60 walks without quarantine found no damage";
}

}  // namespace
}  // namespace holdfast::storage
