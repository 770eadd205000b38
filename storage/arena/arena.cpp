#include "storage/arena/arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/extents.h"
#include "base/mutex.h"
#include "storage/arena/arena_file.h"

namespace holdfast::storage {
namespace {

uint64_t round_up_to_page(uint64_t bytes) {
  return (bytes + layout::kPage - 1) / layout::kPage * layout::kPage;
}

class MappedArena final : public Arena {
 public:
  explicit MappedArena(std::unique_ptr<MappedFile> file)
      : file_(std::move(file)),
        extents_(file_->superblock().data_offset,
                 file_->superblock().file_bytes / layout::kPage * layout::kPage),
        entries_(0, file_->superblock().entry_count) {}

  // Reads every entry, once. What counts for nothing is cleared, so that its room can be granted.
  Status rebuild(const std::function<bool(const BlockInfo&)>& writer_may_live);

  std::span<std::byte> bytes() override { return file_->bytes(); }
  Result<BlockInfo> info(BlockIndex block) override { return file_->info(block); }
  Result<std::span<std::byte>> payload(BlockIndex block) override { return file_->payload(block); }
  Status publish(BlockIndex block, Epoch granted_in, const BlockHeader& header) override {
    return file_->publish(block, granted_in, header);
  }
  Status publish_verified(BlockIndex block, Epoch granted_in, const BlockHeader& header) override;
  Result<std::span<const std::byte>> read_verified(BlockIndex block,
                                                   const BlockHeader& expected) override;

  Result<BlockInfo> allocate(uint64_t bytes, const NodeId& writer, Epoch epoch) override;
  Status free(const BlockInfo& block) override;
  std::vector<BlockInfo> scan() override;
  ArenaUsage usage() override;
  bool was_verified(const BlockInfo& block) override;
  uint64_t id() const override { return file_->superblock().arena_id; }
  std::vector<Error> damage() const override { return damage_; }

 private:
  struct Extent {
    uint64_t offset = 0;
    uint64_t capacity = 0;
    uint64_t generation = 0;
    bool verified = false;
  };

  Status adopt_entry(const layout::UsedEntry& entry,
                     const std::function<bool(const BlockInfo&)>& writer_may_live)
      REQUIRES(mutex_);
  void note_damage(BlockIndex block, const std::string& why) {
    damage_.push_back({ErrorCode::kBlockInvalid, fmt::format("{}: {}", file_->name(block), why)});
  }

  const std::unique_ptr<MappedFile> file_;
  std::vector<Error> damage_;  // written by rebuild only
  Mutex mutex_;
  FreeExtents extents_ GUARDED_BY(mutex_);
  FreeExtents entries_ GUARDED_BY(mutex_);  // of entry numbers
  std::map<uint32_t, Extent> used_ GUARDED_BY(mutex_);
};

Status MappedArena::rebuild(const std::function<bool(const BlockInfo&)>& writer_may_live) {
  const MutexLock lock(mutex_);
  for (uint32_t i = 0; i < file_->superblock().entry_count; ++i) {
    const layout::Entry entry = file_->entry(BlockIndex(i));
    if (const auto* damaged = std::get_if<layout::DamagedEntry>(&entry)) {
      note_damage(BlockIndex(i), damaged->why);
      file_->apply(BlockIndex(i), layout::stores_to_free());
    } else if (const auto* used = std::get_if<layout::UsedEntry>(&entry)) {
      RETURN_IF_ERROR(adopt_entry(*used, writer_may_live));
    }
  }
  return {};
}

Status MappedArena::adopt_entry(const layout::UsedEntry& entry,
                                const std::function<bool(const BlockInfo&)>& writer_may_live) {
  const BlockIndex block = entry.grant.index;
  if (!entry.header_damage.empty()) note_damage(block, entry.header_damage);
  if (!entry.header && !(writer_may_live && writer_may_live(to_info(entry)))) {
    file_->apply(block, layout::stores_to_free());
    return {};
  }
  if (!extents_.take_at(entry.grant.offset, entry.grant.capacity))
    return fail(ErrorCode::kArenaCorrupt,
                fmt::format("{}: its extent [{}, +{}) overlaps another block's", file_->name(block),
                            entry.grant.offset, entry.grant.capacity));
  entries_.take_at(block.value, 1);
  used_[block.value] = {entry.grant.offset, entry.grant.capacity, entry.grant.generation};
  return {};
}

Result<BlockInfo> MappedArena::allocate(uint64_t bytes, const NodeId& writer, Epoch epoch) {
  if (writer.value.size() > layout::kWriterBytes)
    return fail(ErrorCode::kConfigValue, fmt::format("node name '{}' has more than {} characters",
                                                     writer.value, layout::kWriterBytes));
  const MutexLock lock(mutex_);
  const auto full = [&](const std::string& why) REQUIRES(mutex_) {
    return fail(
        ErrorCode::kArenaFull,
        fmt::format("arena {}: {}; {} bytes wanted, {} free, {} in one piece",
                    file_->path().string(), why, bytes, extents_.free_bytes(), extents_.largest()));
  };
  const uint64_t capacity = bytes > file_->superblock().file_bytes
                                ? bytes
                                : std::max(layout::kPage, round_up_to_page(bytes));
  const std::optional<uint64_t> index = entries_.take(1);
  if (!index) return full(fmt::format("all {} entries are used", file_->superblock().entry_count));
  const std::optional<uint64_t> offset = extents_.take(capacity);
  if (!offset) {
    entries_.give_back(*index, 1);
    return full("no free extent is large enough");
  }
  const BlockIndex block(static_cast<uint32_t>(*index));
  const layout::Entry before = file_->entry(block);
  const auto* unused = std::get_if<layout::FreeEntry>(&before);
  layout::UsedEntry entry;
  entry.grant = {block, *offset, capacity, writer, epoch, unused ? unused->generation + 1 : 1};
  file_->apply(block, layout::stores_to_allocate(entry.grant));
  used_[block.value] = {*offset, capacity, entry.grant.generation};
  return to_info(entry);
}

Status MappedArena::publish_verified(BlockIndex block, Epoch granted_in,
                                     const BlockHeader& header) {
  RETURN_IF_ERROR(file_->publish(block, granted_in, header));
  const MutexLock lock(mutex_);
  if (const auto found = used_.find(block.value); found != used_.end())
    found->second.verified = true;
  return {};
}

Result<std::span<const std::byte>> MappedArena::read_verified(BlockIndex block,
                                                              const BlockHeader& expected) {
  const auto before = file_->info(block);
  auto payload = file_->read_verified(block, expected);
  const MutexLock lock(mutex_);
  const auto found = used_.find(block.value);
  // Freed and granted anew while it was read: nothing is known of the new one.
  if (before && found != used_.end() && found->second.generation == before->generation)
    found->second.verified = payload.has_value();
  return payload;
}

bool MappedArena::was_verified(const BlockInfo& block) {
  const MutexLock lock(mutex_);
  const auto found = used_.find(block.index.value);
  return found != used_.end() && found->second.generation == block.generation &&
         found->second.verified;
}

Status MappedArena::free(const BlockInfo& block) {
  const BlockIndex index = block.index;
  const MutexLock lock(mutex_);
  const auto found = used_.find(index.value);
  if (found == used_.end())
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("{}: it is not allocated", file_->name(index)));
  if (found->second.generation != block.generation)
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("{}: grant {} of it is over, it is at {}", file_->name(index),
                            block.generation, found->second.generation));
  file_->apply(index, layout::stores_to_free());
  extents_.give_back(found->second.offset, found->second.capacity);
  entries_.give_back(index.value, 1);
  used_.erase(found);
  return {};
}

std::vector<BlockInfo> MappedArena::scan() {
  const MutexLock lock(mutex_);
  std::vector<BlockInfo> blocks;
  blocks.reserve(used_.size());
  for (const auto& [index, extent] : used_) {
    const layout::Entry entry = file_->entry(BlockIndex(index));
    if (const auto* used = std::get_if<layout::UsedEntry>(&entry)) {
      blocks.push_back(to_info(*used));
    } else {  // damaged since it was granted: it holds nothing, but its bytes are still taken
      blocks.push_back({.index = BlockIndex(index),
                        .offset = extent.offset,
                        .capacity = extent.capacity,
                        .writer = {},
                        .granted_in = {},
                        .generation = extent.generation,
                        .header = std::nullopt});
    }
  }
  return blocks;
}

ArenaUsage MappedArena::usage() {
  const MutexLock lock(mutex_);
  ArenaUsage usage{.size_bytes = file_->superblock().file_bytes,
                   .used_bytes = 0,
                   .blocks = static_cast<uint32_t>(used_.size())};
  for (const auto& [index, extent] : used_) {
    usage.used_bytes += extent.capacity;
    const layout::Entry entry = file_->entry(BlockIndex(index));
    const auto* used = std::get_if<layout::UsedEntry>(&entry);
    if (used != nullptr && used->header) continue;
    usage.granted_bytes += extent.capacity;
    ++usage.granted_blocks;
  }
  return usage;
}

}  // namespace

Result<std::unique_ptr<Arena>> Arena::open(
    const ArenaOptions& options, const std::function<bool(const BlockInfo&)>& writer_may_live) {
  ASSIGN_OR_RETURN(auto file, open_arena_file(options));
  auto arena = std::make_unique<MappedArena>(std::move(file));
  RETURN_IF_ERROR(arena->rebuild(writer_may_live));
  return std::unique_ptr<Arena>(std::move(arena));
}

}  // namespace holdfast::storage
