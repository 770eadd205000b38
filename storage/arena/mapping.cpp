#include "storage/arena/mapping.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/checksum.h"

namespace holdfast::storage {
namespace {

std::string describe(const BlockHeader& header) {
  return fmt::format("shard {} at {} of job {:016x}", to_string(header.shard),
                     to_string(header.state), header.job);
}

std::string mismatch(const BlockHeader& found, const BlockHeader& expected) {
  if (found.job != expected.job || found.shard != expected.shard || found.state != expected.state)
    return fmt::format("it holds {}, wanted {}", describe(found), describe(expected));
  if (expected.checksum != 0 &&
      (found.checksum != expected.checksum || found.length != expected.length))
    return fmt::format("{}: its header says {} bytes with checksum {:016x}, wanted {} with {:016x}",
                       describe(found), found.length, found.checksum, expected.length,
                       expected.checksum);
  return "";
}

class MappingOnly final : public ArenaMapping {
 public:
  explicit MappingOnly(std::unique_ptr<MappedFile> file) : file_(std::move(file)) {}

  std::span<std::byte> bytes() override { return file_->bytes(); }
  Result<BlockInfo> info(BlockIndex block) override { return file_->info(block); }
  Result<std::span<std::byte>> payload(BlockIndex block) override { return file_->payload(block); }
  Status publish(BlockIndex block, Epoch granted_in, const BlockHeader& header) override {
    return file_->publish(block, granted_in, header);
  }
  Result<std::span<const std::byte>> read_verified(BlockIndex block,
                                                   const BlockHeader& expected) override {
    return file_->read_verified(block, expected);
  }

 private:
  std::unique_ptr<MappedFile> file_;
};

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

tl::unexpected<Error> file_error(int error_number, std::string_view what,
                                 const std::filesystem::path& path) {
  return fail(
      error_number == ENOSPC ? ErrorCode::kDiskFull : ErrorCode::kFileIo,
      fmt::format("{} {}: {}", what, path.string(), std::generic_category().message(error_number)));
}

Result<uint64_t> regular_file_bytes(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return file_error(errno, "stat arena", path);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorCode::kFileIo, fmt::format("arena {} is not a regular file", path.string()));
  return static_cast<uint64_t>(status.st_size);
}

Result<std::unique_ptr<MappedFile>> MappedFile::map(FileDescriptor file,
                                                    const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const uint64_t file_bytes, regular_file_bytes(file, path));
  // Mapping less than a superblock could fault on reading it.
  if (file_bytes < sizeof(layout::Superblock))
    return fail(
        ErrorCode::kArenaCorrupt,
        fmt::format("arena {}: {} bytes are not even a superblock", path.string(), file_bytes));
  void* address = ::mmap(nullptr, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) return file_error(errno, "map arena", path);
  std::unique_ptr<MappedFile> mapped(new MappedFile(
      std::move(file), path, {static_cast<std::byte*>(address), static_cast<size_t>(file_bytes)}));
  ASSIGN_OR_RETURN(mapped->superblock_, layout::read_superblock(mapped->bytes_, file_bytes, path));
  return mapped;
}

MappedFile::~MappedFile() { ::munmap(bytes_.data(), bytes_.size()); }

std::string MappedFile::name(BlockIndex block) const {
  return fmt::format("arena {}, block {}", path_.string(), block.value);
}

uint64_t* MappedFile::words(BlockIndex block) const {
  std::byte* entry =
      bytes_.data() + superblock_.table_offset + block.value * sizeof(layout::EntryWords);
  return reinterpret_cast<uint64_t*>(entry);
}

layout::Entry MappedFile::entry(BlockIndex block) const {
  uint64_t* from = words(block);
  layout::EntryWords copy;
  // Commit words first: what was stored before them is then visible.
  for (const size_t commit : {size_t{0}, layout::kHeaderWord})
    copy[commit] = std::atomic_ref(from[commit]).load(std::memory_order_acquire);
  for (size_t i = 0; i < copy.size(); ++i) {
    if (i != 0 && i != layout::kHeaderWord)
      copy[i] = std::atomic_ref(from[i]).load(std::memory_order_relaxed);
  }
  return layout::read_entry(copy, block, superblock_);
}

void MappedFile::apply(BlockIndex block, const layout::Stores& stores) {
  uint64_t* to = words(block);
  for (const layout::WordStore& store : stores) {
    std::atomic_ref(to[store.word])
        .store(store.value, store.release ? std::memory_order_release : std::memory_order_relaxed);
  }
}

Result<layout::UsedEntry> MappedFile::used(BlockIndex block) const {
  if (block.value >= superblock_.entry_count)
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("{}: the arena has {} entries", name(block), superblock_.entry_count));
  layout::Entry found = entry(block);
  if (const auto* damaged = std::get_if<layout::DamagedEntry>(&found))
    return fail(ErrorCode::kBlockInvalid, fmt::format("{}: {}", name(block), damaged->why));
  if (std::holds_alternative<layout::FreeEntry>(found))
    return fail(ErrorCode::kBlockInvalid, fmt::format("{}: it is not allocated", name(block)));
  return std::get<layout::UsedEntry>(std::move(found));
}

Result<BlockInfo> MappedFile::info(BlockIndex block) const {
  ASSIGN_OR_RETURN(const layout::UsedEntry entry, used(block));
  return to_info(entry);
}

Result<std::span<std::byte>> MappedFile::payload(BlockIndex block) {
  ASSIGN_OR_RETURN(const layout::UsedEntry entry, used(block));
  return bytes_.subspan(entry.grant.offset, entry.grant.capacity);
}

Status MappedFile::publish(BlockIndex block, Epoch granted_in, const BlockHeader& header) {
  ASSIGN_OR_RETURN(const layout::UsedEntry entry, used(block));
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("{}: cannot publish {}: {}", name(block), describe(header), why));
  };
  if (entry.grant.epoch != granted_in)
    return refuse(fmt::format("granted in epoch {}, not in {}", to_string(entry.grant.epoch),
                              to_string(granted_in)));
  if (header.length > entry.grant.capacity)
    return refuse(fmt::format("{} bytes do not fit into {}", header.length, entry.grant.capacity));
  if (entry.header == header) return {};  // asked twice
  if (entry.header) return refuse(fmt::format("it holds {} already", describe(*entry.header)));
  apply(block, layout::stores_to_publish(entry.grant, header));
  return {};
}

Result<std::span<const std::byte>> MappedFile::read_verified(BlockIndex block,
                                                             const BlockHeader& expected) {
  ASSIGN_OR_RETURN(const layout::UsedEntry entry, used(block));
  const auto invalid = [&](const std::string& why) {
    return fail(ErrorCode::kBlockInvalid, fmt::format("{}: {}", name(block), why));
  };
  if (!entry.header_damage.empty()) return invalid(entry.header_damage);
  if (!entry.header) return invalid("it is not published");
  if (const std::string why = mismatch(*entry.header, expected); !why.empty()) return invalid(why);
  const std::span<const std::byte> payload =
      bytes_.subspan(entry.grant.offset, entry.header->length);
  if (const uint64_t sum = checksum64(payload); sum != entry.header->checksum)
    return invalid(
        fmt::format("{}: the checksum taken at capture is {:016x}, its {} bytes have "
                    "{:016x}",
                    describe(*entry.header), entry.header->checksum, payload.size(), sum));
  return payload;
}

BlockInfo to_info(const layout::UsedEntry& entry) {
  return {.index = entry.grant.index,
          .offset = entry.grant.offset,
          .capacity = entry.grant.capacity,
          .writer = entry.grant.writer,
          .granted_in = entry.grant.epoch,
          .generation = entry.grant.generation,
          .header = entry.header};
}

Result<std::unique_ptr<ArenaMapping>> ArenaMapping::map(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (file.get() < 0) return file_error(errno, "open arena", path);
  ASSIGN_OR_RETURN(auto mapped, MappedFile::map(std::move(file), path));
  return std::unique_ptr<ArenaMapping>(new MappingOnly(std::move(mapped)));
}

}  // namespace holdfast::storage
