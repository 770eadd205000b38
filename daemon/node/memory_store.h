// Where a daemon keeps its AgentMemory over its own restarts. Buffered writes: they survive the
// process; a machine that restarts has lost its arena and its workers as well.
#pragma once

#include "base/result.h"
#include "daemon/node/job_agent.h"
#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

// Empty when nothing was saved; kBadMessage when the record cannot be read.
Result<AgentMemory> load_memory(storage::Catalog& catalog);
Status save_memory(storage::Catalog& catalog, const AgentMemory& memory);

}  // namespace holdfast::daemon
