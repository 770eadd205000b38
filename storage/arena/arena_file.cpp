#include "storage/arena/arena_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <random>
#include <system_error>

namespace holdfast::storage {
namespace {

namespace fs = std::filesystem;

constexpr int kAttempts = 3;  // another daemon may win the race to create; then its file is adopted

Status lock(const FileDescriptor& file, const fs::path& path) {
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return {};
  if (errno == EWOULDBLOCK)
    return fail(ErrorCode::kAddressInUse,
                fmt::format("arena {} is open in another holdfastd", path.string()));
  return file_error(errno, "lock arena", path);
}

// Reserves every page, so that no later store can fault on a full tmpfs.
Status reserve(const FileDescriptor& file, uint64_t bytes, const fs::path& path) {
  int error = EINTR;
  while (error == EINTR) error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
  if (error == 0) return {};
  return file_error(error, fmt::format("reserve {} bytes for arena", bytes), path);
}

Status write_superblock(const FileDescriptor& file, const layout::Superblock& superblock,
                        const fs::path& path) {
  const ssize_t written = ::pwrite(file.get(), &superblock, sizeof(superblock), 0);
  if (written == static_cast<ssize_t>(sizeof(superblock))) return {};
  return file_error(written < 0 ? errno : EIO, "write superblock of arena", path);
}

// True: the name was free. False: somebody else's file has it.
Result<bool> give_name(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno == EEXIST) return false;
  return file_error(errno, "name arena", to);
}

uint64_t random_id() {
  std::random_device random;
  const uint64_t id = (uint64_t{random()} << 32) | random();
  return id == 0 ? 1 : id;
}

Result<bool> build(const FileDescriptor& file, const ArenaOptions& options,
                   const fs::path& unnamed) {
  RETURN_IF_ERROR(lock(file, unnamed));
  ASSIGN_OR_RETURN(
      const auto superblock,
      layout::make_superblock(options.size_bytes, options.cluster, options.node, random_id()));
  if (::ftruncate(file.get(), 0) != 0) return file_error(errno, "empty", unnamed);
  RETURN_IF_ERROR(reserve(file, options.size_bytes, options.path));
  RETURN_IF_ERROR(write_superblock(file, superblock, options.path));
  return give_name(unnamed, options.path);
}

// nullopt: somebody else was first.
Result<std::optional<FileDescriptor>> create(const ArenaOptions& options) {
  std::error_code ignored;  // a folder that cannot be made shows in open
  fs::create_directories(options.path.parent_path(), ignored);
  fs::path unnamed = options.path;
  unnamed += ".new";
  FileDescriptor file(::open(unnamed.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0) return file_error(errno, "create arena", unnamed);
  Result<bool> named = build(file, options, unnamed);
  if (named && *named) return std::optional<FileDescriptor>(std::move(file));
  // Not somebody else's half-made file: that one is locked, and theirs to name or remove.
  if (named || named.error().code != ErrorCode::kAddressInUse) ::unlink(unnamed.c_str());
  if (!named) return fail(std::move(named).error());
  return std::optional<FileDescriptor>();
}

Result<std::unique_ptr<MappedFile>> adopt(FileDescriptor file, const ArenaOptions& options) {
  ASSIGN_OR_RETURN(const uint64_t bytes, regular_file_bytes(file, options.path));
  RETURN_IF_ERROR(lock(file, options.path));
  // A copied file may have holes, which would be filled when tmpfs has no page left.
  if (bytes > 0) RETURN_IF_ERROR(reserve(file, bytes, options.path));
  ASSIGN_OR_RETURN(auto mapped, MappedFile::map(std::move(file), options.path));
  const layout::Superblock& superblock = mapped->superblock();
  const std::string cluster = layout::cluster_of(superblock);
  const NodeId node = layout::node_of(superblock);
  if (cluster != options.cluster || node != options.node)
    return fail(ErrorCode::kArenaForeign,
                fmt::format("arena {} belongs to node '{}' of cluster '{}', this is node '{}' of "
                            "cluster '{}'",
                            options.path.string(), node.value, cluster, options.node.value,
                            options.cluster));
  if (bytes < options.size_bytes)
    return fail(ErrorCode::kArenaTooSmall,
                fmt::format("arena {} was made with {} bytes, {} are configured: move the file "
                            "away to get a larger one (its shards come back from replicas)",
                            options.path.string(), bytes, options.size_bytes));
  return mapped;
}

}  // namespace

Result<std::unique_ptr<MappedFile>> open_arena_file(const ArenaOptions& options) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    FileDescriptor file(::open(options.path.c_str(), O_RDWR | O_CLOEXEC));
    if (file.get() >= 0) return adopt(std::move(file), options);
    if (errno != ENOENT) return file_error(errno, "open arena", options.path);
    ASSIGN_OR_RETURN(std::optional<FileDescriptor> created, create(options));
    if (created) return MappedFile::map(std::move(*created), options.path);
  }
  return fail(ErrorCode::kFileIo, fmt::format("arena {} comes and goes", options.path.string()));
}

}  // namespace holdfast::storage
