#include "storage/catalog/keep_newest.h"

#include <vector>

namespace holdfast::storage {
namespace {

constexpr size_t kPiece = 1'000;
constexpr int kPieces = 10;  // a call must not hold up its event loop; the next goes on

}  // namespace

Status KeepNewest::wrote(Catalog& catalog, const std::string& prefix, uint64_t number,
                         const std::function<std::string(uint64_t)>& key_of) {
  if (number < kept_ || number < next_at_) return {};
  const std::string keep_from = key_of(number - kept_ + 1);
  for (int piece = 0; piece < kPieces; ++piece) {
    ASSIGN_OR_RETURN(const auto oldest, catalog.scan(prefix, resume_, kPiece));
    std::vector<Catalog::Write> removals;
    for (const auto& [key, value] : oldest) {
      if (key >= keep_from) break;
      removals.push_back({key, std::nullopt});
    }
    if (!removals.empty()) {
      RETURN_IF_ERROR(catalog.write(removals, Durability::kBuffered));
      resume_ = removals.back().key + '\0';
    }
    if (removals.size() < kPiece) {
      next_at_ = number + kEvery;
      return {};
    }
  }
  return {};
}

}  // namespace holdfast::storage
