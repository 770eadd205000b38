// Bytes in an arena change behind the cluster's back: no such byte enters training state (promise
// `verified`), the shard is had from another node, and people are told.
#include <gtest/gtest.h>
#include <signal.h>

#include "storage/arena/arena.h"
#include "tests/chaos/failures.h"

namespace holdfast::chaos {
namespace {

class Damage : public Failures {
 protected:
  // Flips one random bit in the payload of every published block of that node; returns how many.
  int flip_in_every_block(const std::string& node) {
    const auto status = cluster_.status(node);
    if (!status) return 0;
    auto arena = storage::ArenaMapping::map(status->local.arena.path);
    EXPECT_TRUE(arena) << arena.error().to_string();
    if (!arena) return 0;
    int flipped = 0;
    for (uint32_t i = 0; i < 4'096; ++i) {
      const auto block = (*arena)->info(storage::BlockIndex(i));
      if (!block || !block->header || block->header->length == 0) continue;
      const uint64_t at = block->offset + random(0, block->header->length - 1);
      (*arena)->bytes()[at] ^= std::byte(1u << random(0, 7));
      ++flipped;
    }
    return flipped;
  }
};

TEST_P(Damage, ResumedFromReplicasWhenOneArenaIsDamaged) {
  run();
  ASSERT_TRUE(cluster_.post("/v1/jobs/tiny/stop", boost::json::object()));
  ASSERT_TRUE(cluster_.wait_for_state("stopped"));
  const std::string node = random_node(0);
  const uint64_t before = cluster_.last_event();
  ASSERT_GT(flip_in_every_block(node), 0);
  ASSERT_TRUE(cluster_.post("/v1/jobs/tiny/resume", boost::json::object()));
  ASSERT_TRUE(cluster_.wait_for_event("block_damaged", before));
  expect_promises();
}

// Its own arena, where its shards would come from, is damaged while the worker is stopped.
TEST_P(Damage, WorkerKilledAndTheArenaBesideItDamaged) {
  run();
  const std::string node = random_node(0);
  const pid_t pid = worker_of(node);
  ASSERT_GT(pid, 0);
  const uint64_t before = cluster_.last_event();
  kill(pid, SIGSTOP);
  ASSERT_GT(flip_in_every_block(node), 0);
  kill(pid, SIGKILL);
  ASSERT_TRUE(cluster_.wait_for_event("block_damaged", before));
  expect_promises();
}

// A machine comes back with an arena that is there and wrong.
TEST_P(Damage, NodeBackWithADamagedArena) {
  job_.steps = kLongSteps;
  run();
  const std::string node = random_node();
  const auto status = cluster_.status(node);
  ASSERT_TRUE(status);
  const uint64_t before = cluster_.last_event();
  ASSERT_TRUE(cluster_.playground().kill_node(node));
  std::filesystem::resize_file(status->local.arena.path, 4096);  // not even a whole one
  const Status started = cluster_.playground().start_node(node);
  ASSERT_FALSE(started) << "a damaged arena is refused, never taken for an empty one";
  std::filesystem::remove(status->local.arena.path);
  ASSERT_TRUE(cluster_.playground().start_node(node));
  ASSERT_TRUE(cluster_.wait_for_event("rejoined", before));
  expect_promises();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Damage, testing::ValuesIn(seeds()));

}  // namespace
}  // namespace holdfast::chaos
