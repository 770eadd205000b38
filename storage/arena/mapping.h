// A mapped arena file: what ArenaMapping and Arena share. Only storage/arena includes this.
#pragma once

#include <filesystem>
#include <span>

#include "base/result.h"
#include "storage/arena/layout.h"

namespace holdfast::storage {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// kFileIo: `what` ("open", "map") failed on `path`, and errno's reason; kDiskFull for ENOSPC.
tl::unexpected<Error> file_error(int error_number, std::string_view what,
                                 const std::filesystem::path& path);

// Size in bytes; kFileIo when it is not a regular file.
Result<uint64_t> regular_file_bytes(const FileDescriptor& file, const std::filesystem::path& path);

// The whole file, shared, and what may be done with single blocks. Thread-safe, and safe beside
// other processes that map the same file: entries are read and written one atomic word at a time.
class MappedFile {
 public:
  // Maps and checks the superblock; the mapping keeps `file` open, and with it a lock it holds.
  static Result<std::unique_ptr<MappedFile>> map(FileDescriptor file,
                                                 const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const layout::Superblock& superblock() const { return superblock_; }
  std::span<std::byte> bytes() { return bytes_; }

  layout::Entry entry(BlockIndex block) const;
  // Stores in order; the caller is the only writer of this entry.
  void apply(BlockIndex block, const layout::Stores& stores);

  Result<BlockInfo> info(BlockIndex block) const;
  Result<std::span<std::byte>> payload(BlockIndex block);
  Status publish(BlockIndex block, Epoch granted_in, const BlockHeader& header);
  Result<std::span<const std::byte>> read_verified(BlockIndex block, const BlockHeader& expected);

  // "arena /dev/shm/a, block 7": how errors call a block.
  std::string name(BlockIndex block) const;

 private:
  MappedFile(FileDescriptor file, std::filesystem::path path, std::span<std::byte> bytes)
      : file_(std::move(file)), path_(std::move(path)), bytes_(bytes) {}
  uint64_t* words(BlockIndex block) const;
  Result<layout::UsedEntry> used(BlockIndex block) const;

  FileDescriptor file_;
  std::filesystem::path path_;
  std::span<std::byte> bytes_;
  layout::Superblock superblock_;
};

BlockInfo to_info(const layout::UsedEntry& entry);

}  // namespace holdfast::storage
