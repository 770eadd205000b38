#include "daemon/node/node_records.h"

#include <algorithm>
#include <string>

#include "base/json.h"

namespace holdfast::daemon {
namespace {

constexpr const char* kSessionKey = "node/session";
constexpr const char* kArenaKey = "node/arena";

// 0 when there is none.
Result<uint64_t> number(storage::Catalog& catalog, const std::string& key) {
  ASSIGN_OR_RETURN(const auto text, catalog.get(key));
  if (!text) return uint64_t{0};
  return from_json_text<uint64_t>(*text, "catalog record " + key);
}

}  // namespace

Result<uint64_t> begin_session(storage::Catalog& catalog, int64_t wall_ms) {
  ASSIGN_OR_RETURN(const uint64_t last, number(catalog, kSessionKey));
  const uint64_t session = std::max(static_cast<uint64_t>(std::max<int64_t>(wall_ms, 1)), last + 1);
  RETURN_IF_ERROR(
      catalog.write({{kSessionKey, to_json_text(session)}}, storage::Durability::kSynced));
  return session;
}

Result<bool> arena_is_another(storage::Catalog& catalog, uint64_t arena_id) {
  ASSIGN_OR_RETURN(const uint64_t last, number(catalog, kArenaKey));
  return last != arena_id;
}

Status remember_arena(storage::Catalog& catalog, uint64_t arena_id) {
  return catalog.write({{kArenaKey, to_json_text(arena_id)}}, storage::Durability::kBuffered);
}

}  // namespace holdfast::daemon
