#include "daemon/http/client.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "daemon/http/server.h"
#include "tests/daemon/http/loop_help.h"

namespace holdfast::daemon {
namespace {

using test::run_until;

// A server that answers only what it is told to.
class HttpClientTest : public testing::Test {
 protected:
  void start(const std::string& address = "127.0.0.1:0") {
    auto server = HttpServer::on_tcp(io_, address, {},
                                     [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                                       targets_.push_back(request.target);
                                       connections_.push_back(request.connection);
                                       if (request.target == "/hold")
                                         held_.push_back(std::move(reply));
                                       else
                                         reply->send(200, "text/plain", request.target);
                                     });
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    address_ = server_->address();
  }
  HttpClient::Callback keep() {
    return [this](Result<HttpResponse> response) {
      results_.push_back(response ? response->body
                                  : fmt::format("HF-{}", static_cast<int>(response.error().code)));
    };
  }
  static HttpCall get(const std::string& target, int64_t timeout_ms = 10'000) {
    return {"GET", target, {}, "", timeout_ms};
  }

  boost::asio::io_context io_;
  std::unique_ptr<HttpServer> server_;
  std::string address_;
  std::vector<std::string> targets_;
  std::vector<uint64_t> connections_;
  std::vector<std::shared_ptr<HttpReply>> held_;
  std::vector<std::string> results_;
};

TEST_F(HttpClientTest, ALostConnectionFailsAllThatIsQueuedAndThenTells) {
  start();
  HttpClient client(io_, address_);
  std::vector<std::string> order;
  client.on_closed([&](const Error& error) {
    EXPECT_EQ(error.code, ErrorCode::kPeerUnreachable);
    order.push_back(fmt::format("closed after {}", results_.size()));
  });
  client.request(get("/hold"), keep());
  client.request(get("/b"), keep());
  client.request(get("/c"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return held_.size() == 1; }));
  server_.reset();
  ASSERT_TRUE(run_until(io_, [&] { return !order.empty(); }));
  EXPECT_EQ(results_, (std::vector<std::string>{"HF-704", "HF-704", "HF-704"}));
  EXPECT_EQ(order, (std::vector<std::string>{"closed after 3"}));
}

TEST_F(HttpClientTest, AnIdleConnectionThatIsLostIsToldAtOnceAndTheNextRequestConnectsAnew) {
  start();
  HttpClient client(io_, address_);
  int closed = 0;
  client.on_closed([&](const Error&) { ++closed; });
  client.request(get("/a"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 1; }));
  EXPECT_TRUE(client.connected());
  server_.reset();
  ASSERT_TRUE(run_until(io_, [&] { return closed == 1; }));
  start(address_);
  client.request(get("/b"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 2; }));
  EXPECT_EQ(results_, (std::vector<std::string>{"/a", "/b"}));
}

TEST_F(HttpClientTest, NobodyListeningIsUnreachableAndNoLossOfAConnection) {
  start();
  server_.reset();
  HttpClient client(io_, address_);
  int closed = 0;
  client.on_closed([&](const Error&) { ++closed; });
  client.request(get("/a"), keep());
  client.request(get("/b"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 2; }));
  EXPECT_EQ(results_, (std::vector<std::string>{"HF-704", "HF-704"}));
  EXPECT_EQ(closed, 0);
  HttpClient nowhere(io_, "no-port");
  nowhere.request(get("/a"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 3; }));
  EXPECT_EQ(results_[2], "HF-704");
}

TEST_F(HttpClientTest, ARequestThatIsNotAnsweredInTimeTakesTheConnectionDown) {
  start();
  HttpClient client(io_, address_);
  client.request(get("/hold", 50), keep());
  client.request(get("/b"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 2; }));
  EXPECT_EQ(results_, (std::vector<std::string>{"HF-905", "HF-704"}));
  EXPECT_EQ(targets_, (std::vector<std::string>{"/hold"}));
  client.request(get("/c"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 3; }));
  EXPECT_EQ(results_[2], "/c");
}

TEST_F(HttpClientTest, ARequestThatWaitsTooLongForItsTurnIsNeverSent) {
  start();
  HttpClient client(io_, address_);
  client.request(get("/hold"), keep());
  client.request(get("/late", 20), keep());
  client.request(get("/c"), keep());
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 1 && held_.size() == 1; }));
  EXPECT_EQ(results_[0], "HF-905");
  held_[0]->send(200, "text/plain", "held");
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 3; }));
  EXPECT_EQ(results_, (std::vector<std::string>{"HF-905", "held", "/c"}));
  EXPECT_EQ(targets_, (std::vector<std::string>{"/hold", "/c"}));
}

TEST_F(HttpClientTest, TheQueueIsBounded) {
  start();
  HttpClientOptions options;
  options.max_queued = 2;
  HttpClient client(io_, address_, options);
  client.request(get("/a"), keep());
  client.request(get("/b"), keep());
  client.request(get("/c"), keep());
  EXPECT_TRUE(results_.empty());  // never called back from within
  ASSERT_TRUE(run_until(io_, [&] { return results_.size() == 3; }));
  EXPECT_EQ(results_, (std::vector<std::string>{"HF-906", "/a", "/b"}));
}

TEST_F(HttpClientTest, ACallbackMayAskAgainOrDestroyTheClient) {
  start();
  auto client = std::make_unique<HttpClient>(io_, address_);
  client->request(get("/a"), [&](Result<HttpResponse> response) {
    keep()(std::move(response));
    client->request(get("/b"), [&](Result<HttpResponse> second) {
      keep()(std::move(second));
      client.reset();
    });
    client->request(get("/never"), keep());
  });
  ASSERT_TRUE(run_until(io_, [&] { return client == nullptr; }));
  test::run_ready(io_);
  EXPECT_EQ(results_, (std::vector<std::string>{"/a", "/b"}));
}

TEST_F(HttpClientTest, EachFailureMayAskAgain) {
  start();
  server_.reset();
  HttpClient client(io_, address_);
  int failures = 0;
  std::function<void(Result<HttpResponse>)> again = [&](const Result<HttpResponse>& response) {
    EXPECT_FALSE(response);
    if (++failures < 50) client.request(get("/a"), again);
  };
  client.request(get("/a"), again);
  ASSERT_TRUE(run_until(io_, [&] { return failures == 50; }));
}

TEST_F(HttpClientTest, CarriesLargeBodiesBothWays) {
  std::string body(8 << 20, 'x');
  for (size_t i = 0; i < body.size(); i += 7) body[i] = static_cast<char>('a' + i % 26);
  auto server = HttpServer::on_tcp(io_, "127.0.0.1:0", {},
                                   [](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                                     reply->send(200, "text/plain", std::move(request.body));
                                   });
  ASSERT_TRUE(server);
  HttpClient client(io_, (*server)->address());
  std::string echoed;
  client.request({"POST", "/", {}, body, 20'000}, [&](Result<HttpResponse> response) {
    ASSERT_TRUE(response) << response.error().message;
    echoed = std::move(response->body);
  });
  ASSERT_TRUE(run_until(io_, [&] { return !echoed.empty(); }));
  EXPECT_TRUE(echoed == body);
}

}  // namespace
}  // namespace holdfast::daemon
