// The event loop as LoopPort: timers, and helper threads for work that would hold the loop up.
// There are a few, so that checksums do not wait behind a connect to a peer that is gone.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

#include "daemon/node/ports.h"

namespace holdfast::daemon {

class AsioLoop final : public LoopPort {
 public:
  explicit AsioLoop(boost::asio::io_context& io) : io_(io), aside_(kHelpers) {}
  ~AsioLoop() override { finish(); }

  // Waits for the helper threads; what is given aside later is never done. Call it before what they
  // use is destroyed.
  void finish() { aside_.join(); }

  void after_ms(int64_t ms, std::function<void()> action) override;
  void aside(std::function<void()> work, std::function<void()> done) override;

 private:
  static constexpr size_t kHelpers = 4;

  boost::asio::io_context& io_;
  boost::asio::thread_pool aside_;
};

}  // namespace holdfast::daemon
