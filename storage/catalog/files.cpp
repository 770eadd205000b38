#include "storage/catalog/files.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "base/folders.h"

namespace holdfast::storage {
namespace {

namespace fs = std::filesystem;

tl::unexpected<Error> io_error(const std::error_code& error, const char* what,
                               const fs::path& path) {
  const bool full = error == std::errc::no_space_on_device;
  return fail(full ? ErrorCode::kDiskFull : ErrorCode::kCatalogIo,
              fmt::format("{} {}: {}", what, path.string(), error.message()));
}

}  // namespace

Result<bool> catalog_files_exist(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) {
    if (error) return io_error(error, "look for catalog", directory);
    return false;
  }
  bool any = false, current = false, manifest = false, log = false;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    any = true;
    current |= name == "CURRENT";
    manifest |= name.starts_with("MANIFEST-");
    log |= name.ends_with(".log");
  }
  if (error) return io_error(error, "list catalog", directory);
  if (!any) return false;
  const char* missing = !current    ? "the file CURRENT"
                        : !manifest ? "its manifest"
                        : !log      ? "its write-ahead log"
                                    : nullptr;
  if (missing != nullptr)
    return fail(ErrorCode::kCatalogCorrupt,
                fmt::format("catalog {}: {} is missing", directory.string(), missing));
  return true;
}

Status create_catalog_files(const fs::path& directory,
                            const std::function<Status(const fs::path&)>& fill) {
  const fs::path target = directory.has_filename() ? directory : directory.parent_path();
  const fs::path parent = fs::absolute(target).parent_path();
  fs::path unnamed = target;
  unnamed += ".new";
  std::error_code error;
  fs::remove_all(unnamed, error);  // of a creation that was cut off
  if (error) return io_error(error, "remove", unnamed);
  fs::create_directories(parent, error);
  if (error) return io_error(error, "create", parent);
  if (Status filled = fill(unnamed); !filled) {
    fs::remove_all(unnamed, error);
    return filled;
  }
  fs::rename(unnamed, target, error);
  if (error) return io_error(error, "name catalog", target);
  if (Status synced = sync_folder(parent); !synced)
    return fail(synced.error().code == ErrorCode::kDiskFull ? ErrorCode::kDiskFull
                                                            : ErrorCode::kCatalogIo,
                std::move(synced).error().message);
  return {};
}

}  // namespace holdfast::storage
