// A catalog that refuses writes: all of them while `full`, or large ones.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/catalog/catalog.h"

namespace holdfast::storage {

struct FullDisk final : Catalog {
  Result<std::optional<std::string>> get(const std::string& key) override {
    return inner->get(key);
  }
  Status write(const std::vector<Write>& writes, Durability durability) override {
    ++tries;
    if (full) return fail(ErrorCode::kDiskFull, "no space left");
    // What a nearly full disk does: the small write passes.
    if (writes.size() > most_writes) return fail(ErrorCode::kDiskFull, "no space left");
    return inner->write(writes, durability);
  }
  Status compare_and_swap(const std::string& key, const std::optional<std::string>& expected,
                          const std::string& value) override {
    if (full) return fail(ErrorCode::kDiskFull, "no space left");
    return inner->compare_and_swap(key, expected, value);
  }
  Result<std::vector<Entry>> scan(const std::string& prefix, const std::string& from, size_t limit,
                                  bool newest_first) override {
    ++scans;
    return inner->scan(prefix, from, limit, newest_first);
  }
  std::unique_ptr<Catalog> inner = make_memory_catalog();
  bool full = false;
  size_t most_writes = SIZE_MAX;  // in one batch
  int tries = 0;
  int scans = 0;
};

}  // namespace holdfast::storage
