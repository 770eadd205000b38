// Records that the catalog refused and that training does not wait for (events, sealed ledger rows, a
// safe version that moved): kept here, the newest value of each key, until they can be stored.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

class WaitingRecords {
 public:
  explicit WaitingRecords(size_t limit) : limit_(limit) {}

  // A key that waits takes the new value. A new key beyond the limit is dropped and counted, unless it
  // `must_wait`: of those the caller has few.
  void add(const std::string& key, std::string value, bool must_wait);
  void forget(const std::string& key) { rows_.erase(key); }
  void forget_from(const std::string& prefix, const std::string& from);

  // Writes in pieces, so that a little room lets a little through.
  Status store_in(storage::Catalog& catalog);

  bool empty() const { return rows_.empty(); }
  size_t size() const { return rows_.size(); }
  uint64_t dropped() const { return dropped_; }
  const std::map<std::string, std::string>& rows() const { return rows_; }

 private:
  size_t limit_;
  std::map<std::string, std::string> rows_;
  uint64_t dropped_ = 0;
};

}  // namespace holdfast::daemon
