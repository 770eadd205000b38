// What the arena file looks like, byte for byte; docs/formats.md is the prose. Little endian.
//
//   [0, 4096)                 superblock: 512 bytes, the rest zero; written once, before the file
//                             gets its name
//   [table, data)             entries of 256 bytes: an allocation record, then a block header
//   [data, file end)          payloads, each at a multiple of 4096
//
// A record counts when its commit word, a checksum over the rest of it, is there and right. Commit
// words are stored last, with release ordering, and cleared first, so whoever dies between any two
// stores leaves a record that counts or one that does not. The stores themselves are values here
// (WordStore), so that a test can apply every prefix of them.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "storage/arena/arena.h"

namespace holdfast::storage::layout {

static_assert(std::endian::native == std::endian::little, "the arena file is little endian");

inline constexpr uint64_t kMagic = 0x31414e4552414648ULL;  // "HFARENA1"
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kBytesPerEntry = 32 * 1024;  // of the file
inline constexpr uint64_t kFewestEntries = 64;
inline constexpr uint32_t kNameBytes = 160;
inline constexpr uint32_t kWriterBytes = 80;

// The first 512 bytes keep magic, format_version and checksum where they are in every version.
struct Superblock {
  uint64_t magic = kMagic;
  uint32_t format_version = kFormatVersion;
  uint32_t entry_bytes = 256;
  uint64_t file_bytes = 0;
  uint64_t table_offset = kPage;
  uint64_t entry_count = 0;
  uint64_t data_offset = 0;
  uint32_t cluster_length = 0;
  uint32_t node_length = 0;
  std::array<char, kNameBytes> cluster{};
  std::array<char, kNameBytes> node{};
  uint64_t arena_id = 0;  // random, of this file; 0 in files of releases that did not number them
  std::array<uint64_t, 15> reserved{};
  uint64_t checksum = 0;  // of the 504 bytes before it
};
static_assert(sizeof(Superblock) == 512 && offsetof(Superblock, checksum) == 504);

// Who was granted which bytes.
struct AllocationRecord {
  uint64_t commit = 0;  // 0: the entry is free
  uint64_t offset = 0;
  uint64_t capacity = 0;
  uint64_t epoch = 0;       // Epoch::packed
  uint64_t generation = 0;  // of this entry: one more with every allocation
  uint32_t index = 0;
  uint32_t writer_length = 0;
  std::array<char, kWriterBytes> writer{};
};
static_assert(sizeof(AllocationRecord) == 128);

// What the block holds, once it does.
struct HeaderRecord {
  uint64_t commit = 0;  // 0: not published
  uint64_t job = 0;
  uint32_t group = 0;
  uint32_t slice = 0;
  uint64_t version = 0;
  uint64_t made = 0;  // Epoch::packed
  uint64_t length = 0;
  uint64_t payload_checksum = 0;
  uint64_t generation = 0;  // of the allocation it was written for
  uint32_t index = 0;
  uint32_t reserved = 0;
  std::array<uint64_t, 7> more{};
};
static_assert(sizeof(HeaderRecord) == 128);

inline constexpr size_t kEntryWords = 32;
inline constexpr size_t kHeaderWord = 16;  // where the header begins in an entry
using EntryWords = std::array<uint64_t, kEntryWords>;
static_assert(sizeof(EntryWords) == sizeof(AllocationRecord) + sizeof(HeaderRecord));

// ---- superblock
// ----------------------------------------------------------------------------------

// The geometry of a file of `file_bytes`: one entry per 32 KiB, 64 at least. kArenaTooSmall when
// not one page is left for payloads.
Result<Superblock> make_superblock(uint64_t file_bytes, const std::string& cluster,
                                   const NodeId& node, uint64_t arena_id = 0);
std::string cluster_of(const Superblock& superblock);
NodeId node_of(const Superblock& superblock);
// kArenaCorrupt or kArenaVersion, with the reason; `file` is how the arena is called in it.
Result<Superblock> read_superblock(std::span<const std::byte> bytes, uint64_t actual_file_bytes,
                                   const std::filesystem::path& file);

// ---- entries
// -------------------------------------------------------------------------------------

// One atomic store of a word of an entry; `release` for commit words.
struct WordStore {
  size_t word;
  uint64_t value;
  bool release;
};
using Stores = std::vector<WordStore>;

struct Grant {
  BlockIndex index;
  uint64_t offset = 0;
  uint64_t capacity = 0;
  NodeId writer;
  Epoch epoch;
  uint64_t generation = 0;
};

// In the order in which they must reach memory.
Stores stores_to_allocate(const Grant& grant);
Stores stores_to_publish(const Grant& grant, const BlockHeader& header);
Stores stores_to_free();

struct FreeEntry {
  uint64_t generation = 0;  // of the allocation before, 0 if none is readable
};
struct DamagedEntry {
  std::string why;
};
struct UsedEntry {
  Grant grant;
  std::optional<BlockHeader> header;
  std::string header_damage;  // why a header that is there does not count; empty otherwise
};
using Entry = std::variant<FreeEntry, UsedEntry, DamagedEntry>;

// `data_offset` and `file_bytes` bound the extents that are believed.
Entry read_entry(const EntryWords& words, BlockIndex index, const Superblock& superblock);

}  // namespace holdfast::storage::layout
