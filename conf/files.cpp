#include "conf/files.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>

namespace holdfast::conf {

Result<std::string> read_config_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error))
    return fail(ErrorCode::kConfigMissing, fmt::format("there is no file {}", file.string()));
  if (std::filesystem::is_directory(file, error))
    return fail(ErrorCode::kFileIo, fmt::format("{} is a folder", file.string()));
  std::ifstream in(file);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.good() && !in.eof())
    return fail(ErrorCode::kFileIo, fmt::format("cannot read {}", file.string()));
  if (!in.is_open()) return fail(ErrorCode::kFileIo, fmt::format("cannot open {}", file.string()));
  return text;
}

}  // namespace holdfast::conf
