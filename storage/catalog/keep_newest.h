// Bounds what is only ever added to: of the numbered entries under a prefix the newest stay, older ones
// are removed a piece at a time. Nothing is scanned but what goes, and the start of what stays.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "storage/catalog/catalog.h"

namespace holdfast::storage {

class KeepNewest {
 public:
  // Up to this many numbers more than asked for are kept: looking for each alone would cost a scan.
  static constexpr uint64_t kEvery = 100;

  explicit KeepNewest(uint64_t kept) : kept_(kept) {}

  // Entry `number` of `prefix` was written; `key_of(n)` is the first key that number n may have.
  // The errors of the catalog; what was not removed is removed by a later call.
  Status wrote(Catalog& catalog, const std::string& prefix, uint64_t number,
               const std::function<std::string(uint64_t)>& key_of);

 private:
  uint64_t kept_;
  uint64_t next_at_ = 0;  // the number at which to look again
  std::string resume_;    // nothing lies before this key any more
};

}  // namespace holdfast::storage
