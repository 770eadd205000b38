// Reading a whole configuration file.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace holdfast::conf {

// kConfigMissing when there is no such file, kFileIo with the system's reason when it cannot be
// read.
Result<std::string> read_config_file(const std::filesystem::path& file);

}  // namespace holdfast::conf
