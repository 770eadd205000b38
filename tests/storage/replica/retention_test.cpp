// A table of the rule, and a random walk: whatever happened, the safe state and what may still
// become safe stay in the arena.
#include "storage/replica/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace holdfast::storage {
namespace {

constexpr uint64_t kJob = 7;

StateVersion at(uint64_t version, uint32_t epoch) { return {Version(version), Epoch{1, epoch}}; }
ViewBase view(uint32_t epoch, StateVersion base) { return {Epoch{1, epoch}, base}; }

BlockInfo block(uint32_t index, uint64_t job, StateVersion state) {
  return {
      .index = BlockIndex(index),
      .offset = 0,
      .capacity = 4096,
      .writer = NodeId("node-0"),
      .granted_in = state.made,
      .header = BlockHeader{.job = job, .shard = {}, .state = state, .length = 1, .checksum = 1}};
}

struct Row {
  const char* name;
  StateVersion state;
  Watermark watermark;
  bool goes;
};

TEST(Retention, Table) {
  const std::vector<ViewBase> one_view = {view(1, at(0, 0))};
  // Epoch 2 went back to version 6 and made 7 and 8 anew.
  const std::vector<ViewBase> rolled_back = {view(1, at(0, 0)), view(2, at(6, 1))};
  const std::vector<Row> rows = {
      {"older", at(4, 1), {kJob, at(5, 1), {}, one_view}, true},
      {"the safe state", at(5, 1), {kJob, at(5, 1), {}, one_view}, false},
      {"newer", at(6, 1), {kJob, at(5, 1), {}, one_view}, false},
      {"newer, given up", at(6, 1), {kJob, at(5, 1), {Version(6)}, one_view}, true},
      {"another was given up", at(7, 1), {kJob, at(5, 1), {Version(6)}, one_view}, false},
      {"safe, though given up once", at(5, 1), {kJob, at(5, 1), {Version(5)}, one_view}, false},
      {"newer by number, of a line that was left",
       at(7, 1),
       {kJob, at(6, 1), {}, rolled_back},
       true},
      {"the same number, made anew", at(7, 2), {kJob, at(6, 1), {}, rolled_back}, false},
      {"the base itself", at(6, 1), {kJob, at(7, 2), {}, rolled_back}, true},
      {"the same version, void", at(7, 1), {kJob, at(7, 2), {}, rolled_back}, true},
      {"the same version, perhaps of a view not heard of",
       at(7, 3),
       {kJob, at(7, 2), {}, rolled_back},
       false},
      {"nothing is older than version 0", at(1, 1), {kJob, at(0, 0), {}, one_view}, false},
      {"version 0 when nothing is safe", at(0, 1), {kJob, at(0, 0), {}, one_view}, false},
      {"a watermark of a line that was left frees no older",
       at(5, 1),
       {kJob, at(9, 1), {}, rolled_back},
       false},
      {"but it frees what is void", at(8, 1), {kJob, at(9, 1), {}, rolled_back}, true},
  };
  for (const Row& row : rows) EXPECT_EQ(may_free(row.state, row.watermark), row.goes) << row.name;
}

TEST(Retention, NamesOnlyPublishedBlocksOfTheJob) {
  BlockInfo granted = block(2, kJob, at(1, 1));
  granted.header.reset();
  const std::vector<BlockInfo> blocks = {block(0, kJob, at(1, 1)), block(1, kJob + 1, at(1, 1)),
                                         granted, block(3, kJob, at(5, 1))};
  const Watermark watermark{kJob, at(5, 1), {}, {view(1, at(0, 0))}};
  const auto freed = blocks_to_free(blocks, watermark);
  ASSERT_EQ(freed.size(), 1u);
  EXPECT_EQ(freed[0].index, BlockIndex(0));
}

// Views roll back to the safe state and go on; after every move the arena is trimmed. The line that
// leads to the newest version must be there from the safe state on, and nothing else but given-up
// captures may be missing.
void walk(uint32_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  Watermark mark{kJob, at(0, 0), {}, {view(1, at(0, 0))}};
  uint32_t epoch = 1;
  uint64_t newest = 0;
  std::vector<StateVersion> line;  // made on the current line, above the safe state
  std::vector<BlockInfo> arena;
  for (uint32_t move = 0; move < 200; ++move) {
    switch (random() % 4) {
      case 0:
      case 1:
        ++newest;
        line.push_back(at(newest, epoch));
        arena.push_back(block(move, kJob, line.back()));
        break;
      case 2:
        if (line.empty()) break;
        mark.safe = line[random() % line.size()];
        std::erase_if(line, [&](const StateVersion& s) { return s.version <= mark.safe.version; });
        std::erase_if(mark.abandoned, [&](Version v) { return v <= mark.safe.version; });
        break;
      default:
        if (random() % 2 == 0 && !line.empty()) {
          mark.abandoned.push_back(line.front().version);
          line.erase(line.begin());
        } else {  // a view from the safe state
          mark.history.push_back(view(++epoch, mark.safe));
          newest = mark.safe.version.value;
          line.clear();
          mark.abandoned.clear();
        }
    }
    const std::vector<BlockInfo> gone = blocks_to_free(arena, mark);
    std::erase_if(arena, [&](const BlockInfo& b) {
      return std::any_of(gone.begin(), gone.end(),
                         [&](const BlockInfo& g) { return g.index == b.index; });
    });
    std::vector<StateVersion> kept;
    for (const BlockInfo& b : arena) kept.push_back(b.header->state);
    std::vector<StateVersion> wanted = line;
    if (mark.safe.version > Version(0)) wanted.push_back(mark.safe);
    std::sort(kept.begin(), kept.end());
    std::sort(wanted.begin(), wanted.end());
    ASSERT_EQ(kept, wanted) << "after move " << move;
  }
}

TEST(Retention, RandomWalk) {
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    walk(seed);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace holdfast::storage
