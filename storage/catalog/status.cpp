#include "storage/catalog/status.h"

#include <fmt/format.h>

namespace holdfast::storage {
namespace {

ErrorCode code_of(const rocksdb::Status& status) {
  const std::string text = status.ToString();
  if (status.IsNoSpace() || text.find("No space left") != std::string::npos)
    return ErrorCode::kDiskFull;
  // Somebody holds RocksDB's LOCK file.
  if (status.IsIOError() && text.find("lock") != std::string::npos &&
      text.find("LOCK") != std::string::npos)
    return ErrorCode::kAddressInUse;
  // A file that another file names is gone.
  if (status.IsCorruption() || status.IsPathNotFound()) return ErrorCode::kCatalogCorrupt;
  return ErrorCode::kCatalogIo;
}

}  // namespace

Error catalog_error(const rocksdb::Status& status, const char* what,
                    const std::filesystem::path& directory) {
  const ErrorCode code = code_of(status);
  if (code == ErrorCode::kAddressInUse)
    return {code, fmt::format("catalog {} is open in another holdfastd", directory.string())};
  return {code, fmt::format("{} catalog {}: {}", what, directory.string(), status.ToString())};
}

}  // namespace holdfast::storage
