#include "storage/catalog/keys.h"

#include <fmt/format.h>

namespace holdfast::storage {

std::string prefix_end(const std::string& prefix) {
  std::string end = prefix;
  while (!end.empty() && end.back() == '\xff') end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return end;
}

Error swap_conflict(const std::string& key) {
  return {ErrorCode::kCatalogConflict,
          fmt::format("key '{}' does not hold what was expected any more", key)};
}

}  // namespace holdfast::storage
