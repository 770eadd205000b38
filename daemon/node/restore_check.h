// Whether a restore command, from the coordinator or read from disk, can be carried out as it stands:
// everything that indexes something is in its range. Pure.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

// kBadMessage, naming what is out of range. `shard_count` is that of the job's layout.
Status check_restore(const CommandRestore& command, uint32_t shard_count);

}  // namespace holdfast::daemon
