#include "base/folders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace holdfast {

Status sync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int failed = fd < 0 || ::fsync(fd) != 0 ? errno : 0;
  if (fd >= 0) ::close(fd);
  if (failed == 0) return {};
  return fail(failed == ENOSPC || failed == EDQUOT ? ErrorCode::kDiskFull : ErrorCode::kFileIo,
              fmt::format("cannot sync folder {}: {}", folder.string(), std::strerror(failed)));
}

}  // namespace holdfast
