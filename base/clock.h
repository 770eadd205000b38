// Time is handed in, so that what depends on it can be tested without waiting.
#pragma once

#include <atomic>
#include <cstdint>

namespace holdfast {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t monotonic_ms() const = 0;  // since an arbitrary point; never goes back
  virtual int64_t wall_ms() const = 0;       // since 1970, for people to read
};

class SystemClock final : public Clock {
 public:
  int64_t monotonic_ms() const override;
  int64_t wall_ms() const override;
};

class ManualClock final : public Clock {
 public:
  int64_t monotonic_ms() const override { return now_ms_.load(); }
  int64_t wall_ms() const override { return now_ms_.load(); }
  void advance_ms(int64_t ms) { now_ms_.fetch_add(ms); }

 private:
  std::atomic<int64_t> now_ms_{1'000};
};

}  // namespace holdfast
