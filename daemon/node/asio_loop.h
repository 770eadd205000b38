// The event loop as LoopPort: timers, and a helper thread for work that would hold the loop up.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

#include "daemon/node/ports.h"

namespace holdfast::daemon {

class AsioLoop final : public LoopPort {
 public:
  explicit AsioLoop(boost::asio::io_context& io) : io_(io), aside_(1) {}
  ~AsioLoop() override { aside_.join(); }

  void after_ms(int64_t ms, std::function<void()> action) override;
  void aside(std::function<void()> work, std::function<void()> done) override;

 private:
  boost::asio::io_context& io_;
  boost::asio::thread_pool aside_;
};

}  // namespace holdfast::daemon
