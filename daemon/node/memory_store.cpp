#include "daemon/node/memory_store.h"

#include "base/json.h"

namespace holdfast::daemon {
namespace {

constexpr const char* kMemoryKey = "agent/memory";

}  // namespace

Result<AgentMemory> load_memory(storage::Catalog& catalog) {
  ASSIGN_OR_RETURN(const auto text, catalog.get(kMemoryKey));
  if (!text) return AgentMemory{};
  return from_json_text<AgentMemory>(*text, "catalog record agent/memory");
}

Status save_memory(storage::Catalog& catalog, const AgentMemory& memory) {
  return catalog.write({{kMemoryKey, to_json_text(memory)}}, storage::Durability::kBuffered);
}

}  // namespace holdfast::daemon
