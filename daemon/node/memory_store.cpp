#include "daemon/node/memory_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "daemon/node/restore_check.h"

namespace holdfast::daemon {
namespace {

constexpr const char* kMemoryKey = "agent/memory";
constexpr int64_t kFirstRetryMs = 1'000;
constexpr int64_t kLastRetryMs = 30'000;  // doubled up to here

}  // namespace

Result<AgentMemory> load_memory(storage::Catalog& catalog) {
  ASSIGN_OR_RETURN(const auto text, catalog.get(kMemoryKey));
  if (!text) return AgentMemory{};
  ASSIGN_OR_RETURN(AgentMemory memory,
                   from_json_text<AgentMemory>(*text, "catalog record agent/memory"));
  if (!memory.job) return memory;
  const NodeJob job(*memory.job, memory.submitted_in);
  for (const CommandRestore& view : memory.views)
    if (const Status usable = check_restore(view, job.layout.shard_count()); !usable)
      return fail(with_context(usable.error(), "catalog record agent/memory"));
  return memory;
}

Status save_memory(storage::Catalog& catalog, const AgentMemory& memory) {
  return catalog.write({{kMemoryKey, to_json_text(memory)}}, storage::Durability::kBuffered);
}

void MemoryKeeper::save(const AgentMemory& memory) {
  const Status saved = save_memory(catalog_, memory);
  if (saved) {
    stored();
    return;
  }
  if (!unsaved_) {
    note_(
        fmt::format("what a restart of this daemon would need could not be stored, training goes "
                    "on: {}",
                    saved.error().to_string()));
    retry_ms_ = kFirstRetryMs;
  }
  unsaved_ = memory;
  try_again();
}

void MemoryKeeper::try_again() {
  if (std::exchange(retry_is_set_, true)) return;
  loop_.after_ms(retry_ms_, [this] {
    retry_is_set_ = false;
    if (!unsaved_) return;
    if (save_memory(catalog_, *unsaved_)) {
      stored();
    } else {
      retry_ms_ = std::min(retry_ms_ * 2, kLastRetryMs);
      try_again();
    }
  });
}

void MemoryKeeper::stored() {
  if (!unsaved_) return;
  unsaved_.reset();
  note_("what a restart of this daemon needs is stored again");
}

}  // namespace holdfast::daemon
