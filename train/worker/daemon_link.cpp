#include "train/worker/daemon_link.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "train/worker/frame_stream.h"
#include "train/worker/outbox.h"

namespace holdfast::train {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

class DaemonLink::Impl {
 public:
  Impl(DaemonLinkOptions options, DaemonLinkHandlers handlers)
      : options_(std::move(options)),
        handlers_(std::move(handlers)),
        io_(1),
        retry_(io_),
        watch_(io_),
        signals_(io_),
        backoff_ms_(options_.first_backoff_ms) {}

  void start() {
    asio::post(io_, [this] { connect(); });
    asio::post(io_, [this] { watch(); });
    if (options_.leave_on_sigterm) {
      signals_.add(SIGTERM);
      signals_.async_wait([this](const error_code& error, int) {
        if (!error) handlers_.on_leave("SIGTERM");
      });
    }
    thread_ = std::thread([this] { io_.run(); });
  }

  void stop() {
    if (!thread_.joinable()) return;
    asio::post(io_, [this] {
      if (stream_) stream_->close();
      stream_.reset();
      io_.stop();
    });
    thread_.join();
  }

  void flush() {
    if (!thread_.joinable()) return;
    std::promise<void> promise;
    const std::future<void> done = promise.get_future();
    asio::post(io_, [this, promise = std::move(promise)]() mutable {
      flushed_ = std::move(promise);
      tell_flushed();
    });
    done.wait_for(milliseconds(options_.flush_ms));
  }

  void send(FromWorker message) {
    asio::post(io_, [this, message = std::move(message)]() mutable {
      if (const size_t dropped = outbox_.add(std::move(message)); dropped > 0)
        handlers_.on_note(fmt::format("{} old messages dropped: the daemon is away", dropped));
      pump();
    });
  }

 private:
  using Local = asio::local::stream_protocol;

  void connect() {
    auto socket = std::make_shared<Local::socket>(io_);
    socket->async_connect(Local::endpoint(options_.socket.string()),
                          [this, socket](const error_code& error) {
                            if (error) return retry();
                            open(std::move(*socket));
                          });
  }

  void retry() {
    retry_.expires_after(milliseconds(backoff_ms_));
    backoff_ms_ = std::min(2 * backoff_ms_, options_.max_backoff_ms);
    retry_.async_wait([this](const error_code& error) {
      if (!error) connect();
    });
  }

  void open(Local::socket socket) {
    FrameStream::Handlers on;
    on.on_frame = [this](const std::string& frame) { read(frame); };
    on.on_sent = [this] { sent(); };
    on.on_closed = [this](const Error& why) { lost(why.message); };
    stream_ = FrameStream::start(std::move(socket), std::move(on));
    const Hello hello = handlers_.hello();
    outbox_.reconnected(hello);
    sending_hello_ = true;
    if (auto said = stream_->send(encode(FromWorker(hello))); !said) lost(said.error().message);
  }

  void read(const std::string& frame) {
    backoff_ms_ = options_.first_backoff_ms;  // a daemon that talks to us is there to stay
    auto message = decode_to_worker(frame);
    if (!message) return lost(message.error().message);
    handlers_.on_message(*message);
  }

  void lost(const std::string& why) {
    handlers_.on_note(fmt::format("connection to the daemon lost: {}", why));
    if (stream_) stream_->close();
    stream_.reset();
    sending_ = sending_hello_ = false;
    tell_flushed();
    retry();
  }

  // One message at a time, so that the outbox knows what has not left.
  void pump() {
    if (!stream_ || sending_ || sending_hello_) return;
    const FromWorker* next = outbox_.front();
    if (next == nullptr) return tell_flushed();
    std::string text = encode(*next);
    if (text.size() > kMaxFrameBytes) {
      handlers_.on_note(fmt::format("a message of {} bytes is too long to be sent", text.size()));
      outbox_.sent();
      return pump();
    }
    sending_ = true;
    if (auto said = stream_->send(std::move(text)); !said) lost(said.error().message);
  }

  void sent() {
    if (std::exchange(sending_hello_, false)) return pump();
    sending_ = false;
    outbox_.sent();
    pump();
  }

  void tell_flushed() {
    if (!flushed_ || (stream_ && (sending_ || sending_hello_ || outbox_.front() != nullptr))) return;
    flushed_->set_value();
    flushed_.reset();
  }

  // Leaves when neither a daemon nor training gives this process a purpose.
  void watch() {
    const auto now = Clock::now();
    if (stream_ || handlers_.hello().phase == WorkerPhase::kRunning) purpose_at_ = now;
    if (now - purpose_at_ >= milliseconds(options_.daemon_gone_ms))
      return handlers_.on_leave(
          fmt::format("no daemon at {} for {} ms", options_.socket.string(),
                      options_.daemon_gone_ms));
    watch_.expires_after(milliseconds(std::clamp<int64_t>(options_.daemon_gone_ms / 20, 1, 1'000)));
    watch_.async_wait([this](const error_code& error) {
      if (!error) watch();
    });
  }

  const DaemonLinkOptions options_;
  const DaemonLinkHandlers handlers_;
  asio::io_context io_;
  asio::steady_timer retry_;
  asio::steady_timer watch_;
  asio::signal_set signals_;
  int64_t backoff_ms_;
  std::shared_ptr<FrameStream> stream_;
  Outbox outbox_;
  bool sending_ = false;        // the outbox's front is with the stream
  bool sending_hello_ = false;  // before it
  std::optional<std::promise<void>> flushed_;  // somebody waits for it
  Clock::time_point purpose_at_ = Clock::now();
  std::thread thread_;
};

DaemonLink::DaemonLink(DaemonLinkOptions options, DaemonLinkHandlers handlers)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handlers))) {}
DaemonLink::~DaemonLink() { stop(); }
void DaemonLink::start() { impl_->start(); }
void DaemonLink::stop() { impl_->stop(); }
void DaemonLink::flush() { impl_->flush(); }
void DaemonLink::send(FromWorker message) { impl_->send(std::move(message)); }

}  // namespace holdfast::train
