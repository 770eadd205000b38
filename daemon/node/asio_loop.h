// The event loop as LoopPort: timers, and helper threads for work that would hold the loop up.
// There are a few, so that checksums do not wait behind a connect to a peer that is gone, and more
// on a large machine, whose arena is large: a view waits for its sums, and workers stand still then.
#pragma once

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <thread>

#include "daemon/node/ports.h"

namespace holdfast::daemon {

class AsioLoop final : public LoopPort {
 public:
  explicit AsioLoop(boost::asio::io_context& io) : io_(io), aside_(helpers_) {}
  ~AsioLoop() override { finish(); }

  // Waits for the helper threads; what is given aside later is never done. Call it before what they
  // use is destroyed.
  void finish() { aside_.join(); }

  void after_ms(int64_t ms, std::function<void()> action) override;
  void aside(std::function<void()> work, std::function<void()> done) override;
  size_t helpers() const override { return helpers_; }

 private:
  static constexpr size_t kFewest = 4;
  static constexpr size_t kMost = 16;  // then memory is what they wait for

  const size_t helpers_ =
      std::clamp<size_t>(std::thread::hardware_concurrency() / 2, kFewest, kMost);
  boost::asio::io_context& io_;
  boost::asio::thread_pool aside_;
};

}  // namespace holdfast::daemon
