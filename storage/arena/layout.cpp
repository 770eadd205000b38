#include "storage/arena/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/checksum.h"

namespace holdfast::storage::layout {
namespace {

constexpr size_t kGenerationWord = offsetof(AllocationRecord, generation) / 8;
constexpr size_t kRecordWords = 16;
using RecordWords = std::array<uint64_t, kRecordWords>;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

// The commit word of a record: a checksum of everything behind it, never 0.
uint64_t commit_of(const RecordWords& words) {
  const uint64_t sum = checksum64(std::as_bytes(std::span(words)).subspan(sizeof(uint64_t)));
  return sum == 0 ? 1 : sum;
}

template <size_t N>
void put_name(std::array<char, N>& field, uint32_t& length, const std::string& name) {
  length = static_cast<uint32_t>(name.size());
  std::copy(name.begin(), name.end(), field.begin());
}

uint64_t superblock_checksum(const Superblock& superblock) {
  return checksum64(std::as_bytes(std::span(&superblock, 1)).first(offsetof(Superblock, checksum)));
}

// The body first, its commit word last.
void append_record(Stores& stores, const RecordWords& words, size_t first_word) {
  for (size_t i = 1; i < words.size(); ++i) stores.push_back({first_word + i, words[i], false});
  stores.push_back({first_word, commit_of(words), true});
}

std::string geometry_fault(const Superblock& s) {
  if (s.entry_bytes != sizeof(EntryWords)) return fmt::format("entries of {} bytes", s.entry_bytes);
  if (s.cluster_length > kNameBytes || s.node_length > kNameBytes) return "names too long";
  const auto expected = make_superblock(s.file_bytes, cluster_of(s), node_of(s));
  if (!expected) return expected.error().message;
  if (s.table_offset != expected->table_offset || s.entry_count != expected->entry_count ||
      s.data_offset != expected->data_offset)
    return fmt::format("table at {}, {} entries, data at {} do not fit a file of {} bytes",
                       s.table_offset, s.entry_count, s.data_offset, s.file_bytes);
  return "";
}

std::string grant_fault(const AllocationRecord& record, BlockIndex index, const Superblock& s) {
  if (record.index != index.value) return fmt::format("it calls itself entry {}", record.index);
  if (record.writer_length > kWriterBytes) return "its writer's name is too long";
  if (record.offset % kPage != 0 || record.capacity % kPage != 0 || record.capacity == 0 ||
      record.offset < s.data_offset || record.offset > s.file_bytes ||
      record.capacity > s.file_bytes - record.offset)
    return fmt::format("its extent [{}, +{}) is outside the data area", record.offset,
                       record.capacity);
  return "";
}

std::string header_fault(const HeaderRecord& record, const Grant& grant) {
  if (record.index != grant.index.value) return fmt::format("it belongs to entry {}", record.index);
  if (record.generation != grant.generation)
    return fmt::format("it was written for grant {} of this entry, which is at {}",
                       record.generation, grant.generation);
  if (record.length > grant.capacity)
    return fmt::format("its length {} exceeds the block's {} bytes", record.length, grant.capacity);
  return "";
}

BlockHeader header_of(const HeaderRecord& record) {
  return {.job = record.job,
          .shard = {GroupIndex(record.group), SliceIndex(record.slice)},
          .state = {Version(record.version), Epoch::unpacked(record.made)},
          .length = record.length,
          .checksum = record.payload_checksum};
}

}  // namespace

Result<Superblock> make_superblock(uint64_t file_bytes, const std::string& cluster,
                                   const NodeId& node, uint64_t arena_id) {
  if (cluster.size() > kNameBytes || node.value.size() > kWriterBytes)
    return fail(ErrorCode::kConfigValue,
                fmt::format("cluster name '{}' may have {} characters, node name '{}' {}", cluster,
                            kNameBytes, node.value, kWriterBytes));
  Superblock s;
  s.file_bytes = file_bytes;
  s.arena_id = arena_id;
  s.entry_count = std::max(kFewestEntries, file_bytes / kBytesPerEntry);
  s.data_offset = round_up(s.table_offset + s.entry_count * s.entry_bytes, kPage);
  if (file_bytes < s.data_offset + kPage)
    return fail(ErrorCode::kArenaTooSmall,
                fmt::format("an arena of {} bytes has no room for a block; the least is {}",
                            file_bytes, s.data_offset + kPage));
  put_name(s.cluster, s.cluster_length, cluster);
  put_name(s.node, s.node_length, node.value);
  s.checksum = superblock_checksum(s);
  return s;
}

std::string cluster_of(const Superblock& s) {
  return std::string(s.cluster.data(), std::min(s.cluster_length, kNameBytes));
}
NodeId node_of(const Superblock& s) {
  return NodeId(std::string(s.node.data(), std::min(s.node_length, kNameBytes)));
}

Result<Superblock> read_superblock(std::span<const std::byte> bytes, uint64_t actual_file_bytes,
                                   const std::filesystem::path& file) {
  const auto corrupt = [&](const std::string& why) {
    return fail(ErrorCode::kArenaCorrupt, fmt::format("arena {}: {}", file.string(), why));
  };
  Superblock s;
  if (bytes.size() < sizeof(s))
    return corrupt(fmt::format("{} bytes are not even a superblock", bytes.size()));
  std::memcpy(&s, bytes.data(), sizeof(s));
  if (s.magic != kMagic)
    return corrupt(fmt::format("it begins with {:016x}, not with {:016x}", s.magic, kMagic));
  if (const uint64_t sum = superblock_checksum(s); sum != s.checksum)
    return corrupt(fmt::format("the superblock says its checksum is {:016x} but it is {:016x}",
                               s.checksum, sum));
  if (s.format_version != kFormatVersion)
    return fail(ErrorCode::kArenaVersion,
                fmt::format("arena {}: format {}, this release reads {}", file.string(),
                            s.format_version, kFormatVersion));
  if (s.file_bytes != actual_file_bytes)
    return corrupt(
        fmt::format("the file has {} bytes but was made with {}", actual_file_bytes, s.file_bytes));
  if (const std::string why = geometry_fault(s); !why.empty()) return corrupt(why);
  return s;
}

Stores stores_to_allocate(const Grant& grant) {
  AllocationRecord record;
  record.offset = grant.offset;
  record.capacity = grant.capacity;
  record.epoch = grant.epoch.packed();
  record.generation = grant.generation;
  record.index = grant.index.value;
  put_name(record.writer, record.writer_length, grant.writer.value);
  Stores stores = {{kHeaderWord, 0, true}};
  append_record(stores, std::bit_cast<RecordWords>(record), 0);
  return stores;
}

Stores stores_to_publish(const Grant& grant, const BlockHeader& header) {
  HeaderRecord record;
  record.job = header.job;
  record.group = header.shard.group.value;
  record.slice = header.shard.slice.value;
  record.version = header.state.version.value;
  record.made = header.state.made.packed();
  record.length = header.length;
  record.payload_checksum = header.checksum;
  record.generation = grant.generation;
  record.index = grant.index.value;
  Stores stores = {{kHeaderWord, 0, true}};
  append_record(stores, std::bit_cast<RecordWords>(record), kHeaderWord);
  return stores;
}

Stores stores_to_free() { return {{kHeaderWord, 0, true}, {0, 0, true}}; }

Entry read_entry(const EntryWords& words, BlockIndex index, const Superblock& superblock) {
  if (words[0] == 0) return FreeEntry{words[kGenerationWord]};
  RecordWords half;
  std::copy_n(words.begin(), kRecordWords, half.begin());
  const auto record = std::bit_cast<AllocationRecord>(half);
  if (commit_of(half) != record.commit) return DamagedEntry{"its allocation record is damaged"};
  if (std::string why = grant_fault(record, index, superblock); !why.empty())
    return DamagedEntry{std::move(why)};

  UsedEntry used;
  used.grant = {index,
                record.offset,
                record.capacity,
                NodeId(std::string(record.writer.data(), record.writer_length)),
                Epoch::unpacked(record.epoch),
                record.generation};
  std::copy_n(words.begin() + kHeaderWord, kRecordWords, half.begin());
  const auto header = std::bit_cast<HeaderRecord>(half);
  if (header.commit == 0) return used;
  used.header_damage = commit_of(half) != header.commit ? "its header is torn or damaged"
                                                        : header_fault(header, used.grant);
  if (used.header_damage.empty()) used.header = header_of(header);
  return used;
}

}  // namespace holdfast::storage::layout
