// 64 bytes shared by a worker and its daemon: <state_dir>/worker-<slot>.progress. The worker keeps
// the counter moving even while it waits for others, so the one whose counter froze is the culprit.
// While it computes, the counter moves before each parameter group that a micro-batch passes through,
// each shard and each collective: never later than the work for one of them takes, of which the head's
// product (tokens of a micro-batch x width x vocabulary) is the longest in most models.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/result.h"

namespace holdfast::train {

struct ProgressRecord {
  std::atomic<uint64_t> magic;    // kProgressMagic
  std::atomic<uint64_t> counter;  // moves as said above; every kPulseMs in waits
  std::atomic<uint64_t> step;
  std::atomic<uint64_t> round;
  std::atomic<uint64_t> waiting;  // 1 while it waits for others
  std::atomic<int64_t> pid;
  uint64_t reserved[2];
};
static_assert(sizeof(ProgressRecord) == 64);
inline constexpr uint64_t kProgressMagic = 0x31474f5250464821ULL;

class ProgressPage {
 public:
  // Creates the file when it is missing. kFileIo.
  static Result<std::unique_ptr<ProgressPage>> open(const std::filesystem::path& path);
  ~ProgressPage();
  ProgressPage(const ProgressPage&) = delete;
  ProgressPage& operator=(const ProgressPage&) = delete;

  ProgressRecord& record() { return *record_; }

  // The worker's: the page is this process's until it ends, however it ends (a record lock, so that
  // two workers never run in one slot). Writes magic and pid. kProcess when another process has it.
  Status claim();
  // The daemon's: the live process that claimed the page, as the kernel knows it; never stale.
  std::optional<int64_t> owner() const;

 private:
  ProgressPage(std::filesystem::path path, int fd, ProgressRecord* record)
      : path_(std::move(path)), fd_(fd), record_(record) {}
  const std::filesystem::path path_;
  const int fd_;
  ProgressRecord* const record_;
};

}  // namespace holdfast::train
