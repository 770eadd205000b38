// Drives an event loop in a test until something holds, for a bounded time.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

namespace holdfast::daemon::test {

inline constexpr auto kWaitLimit = std::chrono::seconds(20);

// False when it did not come true within the limit.
[[nodiscard]] inline bool run_until(boost::asio::io_context& io, const std::function<bool()>& holds,
                                    std::chrono::milliseconds limit = kWaitLimit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  io.restart();
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    if (io.stopped()) io.restart();
    io.run_one_until(deadline);
  }
  return true;
}

// What is ready now, and what that makes ready.
inline void run_ready(boost::asio::io_context& io) {
  io.restart();
  while (io.poll() > 0) io.restart();
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "holdfast-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp failed";
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace holdfast::daemon::test
