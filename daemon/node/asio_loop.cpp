#include "daemon/node/asio_loop.h"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>

namespace holdfast::daemon {

void AsioLoop::after_ms(int64_t ms, std::function<void()> action) {
  auto timer = std::make_shared<boost::asio::steady_timer>(io_, std::chrono::milliseconds(ms));
  timer->async_wait([timer, action = std::move(action)](const boost::system::error_code& error) {
    if (!error) action();
  });
}

void AsioLoop::aside(std::function<void()> work, std::function<void()> done) {
  boost::asio::post(aside_, [this, work = std::move(work), done = std::move(done)]() mutable {
    work();
    boost::asio::post(io_, std::move(done));
  });
}

}  // namespace holdfast::daemon
