// What a daemon must know of the processes before it on its node; kept in the node's catalog.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

// Numbers this process: the wall clock's milliseconds, and more than any process before it had even
// when the clock was set back. Stored (synced) before it is returned.
Result<uint64_t> begin_session(storage::Catalog& catalog, int64_t wall_ms);

// True if the arena is not the file that the process before this one had: workers that outlived it
// have mapped the other one.
Result<bool> arena_is_another(storage::Catalog& catalog, uint64_t arena_id);
Status remember_arena(storage::Catalog& catalog, uint64_t arena_id);

}  // namespace holdfast::daemon
