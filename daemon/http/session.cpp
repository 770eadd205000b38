#include "daemon/http/session.h"

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "daemon/http/error_body.h"

namespace holdfast::daemon {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kReadBytes = 64 * 1024;
constexpr int64_t kDrainTimeoutMs = 1'000;

// Holds its session weakly: a handler may keep a reply for long after the client is gone.
class SessionReply final : public HttpReply {
 public:
  explicit SessionReply(std::weak_ptr<HttpSession> session) : session_(std::move(session)) {}
  ~SessionReply() override {
    if (state_ == State::kOpen) {
      const Error error{ErrorCode::kInternal, "the request was dropped without an answer"};
      send(http_status(error.code), kJsonType, encode_error_body(error));
    } else if (state_ == State::kStreaming) {
      end();
    }
  }
  void send(int status, std::string_view content_type, std::string body) override {
    CHECK(state_ == State::kOpen, "an HTTP request was answered twice");
    state_ = State::kDone;
    if (const auto session = session_.lock()) session->send(status, content_type, std::move(body));
  }
  void begin_stream(std::string_view content_type) override {
    CHECK(state_ == State::kOpen, "an HTTP request was answered twice");
    state_ = State::kStreaming;
    if (const auto session = session_.lock()) session->begin_stream(content_type);
  }
  void write(std::string_view line) override {
    CHECK(state_ == State::kStreaming, "a line was written to a stream that is not open");
    if (const auto session = session_.lock()) session->write_chunk(line);
  }
  void end() override {
    CHECK(state_ == State::kStreaming, "a stream was ended that is not open");
    state_ = State::kDone;
    if (const auto session = session_.lock()) session->end_stream();
  }
  bool closed() const override {
    const auto session = session_.lock();
    return session == nullptr || session->closed();
  }

 private:
  enum class State : uint8_t { kOpen, kStreaming, kDone };
  std::weak_ptr<HttpSession> session_;
  State state_ = State::kOpen;
};

}  // namespace

HttpSession::HttpSession(Socket socket, uint64_t id, std::shared_ptr<HttpServerCore> core)
    : socket_(std::move(socket)), id_(id), core_(std::move(core)), timer_(socket_.get_executor()) {}

void HttpSession::start() { next_request(); }

void HttpSession::close() {
  if (closed()) return;
  phase_ = Phase::kClosed;
  ++timer_round_;
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  queued_.clear();
  core_->sessions.erase(id_);
  if (!core_->on_closed || core_->stopped) return;
  // Later: whoever made the connection close may be in the midst of something.
  asio::post(socket_.get_executor(), [core = core_, id = id_] {
    if (!core->stopped) core->on_closed(id);
  });
}

void HttpSession::enter(Phase phase) {
  if (phase_ == phase) return;
  phase_ = phase;
  switch (phase) {
    case Phase::kIdle:
      return arm(core_->options.idle_timeout_ms);
    case Phase::kHeader:
      return arm(core_->options.header_timeout_ms);
    case Phase::kBody:
      return arm(core_->options.body_timeout_ms);
    case Phase::kDraining:
      return arm(kDrainTimeoutMs);
    case Phase::kAnswering:
    case Phase::kFlushing:
    case Phase::kClosed:
      break;  // writes have their own limit
  }
  ++timer_round_;
  timer_.cancel();
}

void HttpSession::arm(int64_t timeout_ms) {
  const uint64_t round = ++timer_round_;
  timer_.expires_after(std::chrono::milliseconds(timeout_ms));
  timer_.async_wait([self = shared_from_this(), round](const error_code& error) {
    if (!error && round == self->timer_round_) self->close();
  });
}

// One read is always outstanding unless unparsed bytes wait: this is how a client that goes away
// while its request is being answered is noticed.
void HttpSession::read_more() {
  if (reading_ || closed()) return;
  reading_ = true;
  socket_.async_read_some(input_.prepare(kReadBytes),
                          [self = shared_from_this()](const error_code& error, size_t bytes) {
                            self->on_read(error, bytes);
                          });
}

void HttpSession::on_read(const error_code& error, size_t bytes) {
  reading_ = false;
  if (closed()) return;
  if (error) return close();
  input_.commit(bytes);
  switch (phase_) {
    case Phase::kIdle:
    case Phase::kHeader:
    case Phase::kBody:
      return parse();
    case Phase::kDraining:
      input_.clear();
      return read_more();
    case Phase::kAnswering:
    case Phase::kFlushing:  // a pipelined request waits its turn
    case Phase::kClosed:
      return;
  }
}

void HttpSession::parse() {
  error_code error;
  while (input_.size() > 0 && !parser_->is_done()) {
    const size_t used = parser_->put(input_.data(), error);
    input_.consume(used);
    if (error) break;
  }
  if (error && error != http::error::need_more) return refuse(error);
  if (parser_->is_done()) return dispatch();
  if (parser_->is_header_done())
    enter(Phase::kBody);
  else if (parser_->got_some() || input_.size() > 0)
    enter(Phase::kHeader);
  read_more();
}

void HttpSession::refuse(const error_code& error) {
  int status = 400;
  if (error == http::error::body_limit) status = 413;
  if (error == http::error::header_limit) status = 431;
  keep_alive_ = false;
  enter(Phase::kAnswering);
  send(status, kJsonType,
       encode_error_body({ErrorCode::kBadMessage,
                          fmt::format("not a request that can be read: {}", error.message())}));
  read_more();
}

void HttpSession::dispatch() {
  auto message = parser_->release();
  HttpRequest request;
  request.connection = id_;
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  for (const auto& field : message)
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  request.body = std::move(message.body());
  enter(Phase::kAnswering);
  if (input_.size() == 0) read_more();
  const auto core = core_;  // the handler may destroy the server
  core->handler(std::move(request), std::make_shared<SessionReply>(weak_from_this()));
}

void HttpSession::next_request() {
  parser_.emplace();
  parser_->eager(true);
  parser_->body_limit(core_->options.max_body_bytes);
  head_only_ = false;
  phase_ = Phase::kIdle;
  arm(core_->options.idle_timeout_ms);
  if (input_.size() > 0)
    parse();
  else
    read_more();
}

std::string HttpSession::head(int status, std::string_view content_type,
                              std::optional<size_t> content_length) const {
  http::response<http::empty_body> response;
  response.result(static_cast<unsigned>(status));
  response.set(http::field::content_type,
               boost::beast::string_view(content_type.data(), content_type.size()));
  response.keep_alive(keep_alive_);
  if (content_length)
    response.content_length(*content_length);
  else
    response.chunked(true);
  std::ostringstream text;
  text << response.base();
  return text.str();
}

void HttpSession::send(int status, std::string_view content_type, std::string body) {
  if (closed()) return;
  queue(head(status, content_type, body.size()));
  if (!head_only_ && !body.empty()) queue(std::move(body));
  finish();
}

void HttpSession::begin_stream(std::string_view content_type) {
  if (closed()) return;
  queue(head(200, content_type, std::nullopt));
  write_more();
}

void HttpSession::write_chunk(std::string_view line) {
  if (closed() || head_only_) return;
  const std::string text = fmt::format("{}\n", line);
  queue(boost::beast::buffers_to_string(http::make_chunk(asio::buffer(text))));
  if (backlog_bytes_ > core_->options.max_backlog_bytes) return close();
  write_more();
}

void HttpSession::end_stream() {
  if (closed()) return;
  if (!head_only_) queue(boost::beast::buffers_to_string(http::make_chunk_last()));
  finish();
}

void HttpSession::queue(std::string bytes) {
  backlog_bytes_ += bytes.size();
  queued_.push_back(std::move(bytes));
}

void HttpSession::finish() {
  enter(Phase::kFlushing);
  write_more();
}

void HttpSession::write_more() {
  if (!writing_.empty() || queued_.empty()) return;
  writing_.swap(queued_);
  std::vector<asio::const_buffer> buffers;
  for (const std::string& bytes : writing_) buffers.emplace_back(asio::buffer(bytes));
  arm(core_->options.write_timeout_ms);
  asio::async_write(socket_, buffers, [self = shared_from_this()](const error_code& error, size_t) {
    self->on_written(error);
  });
}

void HttpSession::on_written(const error_code& error) {
  for (const std::string& bytes : writing_) backlog_bytes_ -= bytes.size();
  writing_.clear();
  if (closed()) return;
  if (error) return close();
  ++timer_round_;
  timer_.cancel();
  if (!queued_.empty()) return write_more();
  if (phase_ == Phase::kFlushing) on_all_written();
}

void HttpSession::on_all_written() {
  if (keep_alive_) return next_request();
  // Closing with unread bytes would reset the connection under the reply.
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  input_.clear();
  enter(Phase::kDraining);
  read_more();
}

}  // namespace holdfast::daemon
