// Where a daemon keeps its AgentMemory over its own restarts. Buffered writes: they survive the
// process; a machine that restarts has lost its arena and its workers as well.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "daemon/node/job_agent.h"
#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

// Empty when nothing was saved; kBadMessage when the record cannot be read.
Result<AgentMemory> load_memory(storage::Catalog& catalog);
Status save_memory(storage::Catalog& catalog, const AgentMemory& memory);

// Saves what changed. A full disk never stops training: what could not be stored is kept here, the
// newest of it, and tried again until it is. A daemon that ends before finds an older memory and
// treats workers of a newer epoch as lost.
class MemoryKeeper {
 public:
  // `note` is told when storing fails and when it works again, once each.
  MemoryKeeper(storage::Catalog& catalog, LoopPort& loop,
               std::function<void(const std::string&)> note)
      : catalog_(catalog), loop_(loop), note_(std::move(note)) {}

  void save(const AgentMemory& memory);
  bool dirty() const { return unsaved_.has_value(); }

 private:
  void try_again();
  void stored();

  storage::Catalog& catalog_;
  LoopPort& loop_;
  const std::function<void(const std::string&)> note_;
  std::optional<AgentMemory> unsaved_;
  bool retry_is_set_ = false;
  int64_t retry_ms_ = 0;
};

}  // namespace holdfast::daemon
