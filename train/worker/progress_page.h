// 64 bytes shared by a worker and its daemon: <state_dir>/worker-<slot>.progress. The worker keeps the
// counter moving even while it waits for others, so the one whose counter froze is the culprit.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>

#include "base/result.h"

namespace holdfast::train {

struct ProgressRecord {
  std::atomic<uint64_t> magic;    // kProgressMagic
  std::atomic<uint64_t> counter;  // moves at least every 50 ms while the worker is healthy
  std::atomic<uint64_t> step;
  std::atomic<uint64_t> round;
  std::atomic<uint64_t> waiting;  // 1 while inside a collective
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

 private:
  explicit ProgressPage(ProgressRecord* record) : record_(record) {}
  ProgressRecord* record_;
};

}  // namespace holdfast::train
