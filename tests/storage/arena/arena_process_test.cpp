// A worker that is killed at any moment leaves blocks that count whole, or not at all.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "tests/storage/arena/arena_test_help.h"

namespace holdfast::storage {
namespace {

constexpr Epoch kEpoch{1, 4};
constexpr size_t kBytes = 60'000;

// What the child does: fills and publishes block after block until it is killed.
[[noreturn]] void publish_all(const std::filesystem::path& path,
                              const std::vector<BlockIndex>& blocks, int started) {
  auto arena = ArenaMapping::map(path);
  if (!arena || ::write(started, "x", 1) != 1) ::_exit(1);
  for (const BlockIndex block : blocks) {
    const BlockHeader header = fill(**arena, block, block.value, 1, kBytes);
    if (!(*arena)->publish(block, kEpoch, header)) ::_exit(2);
  }
  ::_exit(0);
}

TEST_F(ArenaTest, AKilledWriterLeavesWholeBlocksOrNone) {
  std::mt19937_64 random(5);
  uint64_t published = 0, cut_off = 0;
  for (int round = 0; round < 40; ++round) {
    auto arena = Arena::open(options());
    ASSERT_TRUE(arena) << arena.error().to_string();
    std::vector<BlockIndex> blocks;
    for (int i = 0; i < 12; ++i)
      blocks.push_back((*arena)->allocate(kBytes, NodeId("node-0"), kEpoch)->index);
    int started[2];
    ASSERT_EQ(::pipe(started), 0);
    const pid_t child = ::fork();
    if (child == 0) publish_all(path(), blocks, started[1]);
    ASSERT_GT(child, 0);
    char byte = 0;
    ASSERT_EQ(::read(started[0], &byte, 1), 1);
    // Killed once a random number of blocks counts, which is always somewhere in the next one.
    const size_t until = random() % blocks.size();
    while (until > 0 && !(*arena)->info(blocks[until - 1])->header) ::sched_yield();
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ::close(started[0]);
    ::close(started[1]);
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << status;

    for (const BlockInfo& block : (*arena)->scan()) {
      if (!block.header) {
        ++cut_off;
        continue;
      }
      ++published;
      EXPECT_TRUE((*arena)->read_verified(block.index, *block.header));
    }
    arena->reset();
    std::filesystem::remove(path());
  }
  EXPECT_GT(published, 0u);
  EXPECT_GT(cut_off, 0u);
}

}  // namespace
}  // namespace holdfast::storage
