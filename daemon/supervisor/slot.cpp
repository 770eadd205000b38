#include "daemon/supervisor/slot.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <csignal>

namespace holdfast::daemon {

namespace asio = boost::asio;

namespace {

constexpr uint32_t kMostBackoffMs = 10'000;
constexpr int64_t kHealthyMs = 60'000;
constexpr int64_t kLastWordsMs = 1000;  // to read what a dead process has said
constexpr int64_t kEndingCheckMs = 20;
constexpr int64_t kHangChecks = 10;  // in a hang timeout

std::chrono::milliseconds ms(int64_t count) { return std::chrono::milliseconds(count); }

}  // namespace

Slot::Slot(asio::io_context& io, const SupervisorOptions& options,
           const SupervisorCallbacks& callbacks, Clock& clock, uint32_t number, std::string fault)
    : io_(io),
      options_(options),
      callbacks_(callbacks),
      clock_(clock),
      number_(number),
      fault_(std::move(fault)),
      backoff_ms_(options.restart_backoff_ms),
      restart_(io),
      connect_(io),
      term_(io),
      hang_(io),
      ending_(io) {}

Slot::~Slot() {
  *alive_ = false;
  if (stream_) stream_->close();
}

Status Slot::open() {
  ASSIGN_OR_RETURN(page_, train::ProgressPage::open(
                              options_.state_dir / fmt::format("worker-{}.progress", number_)));
  return {};
}

void Slot::note(const std::string& text) {
  if (callbacks_.on_note) callbacks_.on_note(number_, text);
}

std::optional<int64_t> Slot::survivor() const { return page_->owner(); }

// ---- what is wanted -------------------------------------------------------------------------------

void Slot::ensure() {
  if (wanted_) return;
  wanted_ = true;
  if (status_.pid == 0) start_or_wait();  // otherwise the old one ends first
}

void Slot::start_or_wait() {
  const auto pid = page_->owner();
  if (!pid) return spawn();
  // Of an earlier daemon process: it connects by itself.
  adopt(static_cast<pid_t>(*pid));
}

void Slot::stop() {
  wanted_ = false;
  restart_.cancel();
  if (status_.pid == 0) return;
  cause_ = WorkerEnd{WorkerEnd::Cause::kStopped, "stopped", status_.pid};
  ::syscall(SYS_pidfd_send_signal, pidfd_->native_handle(), SIGTERM, nullptr, 0);
  term_.expires_after(ms(options_.stop_timeout_ms));
  term_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (error || !*alive) return;
    kill(WorkerEnd::Cause::kStopped,
         fmt::format("did not end within {} ms after SIGTERM", options_.stop_timeout_ms));
  });
}

void Slot::kill(WorkerEnd::Cause cause, const std::string& text) {
  if (status_.pid == 0) return;
  cause_ = WorkerEnd{cause, text, status_.pid};
  ::syscall(SYS_pidfd_send_signal, pidfd_->native_handle(), SIGKILL, nullptr, 0);
}

Status Slot::send(const train::ToWorker& message) {
  if (!stream_)
    return fail(ErrorCode::kPeerUnreachable,
                fmt::format("no worker is connected in slot {}", number_));
  return stream_->send(train::encode(message));
}

// ---- the process ----------------------------------------------------------------------------------

void Slot::spawn() {
  cause_.reset();  // that of the process before says nothing about this one
  auto spawned = spawn_worker(
      {options_.program, options_.state_dir, number_, std::exchange(fault_, std::string())});
  if (!spawned) {
    end_with({WorkerEnd::Cause::kNotStarted, spawned.error().to_string(), 0});
    return;
  }
  note(fmt::format("spawned process {}", spawned->pid));
  status_.adopted = false;
  watch_process(spawned->pid, spawned->pidfd, true);
  expect_connection(options_.start_timeout_ms, "after its start");
}

void Slot::adopt(pid_t pid) {
  auto pidfd = open_pidfd(pid);
  if (!pidfd) return spawn();  // ended just now
  note(fmt::format("process {} of an earlier daemon is alive, waits for it", pid));
  status_.adopted = true;
  watch_process(pid, *pidfd, false);
  expect_connection(options_.survivor_timeout_ms, "to this daemon, which was started anew");
}

void Slot::watch_process(pid_t pid, int pidfd, bool child) {
  status_.pid = pid;
  child_ = child;
  cause_.reset();
  pidfd_.emplace(io_, pidfd);
  pidfd_->async_wait(asio::posix::stream_descriptor::wait_read,
                     [this, alive = alive_](const boost::system::error_code& error) {
                       if (!error && *alive) ended();
                     });
  watch_for_end();
}

// The pidfd tells an end only when all memory was given back.
void Slot::watch_for_end() {
  ending_.expires_after(ms(kEndingCheckMs));
  ending_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (error || !*alive || status_.pid == 0 || how_ended_) return;
    if (!is_ending(static_cast<pid_t>(status_.pid))) return watch_for_end();
    hang_.cancel();
    if (callbacks_.on_worker_dying)
      callbacks_.on_worker_dying(number_, cause_ ? cause_->text : "killed, or it crashed");
  });
}

void Slot::ended() {
  how_ended_ = child_ ? reap(pidfd_->native_handle()) : "ended";
  hang_.cancel();
  ending_.cancel();
  if (!stream_) return finish_end();
  // Its last words (why it ends) may still lie in the socket, whose end is at hand.
  connect_.expires_after(ms(kLastWordsMs));
  connect_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (!error && *alive && how_ended_) finish_end();
  });
}

void Slot::finish_end() {
  const std::string how = *std::exchange(how_ended_, std::nullopt);
  const int64_t pid = status_.pid;
  pidfd_.reset();
  term_.cancel();
  connect_.cancel();
  hang_.cancel();
  status_.pid = 0;
  status_.connected = false;
  if (stream_) std::exchange(stream_, nullptr)->close();
  WorkerEnd end = cause_.value_or(WorkerEnd{WorkerEnd::Cause::kExited, "", pid});
  end.text = end.text.empty() ? how : fmt::format("{} ({})", end.text, how);
  if (connected_since_ms_ > 0 && clock_.monotonic_ms() - connected_since_ms_ >= kHealthyMs)
    backoff_ms_ = options_.restart_backoff_ms;
  connected_since_ms_ = 0;
  end_with(std::move(end));
}

void Slot::end_with(WorkerEnd end) {
  restart_later();
  asio::post(io_, [this, alive = alive_, end = std::move(end)] {
    if (*alive) callbacks_.on_worker_down(number_, end);
  });
}

void Slot::restart_later() {
  if (!wanted_) return;
  const bool wished = cause_ && cause_->cause == WorkerEnd::Cause::kStopped;
  restart_.expires_after(ms(wished ? 0 : backoff_ms_));
  if (!wished) backoff_ms_ = std::min(backoff_ms_ * 2, kMostBackoffMs);
  restart_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (error || !*alive || !wanted_ || status_.pid != 0) return;
    ++status_.restarts;
    start_or_wait();
  });
}

// ---- the connection -------------------------------------------------------------------------------

void Slot::expect_connection(uint32_t timeout_ms, const std::string& who) {
  connect_.expires_after(ms(timeout_ms));
  connect_.async_wait([this, alive = alive_, timeout_ms, who](const boost::system::error_code& e) {
    if (e || !*alive || status_.connected) return;
    kill(WorkerEnd::Cause::kUnreachable,
         fmt::format("did not connect within {} ms {}", timeout_ms, who));
  });
}

bool Slot::connected(const std::shared_ptr<train::FrameStream>& stream,
                     const train::Hello& hello) {
  if (status_.pid == 0 && wanted_ && page_->owner() == hello.pid) {
    // Faster than our own look at its page. What is left of one that has ended does not own it.
    restart_.cancel();
    auto pidfd = open_pidfd(static_cast<pid_t>(hello.pid));
    if (!pidfd) return false;
    status_.adopted = true;
    watch_process(static_cast<pid_t>(hello.pid), *pidfd, false);
  }
  if (hello.pid != status_.pid) {
    note(fmt::format("process {} said hello, the worker is process {}: refused", hello.pid,
                     status_.pid));
    return false;
  }
  if (cause_ && cause_->cause != WorkerEnd::Cause::kStopped) {
    note(fmt::format("process {} was killed: its connection is refused", hello.pid));
    return false;
  }
  connect_.cancel();
  if (stream_) stream_->close();  // an older connection of the same process
  stream_ = stream;
  if (status_.adopted && !status_.connected) note(fmt::format("process {} adopted", hello.pid));
  status_.connected = true;
  if (connected_since_ms_ == 0) connected_since_ms_ = clock_.monotonic_ms();
  counter_moved_ms_ = checked_ms_ = clock_.monotonic_ms();
  counter_ = page_->record().counter.load();
  watch_progress();
  callbacks_.on_worker_up(number_, hello);
  return true;
}

void Slot::received(const train::FromWorker& message) { callbacks_.on_message(number_, message); }

void Slot::disconnected(const train::FrameStream* stream, const Error& why) {
  if (stream_.get() != stream) return;
  stream_.reset();
  status_.connected = false;
  hang_.cancel();
  if (how_ended_) return finish_end();
  if (cause_) return;  // it is on its way out
  note(fmt::format("connection lost: {}", why.message));
  expect_connection(options_.start_timeout_ms, "after its connection was lost");
}

// ---- hangs ----------------------------------------------------------------------------------------

void Slot::watch_progress() {
  const int64_t period_ms = std::max<int64_t>(options_.hang_timeout_ms / kHangChecks, 10);
  hang_.expires_after(ms(period_ms));
  hang_.async_wait([this, alive = alive_, period_ms](const boost::system::error_code& error) {
    if (error || !*alive || !status_.connected) return;
    const int64_t now = clock_.monotonic_ms();
    const uint64_t counter = page_->record().counter.load();
    // A detector that was itself late cannot tell: its clocks start anew.
    const bool late = now - checked_ms_ > 3 * period_ms + 50;
    if (counter != counter_ || late) counter_moved_ms_ = now;
    counter_ = counter;
    checked_ms_ = now;
    if (now - counter_moved_ms_ >= options_.hang_timeout_ms) {
      ++status_.hangs;
      kill(WorkerEnd::Cause::kHung, fmt::format("no progress for {} ms", now - counter_moved_ms_));
      return;
    }
    watch_progress();
  });
}

}  // namespace holdfast::daemon
