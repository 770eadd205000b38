// Nothing damaged is ever taken for state: every flipped bit of a superblock or an entry, every prefix
// of the stores that make one, payloads that changed, files that were cut.
#include "storage/arena/layout.h"

#include <cstring>

#include "tests/storage/arena/arena_test_help.h"

namespace holdfast::storage {
namespace {

using layout::EntryWords;
using layout::UsedEntry;

constexpr BlockIndex kBlock(3);

layout::Superblock superblock() {
  auto made = layout::make_superblock(1 << 20, "test", NodeId("node-0"));
  EXPECT_TRUE(made);
  return *made;
}
layout::Grant grant() {
  return {kBlock, superblock().data_offset + 8192, 8192, NodeId("node-7"), Epoch{2, 9}, 5};
}
BlockHeader header() {
  return {.job = 99,
          .shard = {GroupIndex(4), SliceIndex(1)},
          .state = {Version(17), Epoch{2, 8}},
          .length = 5000,
          .checksum = 0x1234567890abcdefULL};
}
void store(EntryWords& words, const layout::Stores& stores, size_t count) {
  for (size_t i = 0; i < count; ++i) words.at(stores[i].word) = stores[i].value;
}
void store(EntryWords& words, const layout::Stores& stores) { store(words, stores, stores.size()); }
EntryWords published() {
  EntryWords words{};
  store(words, layout::stores_to_allocate(grant()));
  store(words, layout::stores_to_publish(grant(), header()));
  return words;
}
const UsedEntry* as_used(const layout::Entry& entry) { return std::get_if<UsedEntry>(&entry); }

TEST(ArenaLayoutTest, AWholeEntryIsReadAsItWasWritten) {
  const layout::Entry entry = layout::read_entry(published(), kBlock, superblock());
  ASSERT_NE(as_used(entry), nullptr);
  EXPECT_EQ(as_used(entry)->header, header());
  EXPECT_EQ(as_used(entry)->grant.writer, NodeId("node-7"));
  EXPECT_EQ(as_used(entry)->grant.offset, grant().offset);
  EXPECT_EQ(as_used(entry)->grant.epoch, (Epoch{2, 9}));
}

TEST(ArenaLayoutTest, AnEntryWithAnyFlippedBitHoldsNoState) {
  for (size_t bit = 0; bit < layout::kEntryWords * 64; ++bit) {
    EntryWords words = published();
    words[bit / 64] ^= uint64_t{1} << (bit % 64);
    const layout::Entry entry = layout::read_entry(words, kBlock, superblock());
    if (const UsedEntry* used = as_used(entry)) {
      EXPECT_EQ(used->header, std::nullopt) << "bit " << bit;
      EXPECT_FALSE(used->header_damage.empty()) << "bit " << bit;
      EXPECT_EQ(used->grant.offset, grant().offset) << "bit " << bit;
    }
  }
}

TEST(ArenaLayoutTest, AnEntryCopiedToAnotherPlaceHoldsNoState) {
  const layout::Entry entry = layout::read_entry(published(), BlockIndex(4), superblock());
  EXPECT_EQ(as_used(entry), nullptr);
}

TEST(ArenaLayoutTest, WhoDiesBetweenTwoStoresLeavesARecordThatCountsOrNone) {
  const layout::Stores allocate = layout::stores_to_allocate(grant());
  for (size_t stores = 0; stores < allocate.size(); ++stores) {
    EntryWords words{};
    store(words, allocate, stores);
    EXPECT_EQ(as_used(layout::read_entry(words, kBlock, superblock())), nullptr) << stores;
  }
  const layout::Stores publish = layout::stores_to_publish(grant(), header());
  for (size_t stores = 0; stores < publish.size(); ++stores) {
    EntryWords words{};
    store(words, allocate);
    store(words, publish, stores);
    const layout::Entry entry = layout::read_entry(words, kBlock, superblock());
    ASSERT_NE(as_used(entry), nullptr) << stores;
    EXPECT_EQ(as_used(entry)->header, std::nullopt) << stores;
  }
  const layout::Stores free = layout::stores_to_free();
  for (size_t stores = 0; stores <= free.size(); ++stores) {
    EntryWords words = published();
    store(words, free, stores);
    const layout::Entry entry = layout::read_entry(words, kBlock, superblock());
    if (const UsedEntry* used = as_used(entry); used != nullptr && used->header) {
      EXPECT_EQ(*used->header, header()) << stores;
    }
    EXPECT_TRUE(stores < free.size() || std::holds_alternative<layout::FreeEntry>(entry));
  }
}

// The header of a block that was freed and granted again must not pass for the new grant's.
TEST(ArenaLayoutTest, AHeaderOfTheGrantBeforeDoesNotCount) {
  EntryWords words = published();
  layout::Grant next = grant();
  next.generation = 6;
  const layout::Stores allocate = layout::stores_to_allocate(next);
  for (const layout::WordStore& store : allocate)
    if (store.word < layout::kHeaderWord) words[store.word] = store.value;
  const layout::Entry entry = layout::read_entry(words, kBlock, superblock());
  ASSERT_NE(as_used(entry), nullptr);
  EXPECT_EQ(as_used(entry)->header, std::nullopt);
}

TEST(ArenaLayoutTest, ASuperblockWithAnyFlippedBitIsRefused) {
  const layout::Superblock whole = superblock();
  std::array<std::byte, 4096> page{};
  for (size_t bit = 0; bit < sizeof whole * 8; ++bit) {
    std::memcpy(page.data(), &whole, sizeof whole);
    page.at(bit / 8) ^= std::byte{1} << (bit % 8);
    const auto read = layout::read_superblock(page, 1 << 20, "/a");
    ASSERT_FALSE(read) << "bit " << bit;
    EXPECT_TRUE(read.error().code == ErrorCode::kArenaCorrupt ||
                read.error().code == ErrorCode::kArenaVersion)
        << bit << read.error().to_string();
  }
}

TEST_F(ArenaTest, AChangedPayloadIsFoundAndNamesBothSums) {
  auto arena = Arena::open(options());
  ASSERT_TRUE(arena);
  const BlockInfo block = put(**arena, 1, 5, 5000);
  for (const size_t byte : {size_t{0}, size_t{4095}, size_t{4999}}) {
    (*(*arena)->payload(block.index))[byte] ^= std::byte{0x10};
    const auto read = (*arena)->read_verified(block.index, *block.header);
    ASSERT_FALSE(read) << byte;
    EXPECT_EQ(read.error().code, ErrorCode::kBlockInvalid);
    EXPECT_NE(read.error().message.find(path().string()), std::string::npos);
    EXPECT_NE(read.error().message.find("block 0"), std::string::npos) << read.error().message;
    (*(*arena)->payload(block.index))[byte] ^= std::byte{0x10};
  }
  (*(*arena)->payload(block.index))[5000] ^= std::byte{1};
  EXPECT_TRUE((*arena)->read_verified(block.index, *block.header)) << "beyond its length";
}

TEST_F(ArenaTest, ADamagedEntryIsToldFreesItsRoomAndHarmsNoOther) {
  BlockInfo kept;
  {
    auto arena = Arena::open(options());
    put(**arena, 1, 5, 5000);
    kept = put(**arena, 2, 5, 5000);
  }
  std::vector<char> file = read_file(path());
  file.at(superblock().table_offset + 9) ^= 1;  // in the allocation record of block 0
  write_file(path(), file);
  auto arena = Arena::open(options());
  ASSERT_TRUE(arena) << arena.error().to_string();
  ASSERT_EQ((*arena)->damage().size(), 1u);
  EXPECT_NE((*arena)->damage()[0].message.find("block 0"), std::string::npos);
  const auto blocks = (*arena)->scan();
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_EQ(blocks[0].header, kept.header);
  EXPECT_TRUE((*arena)->read_verified(kept.index, *kept.header));
  EXPECT_EQ((*arena)->allocate(5000, NodeId("node-0"), Epoch{1, 5})->index, BlockIndex(0));
}

TEST_F(ArenaTest, ACutOrOverwrittenFileIsRefused) {
  { ASSERT_TRUE(Arena::open(options())); }
  const std::vector<char> whole = read_file(path());
  for (const size_t bytes : {size_t{0}, size_t{100}, size_t{4096}, whole.size() - 1}) {
    write_file(path(), {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes)});
    const auto arena = Arena::open(options());
    ASSERT_FALSE(arena) << bytes;
    EXPECT_EQ(arena.error().code, ErrorCode::kArenaCorrupt) << arena.error().to_string();
    EXPECT_NE(arena.error().message.find(path().string()), std::string::npos);
  }
  write_file(path(), std::vector<char>(whole.size(), 'x'));
  EXPECT_EQ(Arena::open(options()).error().code, ErrorCode::kArenaCorrupt);
}

}  // namespace
}  // namespace holdfast::storage
