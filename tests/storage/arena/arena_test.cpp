// What an arena promises to its users.
#include "storage/arena/arena.h"

#include <unistd.h>

#include "tests/storage/arena/arena_test_help.h"

namespace holdfast::storage {
namespace {

const NodeId kNode("node-0");
constexpr Epoch kEpoch{1, 4};

TEST_F(ArenaTest, APublishedBlockIsFoundAgainWithItsBytesAfterARestart) {
  BlockInfo before;
  {
    auto arena = Arena::open(options());
    ASSERT_TRUE(arena) << arena.error().to_string();
    before = put(**arena, 3, 12, 10'000);
    EXPECT_EQ(before.offset % 4096, 0u);
    EXPECT_EQ(before.capacity, 12'288u);
  }
  auto arena = Arena::open(options());
  ASSERT_TRUE(arena) << arena.error().to_string();
  EXPECT_TRUE((*arena)->damage().empty());
  const std::vector<BlockInfo> blocks = (*arena)->scan();
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_EQ(blocks[0].header, before.header);
  EXPECT_EQ(blocks[0].writer, kNode);
  EXPECT_EQ(blocks[0].granted_in, kEpoch);
  const auto payload = (*arena)->read_verified(blocks[0].index, *blocks[0].header);
  ASSERT_TRUE(payload) << payload.error().to_string();
  EXPECT_EQ(payload->size(), 10'000u);
}

TEST_F(ArenaTest, WhatIsOnlyAllocatedCountsForNothing) {
  {
    auto arena = Arena::open(options());
    auto block = (*arena)->allocate(100, kNode, kEpoch);
    ASSERT_TRUE(block);
    const BlockHeader header = fill(**arena, block->index, 1, 1, 100);
    EXPECT_EQ((*arena)->read_verified(block->index, header).error().code, ErrorCode::kBlockInvalid);
    EXPECT_EQ((*arena)->scan()[0].header, std::nullopt);
  }
  auto arena = Arena::open(options());
  EXPECT_TRUE((*arena)->scan().empty());
  EXPECT_EQ((*arena)->usage().used_bytes, 0u);
}

TEST_F(ArenaTest, ABlockWhoseWriterMayLiveKeepsItsRoomOverARestart) {
  BlockInfo granted;
  {
    auto arena = Arena::open(options());
    granted = *(*arena)->allocate(100, NodeId("node-9"), kEpoch);
  }
  auto arena =
      Arena::open(options(), [](const BlockInfo& info) { return info.writer == NodeId("node-9"); });
  ASSERT_EQ((*arena)->scan().size(), 1u);
  EXPECT_NE((*arena)->allocate(100, kNode, kEpoch)->offset, granted.offset);
  const BlockHeader header = fill(**arena, granted.index, 1, 1, 100);
  EXPECT_TRUE((*arena)->publish(granted.index, kEpoch, header));
}

TEST_F(ArenaTest, PublishRefusesWhatWasNotGranted) {
  auto arena = Arena::open(options());
  const BlockIndex block = (*arena)->allocate(4096, kNode, kEpoch)->index;
  const BlockHeader header = fill(**arena, block, 1, 5, 4096);
  EXPECT_EQ((*arena)->publish(block, Epoch{1, 5}, header).error().code, ErrorCode::kBlockInvalid);
  BlockHeader longer = header;
  longer.length = 4097;
  EXPECT_EQ((*arena)->publish(block, kEpoch, longer).error().code, ErrorCode::kBlockInvalid);
  EXPECT_EQ((*arena)->publish(BlockIndex(5), kEpoch, header).error().code,
            ErrorCode::kBlockInvalid);
  EXPECT_EQ((*arena)->publish(BlockIndex(5'000'000), kEpoch, header).error().code,
            ErrorCode::kBlockInvalid);
  EXPECT_TRUE((*arena)->publish(block, kEpoch, header));
  EXPECT_TRUE((*arena)->publish(block, kEpoch, header)) << "the same again does no harm";
  BlockHeader other = header;
  other.state.version = Version(6);
  EXPECT_EQ((*arena)->publish(block, kEpoch, other).error().code, ErrorCode::kBlockInvalid);
}

TEST_F(ArenaTest, ReadRejectsAnyOtherJobShardStateOrContent) {
  auto arena = Arena::open(options());
  const BlockInfo block = put(**arena, 1, 5, 5000);
  const auto code_of = [&](auto change) {
    BlockHeader expected = *block.header;
    change(expected);
    const auto read = (*arena)->read_verified(block.index, expected);
    return read ? ErrorCode::kInternal : read.error().code;
  };
  EXPECT_EQ(code_of([](BlockHeader& h) { h.job = 1; }), ErrorCode::kBlockInvalid);
  EXPECT_EQ(code_of([](BlockHeader& h) { h.shard.slice = SliceIndex(1); }),
            ErrorCode::kBlockInvalid);
  EXPECT_EQ(code_of([](BlockHeader& h) { h.state.version = Version(6); }),
            ErrorCode::kBlockInvalid);
  EXPECT_EQ(code_of([](BlockHeader& h) { h.state.made.number = 3; }), ErrorCode::kBlockInvalid);
  EXPECT_EQ(code_of([](BlockHeader& h) { h.checksum ^= 1; }), ErrorCode::kBlockInvalid);
  EXPECT_EQ(code_of([](BlockHeader& h) { h.length -= 1; }), ErrorCode::kBlockInvalid);
  BlockHeader content_unknown = *block.header;
  content_unknown.checksum = content_unknown.length = 0;
  EXPECT_TRUE((*arena)->read_verified(block.index, content_unknown));
}

TEST_F(ArenaTest, AFullArenaSaysWhatWasWantedAndWhatIsFree) {
  auto arena = Arena::open(options(256 * 1024));
  const BlockInfo first = *(*arena)->allocate(64 * 1024, kNode, kEpoch);
  ASSERT_TRUE((*arena)->allocate(64 * 1024, kNode, kEpoch));
  ASSERT_TRUE((*arena)->free(first));
  const auto refused = (*arena)->allocate(200'000, kNode, kEpoch);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kArenaFull);
  EXPECT_NE(refused.error().message.find("200000 bytes wanted, 176128 free, 110592 in one piece"),
            std::string::npos)
      << refused.error().message;
  EXPECT_EQ((*arena)->allocate(~uint64_t{0}, kNode, kEpoch).error().code, ErrorCode::kArenaFull);
}

TEST_F(ArenaTest, EveryEntryCanBeUsedAndUsedAgain) {
  auto arena = Arena::open(options());
  std::vector<BlockInfo> blocks;
  for (int i = 0; i < 64; ++i) {
    auto block = (*arena)->allocate(0, kNode, kEpoch);
    ASSERT_TRUE(block) << i << block.error().to_string();
    EXPECT_EQ(block->capacity, 4096u);
    blocks.push_back(*block);
  }
  EXPECT_EQ((*arena)->allocate(0, kNode, kEpoch).error().code, ErrorCode::kArenaFull);
  for (const BlockInfo& block : blocks) ASSERT_TRUE((*arena)->free(block));
  EXPECT_EQ((*arena)->free(blocks[0]).error().code, ErrorCode::kBlockInvalid);
  EXPECT_TRUE((*arena)->allocate(900'000, kNode, kEpoch)) << "free extents are joined again";
}

TEST_F(ArenaTest, AGrantThatIsOverFreesNothingOfTheNextOne) {
  auto arena = Arena::open(options());
  const BlockInfo first = *(*arena)->allocate(100, kNode, kEpoch);
  ASSERT_TRUE((*arena)->free(first));
  const BlockInfo second = *(*arena)->allocate(100, NodeId("node-1"), kEpoch);
  ASSERT_EQ(second.index, first.index);
  const Status refused = (*arena)->free(first);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBlockInvalid);
  EXPECT_NE(refused.error().message.find("grant 1 of it is over, it is at 2"), std::string::npos)
      << refused.error().message;
  EXPECT_EQ((*arena)->usage().blocks, 1u);
  EXPECT_TRUE((*arena)->free((*arena)->scan()[0]));
}

TEST_F(ArenaTest, WhatWasVerifiedIsKnownUntilItIsFoundWrongOrGrantedAnew) {
  auto arena = Arena::open(options());
  const BlockInfo block = put(**arena, 0, 5, 5'000);
  EXPECT_FALSE((*arena)->was_verified(block));
  ASSERT_TRUE((*arena)->read_verified(block.index, *block.header));
  EXPECT_TRUE((*arena)->was_verified(block));
  (*(*arena)->payload(block.index))[0] ^= std::byte{1};
  EXPECT_FALSE((*arena)->read_verified(block.index, *block.header));
  EXPECT_FALSE((*arena)->was_verified(block));
  (*(*arena)->payload(block.index))[0] ^= std::byte{1};
  ASSERT_TRUE((*arena)->read_verified(block.index, *block.header));
  ASSERT_TRUE((*arena)->free(block));
  const BlockInfo next = put(**arena, 0, 6, 5'000);
  ASSERT_EQ(next.index, block.index);
  EXPECT_FALSE((*arena)->was_verified(next));
  EXPECT_FALSE((*arena)->was_verified(block));
}

TEST_F(ArenaTest, WhatItsPublisherHasJustSummedIsVerified) {
  auto arena = Arena::open(options());
  const BlockInfo granted = *(*arena)->allocate(5'000, kNode, kEpoch);
  const BlockHeader header = fill(**arena, granted.index, 1, 5, 5'000);
  EXPECT_FALSE((*arena)->publish_verified(granted.index, Epoch{1, 99}, header));
  EXPECT_FALSE((*arena)->was_verified(granted)) << "refused";
  ASSERT_TRUE((*arena)->publish_verified(granted.index, kEpoch, header));
  EXPECT_TRUE((*arena)->was_verified(*(*arena)->info(granted.index)));
  (*(*arena)->payload(granted.index))[0] ^= std::byte{1};
  EXPECT_FALSE((*arena)->read_verified(granted.index, header)) << "whoever uses it looks again";
  EXPECT_FALSE((*arena)->was_verified(granted));
  arena->reset();
  arena = Arena::open(options());
  EXPECT_FALSE((*arena)->was_verified((*arena)->scan()[0])) << "of that process only";
}

TEST_F(ArenaTest, UsageTellsWhatIsGrantedAndNotPublished) {
  auto arena = Arena::open(options());
  put(**arena, 0, 5, 5'000);
  ASSERT_TRUE((*arena)->allocate(10'000, NodeId("node-1"), kEpoch));
  const ArenaUsage usage = (*arena)->usage();
  EXPECT_EQ(usage.blocks, 2u);
  EXPECT_EQ(usage.granted_blocks, 1u);
  EXPECT_EQ(usage.granted_bytes, 12'288u);
  EXPECT_EQ(usage.used_bytes, 12'288u + 8'192u);
}

TEST_F(ArenaTest, AFileThatWasMadeAnewHasAnotherId) {
  uint64_t first = 0;
  {
    auto arena = Arena::open(options());
    first = (*arena)->id();
  }
  EXPECT_NE(first, 0u);
  EXPECT_EQ((*Arena::open(options()))->id(), first);
  std::filesystem::remove(path());
  EXPECT_NE((*Arena::open(options()))->id(), first);
}

TEST_F(ArenaTest, AnArenaOfAnotherNodeOrClusterIsForeign) {
  ASSERT_TRUE(Arena::open(options()));
  for (const bool other_node : {true, false}) {
    ArenaOptions others = options();
    (other_node ? others.node.value : others.cluster) = "stranger";
    const auto arena = Arena::open(others);
    ASSERT_FALSE(arena);
    EXPECT_EQ(arena.error().code, ErrorCode::kArenaForeign);
    EXPECT_NE(arena.error().message.find("stranger"), std::string::npos);
    EXPECT_NE(arena.error().message.find("node-0"), std::string::npos);
  }
}

TEST_F(ArenaTest, AFileOfAnotherSizeIsAdoptedWhenLargeEnough) {
  ASSERT_TRUE(Arena::open(options(1 << 20)));
  auto larger = Arena::open(options(1 << 19));
  ASSERT_TRUE(larger) << larger.error().to_string();
  EXPECT_EQ((*larger)->usage().size_bytes, 1u << 20);
  larger->reset();
  const auto smaller = Arena::open(options(1 << 21));
  ASSERT_FALSE(smaller);
  EXPECT_EQ(smaller.error().code, ErrorCode::kArenaTooSmall);
  EXPECT_NE(smaller.error().message.find("1048576"), std::string::npos);
  EXPECT_NE(smaller.error().message.find("2097152"), std::string::npos);
}

TEST_F(ArenaTest, TwoDaemonsCannotOpenOneArena) {
  auto first = Arena::open(options());
  ASSERT_TRUE(first);
  const auto second = Arena::open(options());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_TRUE(ArenaMapping::map(path())) << "workers map it all the same";
  first->reset();
  EXPECT_TRUE(Arena::open(options()));
}

TEST_F(ArenaTest, AFileSystemWithoutRoomIsAnErrorAndNoFileIsLeft) {
  const auto arena = Arena::open(options(uint64_t{1} << 50));
  ASSERT_FALSE(arena);
  // tmpfs says ENOSPC, a disk without so large files EFBIG.
  EXPECT_TRUE(arena.error().code == ErrorCode::kDiskFull || folder_.string().starts_with("/tmp"))
      << arena.error().to_string();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(ArenaTest, TooFewBytesForABlockAreRefused) {
  const auto arena = Arena::open(options(8192));
  ASSERT_FALSE(arena);
  EXPECT_EQ(arena.error().code, ErrorCode::kArenaTooSmall);
  EXPECT_TRUE(Arena::open(options(24576))) << "the least that the message named";
}

TEST_F(ArenaTest, ACreationThatWasCutOffIsBegunAnew) {
  write_file(path().string() + ".new", std::vector<char>(100, 'x'));
  EXPECT_TRUE(Arena::open(options()));
  EXPECT_FALSE(std::filesystem::exists(path().string() + ".new"));
}

TEST_F(ArenaTest, MissingAndIrregularFilesAreNamed) {
  EXPECT_EQ(ArenaMapping::map(path()).error().code, ErrorCode::kFileIo);
  ASSERT_EQ(::truncate(path().c_str(), 0), -1) << "map must not create";
  std::filesystem::create_directory(path());
  const auto arena = Arena::open(options());
  ASSERT_FALSE(arena);
  EXPECT_EQ(arena.error().code, ErrorCode::kFileIo);
  EXPECT_NE(arena.error().message.find(path().string()), std::string::npos);
}

TEST_F(ArenaTest, ANodeNameThatDoesNotFitIsRefused) {
  ArenaOptions long_name = options();
  long_name.node = NodeId(std::string(81, 'n'));
  EXPECT_EQ(Arena::open(long_name).error().code, ErrorCode::kConfigValue);
  auto arena = Arena::open(options());
  EXPECT_EQ((*arena)->allocate(1, NodeId(std::string(81, 'n')), kEpoch).error().code,
            ErrorCode::kConfigValue);
  EXPECT_TRUE((*arena)->allocate(1, NodeId(std::string(80, 'n')), kEpoch));
}

}  // namespace
}  // namespace holdfast::storage
