#include "daemon/control/client.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <optional>

#include "base/json.h"
#include "daemon/http/error_body.h"
#include "daemon/http/messages.h"

namespace holdfast::daemon {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Local = asio::local::stream_protocol;
using Clock = std::chrono::steady_clock;

constexpr int64_t kStreamBeginMs = 5'000;
constexpr size_t kMaxLineBytes = size_t{1} << 20;
constexpr size_t kReadBytes = 64 * 1024;

boost::beast::string_view beast_view(std::string_view text) { return {text.data(), text.size()}; }

// One connection; every operation is started on its own loop and waited for until the deadline.
class Exchange {
 public:
  explicit Exchange(std::string path) : path_(std::move(path)), socket_(io_) {}

  void set_deadline(std::optional<Clock::time_point> deadline) { deadline_ = deadline; }

  Status connect() {
    Local::endpoint endpoint;
    try {
      endpoint = Local::endpoint(path_);
    } catch (const std::exception& error) {  // a path longer than a socket address holds
      return fail(ErrorCode::kPeerUnreachable, fmt::format("{}: {}", path_, error.what()));
    }
    return run("connect to", [&](auto done) { socket_.async_connect(endpoint, done); });
  }

  Status send(const http::request<http::string_body>& request) {
    return run("send to", [&](auto done) {
      http::async_write(socket_, request, [done](const error_code& e, size_t) mutable { done(e); });
    });
  }

  template <class Parser>
  Status read_header(Parser& parser) {
    return run("hear from", [&](auto done) {
      http::async_read_header(socket_, input_, parser,
                              [done](const error_code& e, size_t) mutable { done(e); });
    });
  }
  template <class Parser>
  Status read_body(Parser& parser) {
    return run("hear from", [&](auto done) {
      http::async_read(socket_, input_, parser,
                       [done](const error_code& e, size_t) mutable { done(e); });
    });
  }
  template <class Parser>
  Status read_some(Parser& parser) {
    return run("hear from", [&](auto done) {
      http::async_read_some(socket_, input_, parser,
                            [done](const error_code& e, size_t) mutable { done(e); });
    });
  }

 private:
  template <class Start>
  Status run(std::string_view doing, Start start) {
    std::optional<error_code> result;
    start([&result](const error_code& error) { result = error; });
    io_.restart();
    if (deadline_)
      io_.run_until(*deadline_);
    else
      io_.run();
    if (!result) {
      error_code ignored;
      socket_.close(ignored);
      io_.run();  // the operation ends before what it refers to does
      return fail(ErrorCode::kTimeout,
                  fmt::format("the daemon at {} did not answer in time", path_));
    }
    if (*result && *result != http::error::need_buffer)
      return fail(ErrorCode::kPeerUnreachable,
                  fmt::format("cannot {} a daemon at {}: {}", doing, path_, result->message()));
    return {};
  }

  const std::string path_;
  asio::io_context io_;
  Local::socket socket_;
  boost::beast::flat_buffer input_;
  std::optional<Clock::time_point> deadline_;
};

Clock::time_point after_ms(int64_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }

http::request<http::string_body> make_request(const std::string& method, const std::string& target,
                                              std::string body) {
  http::request<http::string_body> request;
  request.method_string(beast_view(method));
  request.target(beast_view(target));
  request.set(http::field::host, "localhost");
  request.keep_alive(false);
  if (!body.empty()) request.set(http::field::content_type, beast_view(kJsonType));
  request.body() = std::move(body);
  request.prepare_payload();
  return request;
}

// Cuts what arrives into lines.
class Lines {
 public:
  explicit Lines(const std::function<bool(std::string_view)>& on_line) : on_line_(on_line) {}

  // False: the reader wants no more.
  bool add(std::string_view bytes) {
    rest_ += bytes;
    size_t begin = 0;
    for (size_t end; (end = rest_.find('\n', begin)) != std::string::npos; begin = end + 1)
      if (!on_line_(std::string_view(rest_).substr(begin, end - begin))) return false;
    rest_.erase(0, begin);
    return true;
  }
  size_t incomplete_bytes() const { return rest_.size(); }

 private:
  const std::function<bool(std::string_view)>& on_line_;
  std::string rest_;
};

}  // namespace

Result<boost::json::value> ControlClient::call(const std::string& method, const std::string& target,
                                               const boost::json::value& body,
                                               int64_t timeout_ms) const {
  const std::string what = fmt::format("{} {}", method, target);
  const auto request =
      make_request(method, target, body.is_null() ? "" : boost::json::serialize(body));
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxHttpBodyBytes);
  Exchange exchange(socket_.string());
  exchange.set_deadline(after_ms(timeout_ms));
  RETURN_IF_ERROR(exchange.connect());
  RETURN_IF_ERROR(exchange.send(request));
  RETURN_IF_ERROR(exchange.read_body(parser));
  const int status = static_cast<int>(parser.get().result_int());
  const std::string& text = parser.get().body();
  if (status != 200) return fail(decode_error_body(status, text, what));
  return parse_json(text, what);
}

Status ControlClient::stream(const std::string& method, const std::string& target,
                             const std::function<bool(std::string_view)>& on_line) const {
  const auto request = make_request(method, target, "");
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  Exchange exchange(socket_.string());
  exchange.set_deadline(after_ms(kStreamBeginMs));
  RETURN_IF_ERROR(exchange.connect());
  RETURN_IF_ERROR(exchange.send(request));
  RETURN_IF_ERROR(exchange.read_header(parser));
  const int status = static_cast<int>(parser.get().result_int());
  const bool failed = status != 200;
  if (!failed) exchange.set_deadline(std::nullopt);

  std::string error_body;
  Lines lines(on_line);
  std::array<char, kReadBytes> chunk;
  while (!parser.is_done()) {
    parser.get().body().data = chunk.data();
    parser.get().body().size = chunk.size();
    RETURN_IF_ERROR(exchange.read_some(parser));
    const std::string_view got(chunk.data(), chunk.size() - parser.get().body().size);
    if (failed)
      error_body += got;
    else if (!lines.add(got))
      return {};
    if (error_body.size() > kMaxHttpBodyBytes || lines.incomplete_bytes() > kMaxLineBytes)
      return fail(ErrorCode::kBadMessage, fmt::format("{} {}: a line without end", method, target));
  }
  if (failed)
    return fail(decode_error_body(status, error_body, fmt::format("{} {}", method, target)));
  return {};
}

}  // namespace holdfast::daemon
