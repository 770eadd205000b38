#include "conf/files.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace holdfast::conf {
namespace {

// Streams keep no reason; the call below them left it.
tl::unexpected<Error> cannot(const char* what, const std::filesystem::path& file) {
  return fail(ErrorCode::kFileIo,
              fmt::format("cannot {} {}: {}", what, file.string(), std::strerror(errno)));
}

}  // namespace

Result<std::string> read_config_file(const std::filesystem::path& file) {
  std::error_code error;
  const bool exists = std::filesystem::exists(file, error);
  if (error)
    return fail(ErrorCode::kFileIo,
                fmt::format("cannot look for {}: {}", file.string(), error.message()));
  if (!exists)
    return fail(ErrorCode::kConfigMissing, fmt::format("there is no file {}", file.string()));
  if (std::filesystem::is_directory(file, error))
    return fail(ErrorCode::kFileIo, fmt::format("{} is a folder", file.string()));
  errno = 0;
  std::ifstream in(file);
  if (!in.is_open()) return cannot("open", file);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) return cannot("read", file);
  return text;
}

}  // namespace holdfast::conf
