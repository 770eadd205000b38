// Which ranges of an arena are handed out, and what is said of those that are not.
#include "daemon/service/shard_reading.h"

#include <gmock/gmock.h>

#include "base/checksum.h"
#include "tests/storage/arena/arena_test_help.h"
#include "train/worker/base64.h"

namespace holdfast::daemon {
namespace {

using ::testing::HasSubstr;

// The blocks of arena_test_help.h: job 77, made in 1.4, shard g<i>/s0.
class ShardReadingTest : public storage::ArenaTest {
 protected:
  void SetUp() override {
    ArenaTest::SetUp();
    auto opened = storage::Arena::open(options());
    ASSERT_TRUE(opened) << opened.error().to_string();
    arena_ = std::move(*opened);
    for (const uint32_t shard : {2, 1, 1}) blocks_.push_back(put(*arena_, shard, 5, 1'000));
    put(*arena_, 3, 6, 1'000);
  }
  Result<ShardQuery> parse(const std::string& target) const {
    HttpRequest request;
    request.method = "GET";
    request.target = target;
    return parse_shard_query(request);
  }
  Result<api::ShardRange> read(const std::string& shard, const std::string& range,
                               int version = 5) const {
    ASSIGN_OR_RETURN(const auto query,
                     parse("/v1/snapshots/000000000000004d/shards/" + shard + "?version=" +
                           std::to_string(version) + "&made=1.4" + range));
    return read_shard_range(*arena_, NodeId("node-0"), query);
  }
  void damage(const storage::BlockInfo& block) const {
    (*arena_->payload(block.index))[999] ^= std::byte{1};
  }

  std::unique_ptr<storage::Arena> arena_;
  std::vector<storage::BlockInfo> blocks_;
};

TEST_F(ShardReadingTest, TheListNamesEachShardOfTheStateOnce) {
  const auto query = parse("/v1/snapshots/000000000000004d/shards?version=5&made=1.4&node=node-0");
  ASSERT_TRUE(query) << query.error().to_string();
  EXPECT_EQ(query->node, NodeId("node-0"));
  EXPECT_TRUE(query->hold);
  EXPECT_EQ(held_shards(*arena_, *query),
            (std::vector<ShardId>{{GroupIndex(1), SliceIndex(0)}, {GroupIndex(2), SliceIndex(0)}}));
  const auto other = parse("/v1/snapshots/000000000000004e/shards?version=5&made=1.4&hold=0");
  ASSERT_TRUE(other);
  EXPECT_FALSE(other->hold);
  EXPECT_TRUE(held_shards(*arena_, *other).empty());
}

TEST_F(ShardReadingTest, ARangeComesWithItsChecksum) {
  const auto range = read("2/0", "&offset=990&length=10");
  ASSERT_TRUE(range) << range.error().to_string();
  const auto bytes = train::from_base64(range->data);
  ASSERT_TRUE(bytes);
  ASSERT_EQ(bytes->size(), 10u);
  EXPECT_EQ(range->checksum, checksum64(*bytes));
  EXPECT_EQ(range->payload_bytes, 1'000u);
  EXPECT_EQ(range->node, NodeId("node-0"));
  const auto payload = arena_->payload(blocks_[0].index);
  EXPECT_EQ(std::memcmp(bytes->data(), payload->data() + 990, 10), 0);
  EXPECT_TRUE(read("2/0", "&offset=1000&length=0"));
}

TEST_F(ShardReadingTest, WhatIsNotThereIsMissing) {
  EXPECT_EQ(read("3/0", "&length=1").error().code, ErrorCode::kBlockMissing);
  EXPECT_EQ(read("2/1", "&length=1").error().code, ErrorCode::kBlockMissing);
  EXPECT_EQ(read("2/0", "&length=1", 6).error().code, ErrorCode::kBlockMissing);
  for (const char* range : {"&offset=991&length=10", "&offset=1001&length=0",
                            "&offset=18446744073709551615&length=2"})
    EXPECT_EQ(read("2/0", range).error().code, ErrorCode::kUsage) << range;
}

TEST_F(ShardReadingTest, NoByteOfADamagedBlockIsHandedOut) {
  damage(blocks_[0]);
  const auto range = read("2/0", "&offset=0&length=10");  // the damage lies elsewhere in the block
  ASSERT_FALSE(range);
  EXPECT_EQ(range.error().code, ErrorCode::kBlockInvalid);
  damage(blocks_[1]);
  EXPECT_TRUE(read("1/0", "&length=10")) << "the other block of that shard is good";
  damage(blocks_[2]);
  EXPECT_EQ(read("1/0", "&length=10").error().code, ErrorCode::kBlockInvalid);
}

TEST_F(ShardReadingTest, WordsThatAreNoQueryAreNamed) {
  const std::string key = "/v1/snapshots/000000000000004d/";
  for (const auto& [target, what] : std::vector<std::pair<std::string, std::string>>{
           {"/v1/snapshots/tiny/shards?version=5&made=1.4", "16 hexadecimal digits"},
           {"/v1/snapshots/00000000000000xy/shards?version=5&made=1.4", "16 hexadecimal digits"},
           {key + "blocks?version=5&made=1.4", "is not part of the control API"},
           {key + "shards/1?version=5&made=1.4", "GROUP/SLICE"},
           {key + "shards/1/x?version=5&made=1.4", "GROUP/SLICE"},
           {key + "shards?made=1.4", "version= is missing"},
           {key + "shards?version=-5&made=1.4", "version=-5"},
           {key + "shards?version=5&made=14", "made= is an epoch"},
           {key + "shards/1/0?version=5&made=1.4&length=8388609", "at most 8388608"}}) {
    const auto query = parse(target);
    ASSERT_FALSE(query) << target;
    EXPECT_EQ(query.error().code, ErrorCode::kUsage);
    EXPECT_THAT(query.error().message, HasSubstr(what));
  }
}

}  // namespace
}  // namespace holdfast::daemon
