// Random walks of an arena against a list of what it should hold.
#include <map>
#include <random>

#include "tests/storage/arena/arena_test_help.h"

namespace holdfast::storage {
namespace {

struct Held {
  BlockInfo granted;
  std::optional<BlockHeader> header;
};

class Walk {
 public:
  Walk(const ArenaOptions& options, uint64_t seed) : options_(options), random_(seed) { open(); }

  void step() {
    switch (random_() % 16) {
      case 0:
        arena_.reset();
        std::erase_if(held_, [](const auto& one) { return !one.second.header; });
        return open();
      case 1: case 2: case 3: case 4: case 5:
        return release();
      case 6: case 7: case 8: case 9:
        return publish();
      default:
        return allocate();
    }
  }

  void check() {
    const std::vector<BlockInfo> blocks = arena_->scan();
    ASSERT_EQ(blocks.size(), held_.size());
    std::map<uint64_t, uint64_t> extents;
    uint64_t bytes = 0;
    for (const BlockInfo& block : blocks) {
      ASSERT_TRUE(held_.contains(block.index.value));
      const Held& mine = held_[block.index.value];
      EXPECT_EQ(block.offset, mine.granted.offset);
      EXPECT_EQ(block.header, mine.header);
      extents[block.offset] = block.offset + block.capacity;
      bytes += block.capacity;
      if (mine.header) {
        EXPECT_TRUE(arena_->read_verified(block.index, *mine.header));
      }
    }
    uint64_t end = 0;
    for (const auto& [from, to] : extents) {
      EXPECT_GE(from, end) << "two blocks share bytes";
      end = to;
    }
    EXPECT_LE(end, options_.size_bytes);
    EXPECT_EQ(arena_->usage().used_bytes, bytes);
    EXPECT_EQ(arena_->usage().blocks, held_.size());
    EXPECT_TRUE(arena_->damage().empty());
  }

 private:
  void open() {
    auto arena = Arena::open(options_);
    ASSERT_TRUE(arena) << arena.error().to_string();
    arena_ = std::move(*arena);
  }
  void allocate() {
    const uint64_t bytes = random_() % 60'000;
    const auto block = arena_->allocate(bytes, NodeId("node-0"), Epoch{1, 4});
    if (!block) {
      EXPECT_EQ(block.error().code, ErrorCode::kArenaFull);
      EXPECT_FALSE(held_.empty()) << "an empty arena has room";
      return;
    }
    EXPECT_GE(block->capacity, bytes);
    EXPECT_TRUE(held_.emplace(block->index.value, Held{*block, {}}).second) << "granted twice";
  }
  Held* any() {
    if (held_.empty()) return nullptr;
    return &std::next(held_.begin(), static_cast<std::ptrdiff_t>(random_() % held_.size()))->second;
  }
  void publish() {
    Held* one = any();
    if (one == nullptr || one->header) return;
    const BlockHeader header = fill(*arena_, one->granted.index, one->granted.index.value, random_(),
                                    one->granted.capacity - random_() % 4096);
    EXPECT_TRUE(arena_->publish(one->granted.index, Epoch{1, 4}, header));
    one->header = header;
  }
  void release() {
    Held* one = any();
    if (one == nullptr) return;
    const BlockInfo granted = one->granted;
    EXPECT_TRUE(arena_->free(granted));
    EXPECT_FALSE(arena_->free(granted));
    held_.erase(granted.index.value);
  }

  const ArenaOptions options_;
  std::mt19937_64 random_;
  std::unique_ptr<Arena> arena_;
  std::map<uint32_t, Held> held_;
};

TEST_F(ArenaTest, RandomUseNeverLosesMixesOrSharesBlocks) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Walk walk(options(512 << 10), seed);
    for (int step = 0; step < 150; ++step) {
      walk.step();
      walk.check();
      ASSERT_FALSE(HasFailure()) << "seed " << seed << ", step " << step;
    }
    std::filesystem::remove(path());
  }
}

}  // namespace
}  // namespace holdfast::storage
