// What folders need beside std::filesystem.
#pragma once

#include <filesystem>

#include "base/result.h"

namespace holdfast {

// A rename, or a new file, is durable once the folder that holds the name is. kFileIo, kDiskFull.
Status sync_folder(const std::filesystem::path& folder);

}  // namespace holdfast
