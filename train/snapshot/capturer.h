// The capture thread: takes capture orders one after the other, the lowest version first, once the
// version is made; captures it, says Captured or CaptureMissed. An order for a version far ahead does
// not keep others waiting. Never holds up training for longer than the protection
// allows, never keeps half a version.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "train/snapshot/capture.h"

namespace holdfast::train {

struct CaptureLimits {
  // For the version to be made, from the order or the last version made on.
  int64_t version_wait_ms = 1'800'000;
  int64_t hold_ms = 1'000;            // an update waits so long for the buffer, then takes it back
  size_t queue = 8;                   // orders
};

class Capturer {
 public:
  // Called on the capture thread (Captured, CaptureMissed), or on the caller's for an order refused.
  using ReportFn = std::function<void(FromWorker)>;
  // Called on the capture thread with the device's error (kDeviceFailed), which made a capture fail; the
  // capture is reported missed, too.
  using BrokenFn = std::function<void(Error)>;
  using ProtectFn = std::function<std::unique_ptr<Trainer::Protection>(Version, int64_t max_wait_ms)>;

  Capturer(CaptureLimits limits, ReportFn report, BrokenFn broken);
  ~Capturer();
  Capturer(const Capturer&) = delete;
  Capturer& operator=(const Capturer&) = delete;

  // Before the first order; again for another view, after cancel_and_wait. What they refer to must
  // outlive this or the next open.
  void open(CaptureTarget target, ProtectFn protect) EXCLUDES(mutex_);
  void order(const Capture& order) EXCLUDES(mutex_);
  // The newest version that the buffers hold; may go back in a new view.
  void set_version(Version newest) EXCLUDES(mutex_);
  // Ends the capture under way, which is reported missed, and drops the orders that wait: the view
  // they were given in is over. Does not wait.
  void cancel() EXCLUDES(mutex_);
  // Returns when the thread touches neither arena nor buffers; nothing is reported afterwards until
  // the next order. The wait is bounded by the copy of one shard.
  void cancel_and_wait() EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  struct Order {
    Capture capture;
    Clock::time_point since;
  };
  void work() EXCLUDES(mutex_);
  // Waits for the lowest version that is made, or for an order whose time is over; nothing: ends.
  std::optional<Order> next() REQUIRES(mutex_);
  Clock::time_point deadline_of(const Order& order) const REQUIRES(mutex_);
  bool is_made(const Order& order) const REQUIRES(mutex_);
  FromWorker carry_out(const Capture& order) EXCLUDES(mutex_);

  const CaptureLimits limits_;
  const ReportFn report_;
  const BrokenFn broken_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<CaptureTarget> target_ GUARDED_BY(mutex_);
  ProtectFn protect_ GUARDED_BY(mutex_);
  std::vector<Order> orders_ GUARDED_BY(mutex_);  // by version; equal ones as they came
  std::optional<Version> newest_ GUARDED_BY(mutex_);
  Clock::time_point newest_since_ GUARDED_BY(mutex_);
  bool busy_ GUARDED_BY(mutex_) = false;
  bool ending_ GUARDED_BY(mutex_) = false;
  std::atomic<bool> cancelled_{false};  // of the order under way
  std::thread thread_;
};

}  // namespace holdfast::train
