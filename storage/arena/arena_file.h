// The arena's file as a whole: made complete or not at all, one daemon at a time.
#pragma once

#include <memory>

#include "storage/arena/mapping.h"

namespace holdfast::storage {

// Creates or adopts, locks and maps; errors as Arena::open. A new file is written under
// `<path>.new` and gets its name last: a file with the name always has a whole superblock.
Result<std::unique_ptr<MappedFile>> open_arena_file(const ArenaOptions& options);

}  // namespace holdfast::storage
