#include "daemon/supervisor/supervisor.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "base/check.h"
#include "daemon/supervisor/slot.h"

namespace holdfast::daemon {

namespace asio = boost::asio;
using Local = asio::local::stream_protocol;
using train::FrameStream;

class Supervisor::Impl : public std::enable_shared_from_this<Supervisor::Impl> {
 public:
  Impl(asio::io_context& io, SupervisorOptions options, SupervisorCallbacks callbacks, Clock& clock)
      : io_(io), options_(std::move(options)), callbacks_(std::move(callbacks)), acceptor_(io),
        accept_again_(io) {
    const char* fault = std::getenv("HOLDFAST_WORKER_FAULT");
    for (uint32_t slot = 0; slot < options_.slots; ++slot) {
      slots_.push_back(std::make_unique<Slot>(io_, options_, callbacks_, clock, slot,
                                              slot == 0 && fault != nullptr ? fault : ""));
    }
  }

  Status open();
  void close();
  Slot& slot(uint32_t number) {
    CHECK(number < slots_.size());
    return *slots_[number];
  }

 private:
  void accept();
  void accept_later();
  void greet(Local::socket socket);
  void first_frame(const std::shared_ptr<FrameStream>& stream, uint32_t& slot, bool& greeted,
                   const std::string& frame);

  asio::io_context& io_;
  const SupervisorOptions options_;
  const SupervisorCallbacks callbacks_;
  Local::acceptor acceptor_;
  asio::steady_timer accept_again_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::set<std::shared_ptr<FrameStream>> strangers_;  // have not said Hello yet
};

namespace {

constexpr size_t kMostStrangers = 64;
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

// A socket file that nobody serves was left by a daemon that was killed.
Status remove_stale(asio::io_context& io, const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  Local::socket probe(io);
  boost::system::error_code refused;
  probe.connect(Local::endpoint(path.string()), refused);
  if (!refused)
    return fail(ErrorCode::kAddressInUse,
                fmt::format("{} is served by another daemon", path.string()));
  std::filesystem::remove(path, error);
  if (error)
    return fail(ErrorCode::kFileIo, fmt::format("{}: {}", path.string(), error.message()));
  return {};
}

}  // namespace

Status Supervisor::Impl::open() {
  for (const auto& slot : slots_) RETURN_IF_ERROR(slot->open());
  const std::filesystem::path path = options_.state_dir / "worker.sock";
  RETURN_IF_ERROR(remove_stale(io_, path));
  try {
    acceptor_.open(Local());
    acceptor_.bind(Local::endpoint(path.string()));
    ::chmod(path.c_str(), 0600);
    acceptor_.listen();
  } catch (const std::exception& e) {
    return fail(ErrorCode::kFileIo, fmt::format("{}: {}", path.string(), e.what()));
  }
  accept();
  return {};
}

void Supervisor::Impl::close() {
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  accept_again_.cancel();
  for (const auto& stream : strangers_) stream->close();
  strangers_.clear();
  slots_.clear();  // workers live on
}

void Supervisor::Impl::accept() {
  acceptor_.async_accept([self = shared_from_this()](const boost::system::error_code& error,
                                                     Local::socket socket) {
    if (!self->acceptor_.is_open()) return;
    if (error) {  // out of descriptors, most likely: some will be free again
      self->accept_later();
      return;
    }
    if (self->strangers_.size() < kMostStrangers) self->greet(std::move(socket));
    self->accept();
  });
}

void Supervisor::Impl::accept_later() {
  accept_again_.expires_after(kAcceptRetry);
  accept_again_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (!error && self->acceptor_.is_open()) self->accept();
  });
}

// Until Hello has come the connection belongs to no slot, and takes a place that others need.
void Supervisor::Impl::greet(Local::socket socket) {
  struct Greeting {
    uint32_t slot = 0;
    bool done = false;
    std::weak_ptr<FrameStream> stream;
  };
  auto greeting = std::make_shared<Greeting>();
  FrameStream::Handlers handlers;
  handlers.on_frame = [this, self = shared_from_this(), greeting](const std::string& frame) {
    const auto stream = greeting->stream.lock();
    if (stream && !slots_.empty()) first_frame(stream, greeting->slot, greeting->done, frame);
  };
  handlers.on_sent = [] {};
  handlers.on_closed = [this, self = shared_from_this(), greeting](const Error& why) {
    const auto stream = greeting->stream.lock();
    strangers_.erase(stream);
    if (greeting->done && !slots_.empty())
      slots_[greeting->slot]->disconnected(stream.get(), why);
  };
  const auto stream = FrameStream::start(std::move(socket), std::move(handlers));
  greeting->stream = stream;
  strangers_.insert(stream);
  auto late = std::make_shared<asio::steady_timer>(io_);
  late->expires_after(std::chrono::milliseconds(options_.hello_timeout_ms));
  late->async_wait([impl = weak_from_this(), late, weak = std::weak_ptr(stream)](
                       const boost::system::error_code& /*never cancelled*/) {
    const auto self = impl.lock();
    const auto silent = weak.lock();
    if (!self || !silent || self->strangers_.erase(silent) == 0) return;  // greeted, or gone
    silent->close();
    if (self->callbacks_.on_note)
      self->callbacks_.on_note(0, fmt::format("a connection said nothing for {} ms, it is closed",
                                              self->options_.hello_timeout_ms));
  });
}

void Supervisor::Impl::first_frame(const std::shared_ptr<FrameStream>& stream, uint32_t& slot,
                                   bool& greeted, const std::string& frame) {
  const auto refuse = [&](const std::string& why) {
    if (callbacks_.on_note) callbacks_.on_note(slot, why);
    stream->close();
    strangers_.erase(stream);
    if (greeted) slots_[slot]->disconnected(stream.get(), {ErrorCode::kBadMessage, why});
  };
  auto message = train::decode_from_worker(frame);
  if (!message) return refuse("not readable, connection closed: " + message.error().message);
  if (greeted) return slots_[slot]->received(*message);

  const auto* hello = std::get_if<train::Hello>(&*message);
  if (hello == nullptr) return refuse("did not begin with Hello, connection closed");
  if (hello->link_version != train::kWorkerLinkVersion)
    return refuse(fmt::format("speaks version {} of the worker link, this daemon speaks {}",
                              hello->link_version, train::kWorkerLinkVersion));
  if (hello->slot >= slots_.size())
    return refuse(fmt::format("says slot {}, this node has {}", hello->slot, slots_.size()));
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(stream->native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
      peer.pid != hello->pid)
    return refuse(fmt::format("process {} says it is process {}", peer.pid, hello->pid));
  slot = hello->slot;
  strangers_.erase(stream);
  greeted = true;
  if (!slots_[slot]->connected(stream, *hello)) {
    greeted = false;
    stream->close();
  }
}

// ---- outside --------------------------------------------------------------------------------------

Supervisor::Supervisor(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Supervisor::~Supervisor() { impl_->close(); }

Result<std::unique_ptr<Supervisor>> Supervisor::create(asio::io_context& io,
                                                       SupervisorOptions options,
                                                       SupervisorCallbacks callbacks,
                                                       Clock& clock) {
  auto impl = std::make_shared<Impl>(io, std::move(options), std::move(callbacks), clock);
  RETURN_IF_ERROR(impl->open());
  return std::unique_ptr<Supervisor>(new Supervisor(std::move(impl)));
}

void Supervisor::ensure_worker(uint32_t slot) { impl_->slot(slot).ensure(); }
void Supervisor::stop_worker(uint32_t slot) { impl_->slot(slot).stop(); }
void Supervisor::kill_worker(uint32_t slot, const std::string& why) {
  impl_->slot(slot).kill(WorkerEnd::Cause::kKilled, why);
}
Status Supervisor::send(uint32_t slot, const train::ToWorker& message) {
  return impl_->slot(slot).send(message);
}
Supervisor::SlotStatus Supervisor::status(uint32_t slot) const {
  return impl_->slot(slot).status();
}
std::optional<int64_t> Supervisor::survivor(uint32_t slot) const {
  return impl_->slot(slot).survivor();
}

}  // namespace holdfast::daemon
