#include "daemon/http/server.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>
#include <vector>

#include "daemon/http/client.h"
#include "daemon/http/error_body.h"
#include "tests/daemon/http/loop_help.h"
#include "tests/daemon/http/raw_socket.h"

namespace holdfast::daemon {
namespace {

using test::RawSocket;
using test::run_until;

struct Served {
  HttpRequest request;
  std::shared_ptr<HttpReply> reply;
};

class HttpServerTest : public testing::Test {
 protected:
  void start(HttpServerOptions options = {}) {
    auto server = HttpServer::on_tcp(
        io_, "127.0.0.1:0", options,
        [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          served_.push_back({std::move(request), std::move(reply)});
          if (echo_) served_.back().reply->send(200, "text/plain", served_.back().request.body);
        },
        [this](uint64_t connection) { closed_.push_back(connection); });
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }

  boost::asio::io_context io_;
  std::vector<Served> served_;
  std::vector<uint64_t> closed_;
  bool echo_ = true;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersManyRequestsOnOneConnection) {
  start();
  HttpClient client(io_, server_->address());
  std::vector<std::string> bodies;
  for (int i = 0; i < 100; ++i)
    client.request(
        {"POST", "/echo?n=" + std::to_string(i), {{"X-Test", "yes"}}, fmt::format("b{}", i)},
        [&](Result<HttpResponse> response) {
          ASSERT_TRUE(response) << response.error().message;
          EXPECT_EQ(response->status, 200);
          EXPECT_EQ(response->content_type, "text/plain");
          bodies.push_back(response->body);
        });
  ASSERT_TRUE(run_until(io_, [&] { return bodies.size() == 100; }));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(bodies[i], fmt::format("b{}", i));
    EXPECT_EQ(served_[i].request.connection, served_[0].request.connection);
    EXPECT_EQ(served_[i].request.method, "POST");
    EXPECT_EQ(served_[i].request.path(), "/echo");
    EXPECT_EQ(served_[i].request.query("n"), std::to_string(i));
    EXPECT_EQ(find_header(served_[i].request.headers, "x-test"), "yes");
  }
  EXPECT_EQ(server_->connections(), 1u);
  EXPECT_TRUE(closed_.empty());
}

TEST_F(HttpServerTest, RepliesLaterAndToPipelinedRequestsInOrder) {
  start();
  echo_ = false;
  RawSocket raw(server_->address());
  raw.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  served_[0].reply->send(200, "text/plain", "first");
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 2; }));
  EXPECT_EQ(served_[1].request.target, "/b");
  served_[1].reply->send(404, "text/plain", "second");
  std::string text;
  ASSERT_TRUE(run_until(io_, [&] {
    (void)raw.receive(text);
    return text.ends_with("second");
  }));
  EXPECT_LT(text.find("first"), text.find("404"));
}

TEST_F(HttpServerTest, NoticesAClientThatLeavesWhileItsRequestIsAnswered) {
  start();
  echo_ = false;
  RawSocket raw(server_->address());
  raw.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  EXPECT_FALSE(served_[0].reply->closed());
  raw.close();
  ASSERT_TRUE(run_until(io_, [&] { return closed_.size() == 1; }));
  EXPECT_EQ(closed_[0], served_[0].request.connection);
  EXPECT_TRUE(served_[0].reply->closed());
  served_[0].reply->send(200, "text/plain", "into the void");
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(HttpServerTest, ADroppedReplyAnswersWithAnInternalError) {
  start();
  echo_ = false;
  HttpClient client(io_, server_->address());
  int status = 0;
  client.request({"GET", "/", {}, ""}, [&](Result<HttpResponse> response) {
    ASSERT_TRUE(response);
    status = response->status;
    EXPECT_EQ(decode_error_body(status, response->body, "test").code, ErrorCode::kInternal);
  });
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  served_.clear();
  ASSERT_TRUE(run_until(io_, [&] { return status != 0; }));
  EXPECT_EQ(status, 500);
}

TEST_F(HttpServerTest, RefusesBodiesAboveTheLimit) {
  HttpServerOptions options;
  options.max_body_bytes = 1'000;
  start(options);
  HttpClient client(io_, server_->address());
  std::vector<int> status;
  const auto keep = [&](Result<HttpResponse> response) {
    ASSERT_TRUE(response) << response.error().message;
    status.push_back(response->status);
  };
  client.request({"POST", "/", {}, std::string(1'000, 'x')}, keep);
  client.request({"POST", "/", {}, std::string(1'001, 'x')}, keep);
  ASSERT_TRUE(run_until(io_, [&] { return status.size() == 2; }));
  EXPECT_EQ(status, (std::vector<int>{200, 413}));
  EXPECT_EQ(served_.size(), 1u);
}

TEST_F(HttpServerTest, RefusesWhatIsNoRequest) {
  start();
  for (const std::string& bytes :
       {std::string("\x16\x03\x01 hello\r\n\r\n"),
        "GET / HTTP/1.1\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n"}) {
    RawSocket raw(server_->address());
    raw.send(bytes);
    std::string text;
    ASSERT_TRUE(run_until(io_, [&] { return raw.receive(text); }));
    EXPECT_TRUE(text.starts_with("HTTP/1.1 4")) << text;
  }
  EXPECT_TRUE(served_.empty());
}

TEST_F(HttpServerTest, ClosesARequestThatNeverEnds) {
  HttpServerOptions options;
  options.header_timeout_ms = 30;
  options.body_timeout_ms = 30;
  start(options);
  for (const char* begun :
       {"GET / HT", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"}) {
    RawSocket raw(server_->address());
    raw.send(begun);
    const size_t before = closed_.size();
    ASSERT_TRUE(run_until(io_, [&] { return closed_.size() == before + 1; })) << begun;
  }
  EXPECT_TRUE(served_.empty());
}

TEST_F(HttpServerTest, TurnsAwayMoreThanMaxConnections) {
  HttpServerOptions options;
  options.max_connections = 2;
  start(options);
  RawSocket one(server_->address());
  RawSocket two(server_->address());
  ASSERT_TRUE(run_until(io_, [&] { return server_->connections() == 2; }));
  RawSocket three(server_->address());
  std::string text;
  ASSERT_TRUE(run_until(io_, [&] { return three.receive(text); }));
  EXPECT_EQ(text, "");
  one.close();
  ASSERT_TRUE(run_until(io_, [&] { return server_->connections() == 1; }));
  RawSocket four(server_->address());
  ASSERT_TRUE(run_until(io_, [&] { return server_->connections() == 2; }));
}

TEST_F(HttpServerTest, StreamsLines) {
  start();
  echo_ = false;
  HttpClient client(io_, server_->address());
  std::string body;
  client.request({"GET", "/stream", {}, ""}, [&](Result<HttpResponse> response) {
    ASSERT_TRUE(response) << response.error().message;
    EXPECT_EQ(response->content_type, kJsonLinesType);
    body = response->body;
  });
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  served_[0].reply->begin_stream(kJsonLinesType);
  std::string wanted;
  for (int i = 0; i < 1'000; ++i) {
    served_[0].reply->write(std::to_string(i));
    wanted += std::to_string(i) + "\n";
  }
  served_[0].reply->end();
  ASSERT_TRUE(run_until(io_, [&] { return !body.empty(); }));
  EXPECT_EQ(body, wanted);
}

TEST_F(HttpServerTest, DropsAStreamWhoseClientDoesNotRead) {
  HttpServerOptions options;
  options.max_backlog_bytes = 100'000;
  start(options);
  echo_ = false;
  RawSocket raw(server_->address());
  raw.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  HttpReply& reply = *served_[0].reply;
  reply.begin_stream(kJsonLinesType);
  const std::string line(10'000, 'x');
  int lines = 0;
  while (!reply.closed() && lines < 10'000) {
    reply.write(line);
    ++lines;
    test::run_ready(io_);
  }
  EXPECT_TRUE(reply.closed());
  ASSERT_TRUE(run_until(io_, [&] { return closed_.size() == 1; }));
}

TEST_F(HttpServerTest, ClosesAConnectionThatItsOwnerNames) {
  start();
  HttpClient client(io_, server_->address());
  std::string why;
  client.on_closed([&](const Error& error) { why = error.message; });
  bool answered = false;
  client.request({"GET", "/", {}, ""}, [&](Result<HttpResponse>) { answered = true; });
  ASSERT_TRUE(run_until(io_, [&] { return answered; }));
  server_->close(served_[0].request.connection);
  ASSERT_TRUE(run_until(io_, [&] { return closed_.size() == 1 && !why.empty(); }));
  EXPECT_FALSE(client.connected());
}

TEST_F(HttpServerTest, SaysThatItsPortIsTaken) {
  start();
  const auto second = HttpServer::on_tcp(io_, server_->address(), {}, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_NE(second.error().message.find(server_->address()), std::string::npos);
}

TEST_F(HttpServerTest, EndsWithRequestsOpen) {
  start();
  echo_ = false;
  RawSocket raw(server_->address());
  raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(run_until(io_, [&] { return served_.size() == 1; }));
  server_.reset();
  served_[0].reply->send(200, "text/plain", "late");
  std::string text;
  ASSERT_TRUE(run_until(io_, [&] { return raw.receive(text); }));
  EXPECT_EQ(text, "");
  test::run_ready(io_);
  EXPECT_TRUE(closed_.empty());
}

TEST(UnixServer, HasModeReplacesTheDeadAndRespectsTheLiving) {
  boost::asio::io_context io;
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "control.sock";
  {  // what a killed process leaves: a bound socket that nobody listens on
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof(address.sun_path) - 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(fd);
  }
  const HttpHandler handler = [](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    reply->send(200, "text/plain", "");
  };
  auto first = HttpServer::on_unix(io, path, {}, handler);
  ASSERT_TRUE(first) << first.error().message;
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
  const auto second = HttpServer::on_unix(io, path, {}, handler);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_TRUE(std::filesystem::exists(path));
  first->reset();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(UnixServer, NeverReplacesAnotherKindOfFile) {
  boost::asio::io_context io;
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "notes.txt";
  std::ofstream(path) << "precious";
  const auto server = HttpServer::on_unix(io, path, {}, {});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().code, ErrorCode::kAddressInUse);
  EXPECT_EQ(std::filesystem::file_size(path), 8u);
}

}  // namespace
}  // namespace holdfast::daemon
