#include "daemon/coordination/waiting_records.h"

namespace holdfast::daemon {
namespace {

constexpr size_t kPiece = 1'000;

}  // namespace

void WaitingRecords::add(const std::string& key, std::string value, bool must_wait) {
  if (const auto it = rows_.find(key); it != rows_.end()) {
    it->second = std::move(value);
  } else if (rows_.size() < limit_ || must_wait) {
    rows_.emplace(key, std::move(value));
  } else {
    ++dropped_;
  }
}

void WaitingRecords::forget_from(const std::string& prefix, const std::string& from) {
  auto it = rows_.lower_bound(from);
  while (it != rows_.end() && it->first.starts_with(prefix)) it = rows_.erase(it);
}

Status WaitingRecords::store_in(storage::Catalog& catalog) {
  while (!rows_.empty()) {
    std::vector<storage::Catalog::Write> piece;
    auto end = rows_.begin();
    for (; end != rows_.end() && piece.size() < kPiece; ++end)
      piece.push_back({end->first, end->second});
    RETURN_IF_ERROR(catalog.write(piece, storage::Durability::kBuffered));
    rows_.erase(rows_.begin(), end);
  }
  return {};
}

}  // namespace holdfast::daemon
