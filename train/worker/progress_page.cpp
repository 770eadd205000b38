#include "train/worker/progress_page.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace holdfast::train {
namespace {

tl::unexpected<Error> io_failed(const std::filesystem::path& path, const char* what) {
  return fail(ErrorCode::kFileIo,
              fmt::format("progress page {}: {}: {}", path.string(), what, std::strerror(errno)));
}

struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

Result<std::unique_ptr<ProgressPage>> ProgressPage::open(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return io_failed(path, "cannot open");
  // Growing to the size it has is harmless, so both ends may do it.
  if (::ftruncate(fd, sizeof(ProgressRecord)) != 0) {
    auto failed = io_failed(path, "cannot size");
    ::close(fd);
    return failed;
  }
  void* at = ::mmap(nullptr, sizeof(ProgressRecord), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    auto failed = io_failed(path, "cannot map");
    ::close(fd);
    return failed;
  }
  return std::unique_ptr<ProgressPage>(
      new ProgressPage(path, fd, static_cast<ProgressRecord*>(at)));
}

ProgressPage::~ProgressPage() {
  ::munmap(record_, sizeof(ProgressRecord));
  ::close(fd_);
}

Status ProgressPage::claim() {
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(fd_, F_SETLK, &lock) != 0) {
    if (errno != EACCES && errno != EAGAIN) return io_failed(path_, "cannot lock");
    return fail(ErrorCode::kProcess, fmt::format("progress page {}: claimed by process {} already",
                                                 path_.string(), owner().value_or(0)));
  }
  record_->counter.store(0);
  record_->step.store(0);
  record_->round.store(0);
  record_->waiting.store(0);
  record_->pid.store(::getpid());
  record_->magic.store(kProgressMagic);
  return {};
}

std::optional<int64_t> ProgressPage::owner() const {
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(fd_, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return std::nullopt;
  return lock.l_pid;
}

}  // namespace holdfast::train
