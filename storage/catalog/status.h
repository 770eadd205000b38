// RocksDB's statuses in our words. Only storage/catalog includes this.
#pragma once

#include <rocksdb/status.h>

#include <filesystem>

#include "base/result.h"

namespace holdfast::storage {

// `what`: "open", "write"; `directory` names the catalog.
Error catalog_error(const rocksdb::Status& status, const char* what,
                    const std::filesystem::path& directory);

}  // namespace holdfast::storage
