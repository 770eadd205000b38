// The catalog: a node's small durable records (jobs, views, ledger, events). A key-value store with
// ordered keys; RocksDB in production, an in-memory twin in tests, one conformance suite for both.
// Thread-safe. Errors: kCatalogIo, kDiskFull, kCatalogCorrupt.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast::storage {

enum class Durability : uint8_t {
  kSynced,   // on disk when the call returns: jobs, views, checkpoints
  kBuffered  // survives the process, may be lost with the machine: ledger, events
};

class Catalog {
 public:
  struct Write {
    std::string key;
    std::optional<std::string> value;  // nullopt removes the key
  };
  using Entry = std::pair<std::string, std::string>;

  virtual ~Catalog() = default;

  virtual Result<std::optional<std::string>> get(const std::string& key) = 0;
  // All or nothing.
  virtual Status write(const std::vector<Write>& writes, Durability durability) = 0;
  // Writes only if `key` holds `expected` (nullopt: is absent); kCatalogConflict otherwise. Synced.
  virtual Status compare_and_swap(const std::string& key,
                                  const std::optional<std::string>& expected,
                                  const std::string& value) = 0;
  // Entries whose key starts with `prefix`, in key order, from `from` on (empty: from the start),
  // at most `limit`; `newest_first` walks backwards from the end.
  virtual Result<std::vector<Entry>> scan(const std::string& prefix, const std::string& from,
                                          size_t limit, bool newest_first = false) = 0;
};

struct CatalogIdentity {
  std::string cluster;
  NodeId node;
};

// Opens or creates. The identity and a format version are stored inside and checked:
// kCatalogForeign, kCatalogVersion, kCatalogCorrupt (damage found by RocksDB), kDiskFull.
Result<std::unique_ptr<Catalog>> open_rocksdb_catalog(const std::filesystem::path& directory,
                                                      const CatalogIdentity& identity);
std::unique_ptr<Catalog> make_memory_catalog();

}  // namespace holdfast::storage
