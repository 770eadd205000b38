#include "daemon/control/client.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <chrono>
#include <thread>
#include <vector>

#include "daemon/http/error_body.h"
#include "daemon/http/server.h"
#include "tests/daemon/http/loop_help.h"

namespace holdfast::daemon {
namespace {

// A server on its own thread, as a daemon beside the program that asks.
class ControlClientTest : public testing::Test {
 protected:
  ControlClientTest() : path_(folder_.path() / "control.sock") {
    auto server = HttpServer::on_unix(
        io_, path_, {}, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          answer(request, std::move(reply));
        });
    EXPECT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~ControlClientTest() override {
    io_.stop();
    thread_.join();
  }

  void answer(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
    if (request.path() == "/echo") return send_json(*reply, request.body);
    if (request.path() == "/error") {
      const Error error{error_table()[std::stoul(std::string(request.query("row")))].code, "why"};
      return send_json(*reply, fail(error));
    }
    if (request.path() == "/text") return reply->send(200, "text/plain", "not JSON");
    if (request.path() == "/hold") {
      held_.push_back(std::move(reply));
      return;
    }
    if (request.path() == "/lines") {
      reply->begin_stream(kJsonLinesType);
      for (int i = 0; i < 1'000; ++i) reply->write(std::string(200, 'x') + std::to_string(i));
      return reply->end();
    }
    if (request.path() == "/endless") {
      reply->begin_stream(kJsonLinesType);
      reply->write("one");
      held_.push_back(std::move(reply));
      return;
    }
    send_json(*reply, fail(ErrorCode::kUsage, "no such path"));
  }

  const test::TemporaryFolder folder_;
  const std::filesystem::path path_;
  boost::asio::io_context io_;
  std::vector<std::shared_ptr<HttpReply>> held_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(ControlClientTest, CarriesJsonBothWays) {
  const boost::json::value body = {{"job", {{"name", "tiny"}, {"steps", 3}}}};
  const auto back = ControlClient(path_).call("POST", "/echo", body, 10'000);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, body);
}

TEST_F(ControlClientTest, EveryErrorComesBackAsItself) {
  for (size_t row = 0; row < error_table().size(); ++row) {
    const auto target = "/error?row=" + std::to_string(row);
    const auto result = ControlClient(path_).call("GET", target, {}, 10'000);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, error_table()[row].code);
    EXPECT_EQ(result.error().message, "why");
    const auto streamed =
        ControlClient(path_).stream("GET", target, [](std::string_view) { return true; });
    ASSERT_FALSE(streamed);
    EXPECT_EQ(streamed.error().code, error_table()[row].code);
  }
}

TEST_F(ControlClientTest, AnAnswerThatIsNoJsonIsABadMessage) {
  const auto result = ControlClient(path_).call("GET", "/text", {}, 10'000);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kBadMessage);
}

TEST_F(ControlClientTest, ASilentDaemonIsATimeout) {
  const auto result = ControlClient(path_).call("GET", "/hold", {}, 50);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
  EXPECT_NE(result.error().message.find(path_.string()), std::string::npos);
}

TEST_F(ControlClientTest, NoDaemonIsUnreachableAndNamesTheSocket) {
  for (const auto& path : {folder_.path() / "none.sock", folder_.path() / std::string(200, 'x')}) {
    const auto result = ControlClient(path).call("GET", "/echo", {}, 10'000);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kPeerUnreachable);
    EXPECT_NE(result.error().message.find(path.string()), std::string::npos);
  }
}

TEST_F(ControlClientTest, StreamsWholeLinesInOrder) {
  std::vector<std::string> lines;
  const auto status = ControlClient(path_).stream("GET", "/lines", [&](std::string_view line) {
    lines.emplace_back(line);
    return true;
  });
  ASSERT_TRUE(status) << status.error().message;
  ASSERT_EQ(lines.size(), 1'000u);
  for (int i = 0; i < 1'000; ++i) ASSERT_EQ(lines[i], std::string(200, 'x') + std::to_string(i));
}

TEST_F(ControlClientTest, StopsAStreamWhenTheReaderHasEnough) {
  int lines = 0;
  const auto status = ControlClient(path_).stream("GET", "/endless", [&](std::string_view line) {
    EXPECT_EQ(line, "one");
    ++lines;
    return false;
  });
  EXPECT_TRUE(status);
  EXPECT_EQ(lines, 1);
}

}  // namespace
}  // namespace holdfast::daemon
