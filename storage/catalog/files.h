// A catalog's folder: made complete or not at all, and looked over before RocksDB opens it, which
// would quietly begin anew where a file that names the others is gone. Only storage/catalog
// includes this.
#pragma once

#include <filesystem>
#include <functional>

#include "base/result.h"

namespace holdfast::storage {

// False: there is nothing yet. kCatalogCorrupt: some of its files are there, but not those without
// which nothing can be read (CURRENT, a manifest, a write-ahead log).
Result<bool> catalog_files_exist(const std::filesystem::path& directory);

// Lets `fill` make the files in `<directory>.new`, then gives them their name. kCatalogIo.
Status create_catalog_files(const std::filesystem::path& directory,
                            const std::function<Status(const std::filesystem::path&)>& fill);

}  // namespace holdfast::storage
