#include "daemon/peers/node_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <utility>
#include <variant>

#include "daemon/http/client.h"
#include "daemon/peers/batch_queue.h"
#include "daemon/peers/codec.h"

namespace holdfast::daemon {

namespace asio = boost::asio;

class NodeLink::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, NodeLinkOptions options, NodeLinkCallbacks callbacks)
      : io_(io),
        options_(std::move(options)),
        callbacks_(std::move(callbacks)),
        timeout_ms_(std::max<int64_t>(kMinPeerTimeoutMs,
                                      options_.heartbeat_ms * options_.missed_heartbeats)),
        queue_(options_.max_queued_events),
        timer_(io),
        client_(std::make_unique<HttpClient>(io, options_.seed_address)) {}

  void start() {
    client_->on_closed([this](const Error& error) {
      if (state_ == State::kGreeting || state_ == State::kConnected) broken(error);
    });
    greet();
  }

  void stop() {
    ++life_;
    state_ = State::kStopped;
    timer_.cancel();
    client_.reset();
  }

  void report(NodeEvent event) {
    if (state_ != State::kConnected) return;
    std::visit(
        [this](auto& body) {
          body.node = options_.node;
          body.session = options_.session;
        },
        event);
    if (queue_.push(encode_event(event))) return pump();
    overflow();
  }

  bool connected() const { return state_ == State::kConnected; }
  uint64_t coordinator_session() const { return coordinator_session_; }

 private:
  enum class State : uint8_t { kWaiting, kGreeting, kConnected, kStopped };

  void greet() {
    state_ = State::kGreeting;
    sequence_ = 0;
    post_batch();
  }

  // With nothing queued this is the greeting or a heartbeat.
  void post_batch() {
    outstanding_ = true;
    timer_.cancel();
    std::string body = fmt::format(R"({{"node":{},"session":{},"sequence":{},"events":{}}})",
                                   to_json_text(options_.node), options_.session, sequence_++,
                                   queue_.take_batch());
    client_->request(make_peer_call(options_.identity, kEventsTarget, std::move(body), timeout_ms_),
                     [this, life = life_](Result<HttpResponse> response) {
                       if (life == life_) on_reply(std::move(response));
                     });
  }

  void on_reply(Result<HttpResponse> response) {
    outstanding_ = false;
    const auto body =
        peer_result(std::move(response), fmt::format("events to {}", options_.seed_address));
    if (!body) return broken(body.error());
    const auto reply = from_json_text<EventsReply>(*body, "reply to events");
    if (!reply) return broken(reply.error());
    if (state_ == State::kGreeting) return connected_to(reply->coordinator_session);
    if (reply->coordinator_session != coordinator_session_)
      return broken({ErrorCode::kPeerUnreachable,
                     fmt::format("another coordinator answers at {}", options_.seed_address)});
    pump();
  }

  void connected_to(uint64_t coordinator_session) {
    coordinator_session_ = coordinator_session;
    state_ = State::kConnected;
    told_.clear();
    const uint64_t life = life_;
    const auto self = shared_from_this();
    callbacks_.on_connected();
    if (life == life_ && !outstanding_) pump();
  }

  void pump() {
    if (outstanding_) return;
    if (!queue_.empty()) return post_batch();
    after_heartbeat([](Impl& self) { self.post_batch(); });
  }

  void overflow() {
    const Error error{ErrorCode::kQueueFull, fmt::format("{} events wait for the seed at {}",
                                                         queue_.size(), options_.seed_address)};
    state_ = State::kWaiting;  // takes no more
    asio::post(io_, [self = shared_from_this(), life = life_, error] {
      if (life == self->life_) self->broken(error);
    });
  }

  void broken(const Error& error) {
    const auto self = shared_from_this();
    ++life_;
    state_ = State::kWaiting;
    outstanding_ = false;
    queue_.clear();
    client_->close(error.message);
    after_heartbeat([](Impl& link) { link.greet(); });
    if (error.message == told_) return;
    told_ = error.message;
    callbacks_.on_disconnected(error);
  }

  void after_heartbeat(void (*action)(Impl&)) {
    timer_.expires_after(std::chrono::milliseconds(options_.heartbeat_ms));
    timer_.async_wait([self = shared_from_this(), life = life_, sequence = sequence_,
                       action](const boost::system::error_code& cancelled) {
      const bool still = life == self->life_ && sequence == self->sequence_;
      if (!cancelled && still && !self->outstanding_) action(*self);
    });
  }

  asio::io_context& io_;
  const NodeLinkOptions options_;
  const NodeLinkCallbacks callbacks_;
  const int64_t timeout_ms_;
  State state_ = State::kWaiting;
  uint64_t life_ = 0;      // of connections: what belongs to an older one is ignored
  uint64_t sequence_ = 0;  // of the next request
  bool outstanding_ = false;
  uint64_t coordinator_session_ = 0;
  std::string told_;  // the last trouble that was told
  BatchQueue queue_;
  asio::steady_timer timer_;
  std::unique_ptr<HttpClient> client_;
};

NodeLink::NodeLink(asio::io_context& io, NodeLinkOptions options, NodeLinkCallbacks callbacks)
    : impl_(std::make_shared<Impl>(io, std::move(options), std::move(callbacks))) {}
NodeLink::~NodeLink() { impl_->stop(); }

void NodeLink::start() { impl_->start(); }
void NodeLink::report(NodeEvent event) { impl_->report(std::move(event)); }
bool NodeLink::connected() const { return impl_->connected(); }
uint64_t NodeLink::coordinator_session() const { return impl_->coordinator_session(); }

}  // namespace holdfast::daemon
