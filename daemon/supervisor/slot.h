// One slot of a node: whether a worker is wanted there, its process, its connection. Private to
// daemon/supervisor.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "daemon/supervisor/spawn.h"
#include "daemon/supervisor/supervisor.h"
#include "train/worker/frame_stream.h"
#include "train/worker/progress_page.h"

namespace holdfast::daemon {

class Slot {
 public:
  Slot(boost::asio::io_context& io, const SupervisorOptions& options,
       const SupervisorCallbacks& callbacks, Clock& clock, uint32_t number, std::string fault);
  ~Slot();

  Status open();  // the progress page
  void ensure();
  void stop();
  void kill(WorkerEnd::Cause cause, const std::string& text);
  Status send(const train::ToWorker& message);
  Supervisor::SlotStatus status() const { return status_; }
  std::optional<int64_t> survivor() const;

  // A connection said Hello for this slot. False: refused, the caller closes it.
  bool connected(const std::shared_ptr<train::FrameStream>& stream, const train::Hello& hello);
  void received(const train::FromWorker& message);
  void disconnected(const train::FrameStream* stream, const Error& why);

 private:
  void start_or_wait();
  void spawn();
  void adopt(pid_t pid);
  void watch_process(pid_t pid, int pidfd, bool child);
  void watch_for_end();
  void ended();
  void finish_end();
  void end_with(WorkerEnd end);
  void restart_later();
  void expect_connection(uint32_t timeout_ms, const std::string& who);
  void watch_progress();
  void note(const std::string& text);

  boost::asio::io_context& io_;
  const SupervisorOptions& options_;
  const SupervisorCallbacks& callbacks_;
  Clock& clock_;
  const uint32_t number_;
  std::string fault_;  // for the first worker that is spawned

  std::unique_ptr<train::ProgressPage> page_;
  bool wanted_ = false;
  Supervisor::SlotStatus status_;
  std::optional<boost::asio::posix::stream_descriptor> pidfd_;
  bool child_ = false;
  std::optional<WorkerEnd> cause_;  // why it will end, if it was our doing
  std::optional<std::string> how_ended_;  // the process is gone, its last words are being read
  std::shared_ptr<train::FrameStream> stream_;
  int64_t connected_since_ms_ = 0;
  uint32_t backoff_ms_;

  boost::asio::steady_timer restart_, connect_, term_, hang_, ending_;
  uint64_t counter_ = 0;
  int64_t counter_moved_ms_ = 0;
  int64_t checked_ms_ = 0;
  // Handlers outlive neither the slot nor the process they were made for.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::daemon
