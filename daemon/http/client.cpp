#include "daemon/http/client.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>
#include <utility>
#include <vector>

#include "daemon/http/connection.h"
#include "daemon/http/listener.h"

namespace holdfast::daemon {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

boost::beast::string_view beast_view(std::string_view text) { return {text.data(), text.size()}; }

http::request<http::string_body> make_message(const HttpCall& call, const std::string& host) {
  http::request<http::string_body> message;
  message.method_string(beast_view(call.method));
  message.target(beast_view(call.target));
  message.set(http::field::host, beast_view(host));
  if (!call.body.empty()) message.set(http::field::content_type, beast_view(kJsonType));
  for (const auto& [name, value] : call.headers) message.set(beast_view(name), beast_view(value));
  message.body() = call.body;
  message.prepare_payload();
  return message;
}

}  // namespace

HttpClient::Connection::Connection(asio::io_context& io, std::string address,
                                   HttpClientOptions options)
    : address_(std::move(address)), options_(options), io_(io), timer_(io) {}

void HttpClient::Connection::request(HttpCall call, Callback callback) {
  if (queue_.size() >= options_.max_queued) {
    Error error{ErrorCode::kQueueFull,
                fmt::format("{} requests wait for {} already", queue_.size(), address_)};
    asio::post(
        io_, [self = shared_from_this(), error = std::move(error), callback = std::move(callback)] {
          if (!self->stopped_) callback(fail(error));
        });
    return;
  }
  const TimePoint deadline = Clock::now() + std::chrono::milliseconds(call.timeout_ms);
  queue_.push_back({std::move(call), std::move(callback), deadline});
  arm_timer();
  pump();
}

void HttpClient::Connection::pump() {
  if (queue_.empty() || in_flight_ || stopped_) return;
  if (link_ == nullptr) return connect();
  if (link_->open) send_front();
}

void HttpClient::Connection::connect() {
  link_ = std::make_shared<Link>(io_);
  const auto address = parse_host_port(address_);
  if (!address) {
    asio::post(io_, [self = shared_from_this(), link = link_, why = address.error().message] {
      if (self->is_current(link)) self->lose(why);
    });
    return;
  }
  error_code not_a_number;
  const auto number = asio::ip::make_address(address->host, not_a_number);
  if (!not_a_number) {  // the usual case; looking a name up costs a thread
    connect_to(Tcp::resolver::results_type::create(Tcp::endpoint(number, address->port),
                                                   address->host, std::to_string(address->port)));
    return;
  }
  link_->resolver.async_resolve(
      address->host, std::to_string(address->port),
      [self = shared_from_this(), link = link_](const error_code& error,
                                                const Tcp::resolver::results_type& endpoints) {
        if (!self->is_current(link)) return;
        if (error) return self->lose(fmt::format("cannot look it up: {}", error.message()));
        self->connect_to(endpoints);
      });
}

void HttpClient::Connection::connect_to(const Tcp::resolver::results_type& endpoints) {
  asio::async_connect(
      link_->socket, endpoints,
      [self = shared_from_this(), link = link_](const error_code& error, const Tcp::endpoint&) {
        if (!self->is_current(link)) return;
        if (error) return self->lose(fmt::format("cannot connect: {}", error.message()));
        self->on_connected();
      });
}

void HttpClient::Connection::on_connected() {
  error_code ignored;
  link_->socket.set_option(Tcp::no_delay(true), ignored);
  link_->open = true;
  if (queue_.empty()) return watch_idle();
  pump();
}

void HttpClient::Connection::send_front() {
  in_flight_ = true;
  link_->output = make_message(queue_.front().call, address_);
  http::async_write(link_->socket, *link_->output,
                    [self = shared_from_this(), link = link_](const error_code& error, size_t) {
                      if (!self->is_current(link)) return;
                      if (error) return self->lose(fmt::format("cannot send: {}", error.message()));
                      self->read_response();
                    });
}

void HttpClient::Connection::read_response() {
  link_->parser.emplace();
  link_->parser->body_limit(options_.max_body_bytes);
  if (queue_.front().call.method == "HEAD") link_->parser->skip(true);
  http::async_read(link_->socket, link_->input, *link_->parser,
                   [self = shared_from_this(), link = link_](const error_code& error, size_t) {
                     if (!self->is_current(link)) return;
                     if (error) return self->lose(fmt::format("no response: {}", error.message()));
                     self->on_response();
                   });
}

void HttpClient::Connection::on_response() {
  auto message = link_->parser->release();
  HttpResponse response;
  response.status = static_cast<int>(message.result_int());
  const auto type = message[http::field::content_type];
  response.content_type.assign(type.data(), type.size());
  response.body = std::move(message.body());
  Callback callback = std::move(queue_.front().callback);
  queue_.pop_front();
  in_flight_ = false;
  const LinkPtr link = link_;
  callback(std::move(response));
  if (stopped_ || !is_current(link)) return;
  arm_timer();
  if (!message.keep_alive()) return lose("the peer ended the connection");
  if (queue_.empty()) return watch_idle();
  pump();
}

// An idle connection that becomes readable has ended: nobody speaks unasked.
void HttpClient::Connection::watch_idle() {
  if (link_->watching) return;
  link_->watching = true;
  link_->socket.async_wait(Tcp::socket::wait_read,
                           [self = shared_from_this(), link = link_](const error_code& error) {
                             if (!self->is_current(link)) return;
                             link->watching = false;
                             if (error) return self->lose(error.message());
                             self->on_idle_readable();
                           });
}

void HttpClient::Connection::on_idle_readable() {
  if (in_flight_) return;  // it was a response
  char byte = 0;
  const auto peeked =
      ::recv(link_->socket.native_handle(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
  if (peeked < 0 && (errno == EAGAIN || errno == EINTR)) return watch_idle();
  lose(peeked > 0 ? "the peer spoke unasked" : "the peer closed the connection");
}

void HttpClient::Connection::arm_timer() {
  if (queue_.empty()) {
    timer_.expires_at(TimePoint::min());
    return;
  }
  TimePoint next = TimePoint::max();
  for (const Pending& pending : queue_) next = std::min(next, pending.deadline);
  if (next == timer_.expiry()) return;
  timer_.expires_at(next);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && !self->stopped_) self->on_timer();
  });
}

void HttpClient::Connection::on_timer() {
  const TimePoint now = Clock::now();
  if (in_flight_ && queue_.front().deadline <= now) return fail_in_flight_late();
  expire(now);
}

void HttpClient::Connection::fail_in_flight_late() {
  Pending late = std::move(queue_.front());
  queue_.pop_front();
  const std::string what = fmt::format("{} {} was not answered within {} ms", late.call.method,
                                       late.call.target, late.call.timeout_ms);
  const auto self = shared_from_this();
  const LinkPtr link = link_;
  in_flight_ = false;
  late.callback(fail(ErrorCode::kTimeout, fmt::format("{}: {}", address_, what)));
  if (!stopped_ && is_current(link)) lose(what);
}

// Fails what waited too long behind others, or for a connection.
void HttpClient::Connection::expire(TimePoint now) {
  const auto self = shared_from_this();
  const bool connecting = link_ != nullptr && !link_->open;
  std::vector<Pending> late;
  for (auto it = queue_.begin(); it != queue_.end();) {
    if (it->deadline <= now && !(in_flight_ && it == queue_.begin())) {
      late.push_back(std::move(*it));
      it = queue_.erase(it);
    } else {
      ++it;
    }
  }
  if (connecting && queue_.empty()) disconnect();
  arm_timer();
  for (Pending& pending : late) {
    if (stopped_) return;
    Error error =
        connecting
            ? unreachable(fmt::format("no connection within {} ms", pending.call.timeout_ms))
            : Error{ErrorCode::kTimeout,
                    fmt::format("{}: {} {} waited {} ms for its turn", address_,
                                pending.call.method, pending.call.target, pending.call.timeout_ms)};
    pending.callback(fail(std::move(error)));
  }
}

void HttpClient::Connection::lose(const std::string& why) {
  const auto self = shared_from_this();
  const bool was_open = connected();
  std::deque<Pending> failed;
  failed.swap(queue_);
  disconnect();
  arm_timer();
  for (Pending& pending : failed) {
    if (stopped_) return;
    pending.callback(fail(unreachable(why)));
  }
  if (!was_open || stopped_ || !on_closed) return;
  const auto told = on_closed;  // it may be replaced, or gone, when it returns
  told(unreachable(why));
}

void HttpClient::Connection::disconnect() {
  in_flight_ = false;
  const LinkPtr link = std::exchange(link_, nullptr);
  if (link == nullptr) return;
  error_code ignored;
  link->resolver.cancel();
  link->socket.close(ignored);
}

void HttpClient::Connection::close(const std::string& why) {
  const auto told = std::exchange(on_closed, nullptr);
  lose(why);
  if (!stopped_) on_closed = told;
}

void HttpClient::Connection::stop() {
  stopped_ = true;
  queue_.clear();
  timer_.cancel();
  on_closed = nullptr;
  disconnect();
}

Error HttpClient::Connection::unreachable(const std::string& why) const {
  return Error{ErrorCode::kPeerUnreachable, fmt::format("{}: {}", address_, why)};
}

HttpClient::HttpClient(asio::io_context& io, std::string address, HttpClientOptions options)
    : connection_(std::make_shared<Connection>(io, std::move(address), options)) {}
HttpClient::~HttpClient() { connection_->stop(); }

void HttpClient::request(HttpCall call, Callback callback) {
  connection_->request(std::move(call), std::move(callback));
}
void HttpClient::on_closed(std::function<void(Error)> callback) {
  connection_->on_closed = std::move(callback);
}
bool HttpClient::connected() const { return connection_->connected(); }
size_t HttpClient::queued() const { return connection_->queued(); }
void HttpClient::close(const std::string& why) { connection_->close(why); }

}  // namespace holdfast::daemon
