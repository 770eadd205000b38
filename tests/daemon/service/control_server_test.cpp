// What the control socket answers itself, and what it asks the coordinator's node for.
#include "daemon/service/control_server.h"

#include <gmock/gmock.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <fstream>
#include <thread>

#include "daemon/control/client.h"
#include "tests/daemon/http/loop_help.h"

namespace holdfast::daemon {
namespace {

using ::testing::HasSubstr;

// The server's loop runs on a thread of its own, as clients block.
class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() {
    ControlServerPorts ports{io_,
                             [] {
                               api::LocalStatus status;
                               status.node = NodeId("node-7");
                               return status;
                             },
                             [] { return api::Snapshots{}; },
                             [] { return std::string("holdfast_up 1\n"); },
                             folder_.path(),
                             2,
                             [this](const HttpRequest& request, const ControlAnswer& answer) {
                               asked_ = request.method + " " + request.target;
                               answer(answer_);
                             }};
    auto server = ControlServer::listen(socket(), std::move(ports));
    EXPECT_TRUE(server) << server.error().to_string();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~ControlServerTest() override {
    boost::asio::post(io_, [this] { server_.reset(); });
    work_.reset();
    boost::asio::post(io_, [this] { io_.stop(); });
    thread_.join();
  }
  std::filesystem::path socket() const { return folder_.path() / "control.sock"; }
  Result<boost::json::value> get(const std::string& target) const {
    return ControlClient(socket()).call("GET", target, nullptr, 5'000);
  }

  test::TemporaryFolder folder_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_ =
      boost::asio::make_work_guard(io_);
  std::string asked_;  // written by the loop, read after the answer
  Result<std::string> answer_ = fail(ErrorCode::kPeerUnreachable, "the seed is away");
  std::unique_ptr<ControlServer> server_;
  std::thread thread_;
};

TEST_F(ControlServerTest, StatusTellsOfThisNodeAlsoWhenNobodyElseAnswers) {
  const auto status = get("/v1/status");
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(status->at("local").at("node").as_string(), "node-7");
  EXPECT_FALSE(status->at("local").at("coordinator_reachable").as_bool());
}

TEST_F(ControlServerTest, OtherRequestsAreTheCoordinatorsAndKeepItsErrors) {
  answer_ = fail(ErrorCode::kJobUnknown, "there is no job named x");
  const auto job = get("/v1/jobs/x");
  ASSERT_FALSE(job);
  EXPECT_EQ(asked_, "GET /v1/jobs/x");
  EXPECT_EQ(job.error().code, ErrorCode::kJobUnknown);
  EXPECT_THAT(job.error().message, HasSubstr("no job named x"));
  answer_ = std::string("[1,2]");
  ASSERT_TRUE(get("/v1/nodes"));
  EXPECT_EQ(asked_, "GET /v1/nodes");
}

TEST_F(ControlServerTest, LogsAreTheLastLinesOfEverySlot) {
  std::ofstream(folder_.path() / "worker-0.log") << "one\ntwo\nthree\n";
  const auto logs = get("/v1/jobs/x/logs?lines=2");
  ASSERT_TRUE(logs) << logs.error().to_string();
  const std::string text = boost::json::serialize(*logs);
  EXPECT_THAT(text, HasSubstr("two"));
  EXPECT_THAT(text, HasSubstr("three"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("one")));
  for (const char* lines : {"many", "-1", "2x"})
    EXPECT_EQ(get(std::string("/v1/jobs/x/logs?lines=") + lines).error().code, ErrorCode::kUsage)
        << lines;
}

TEST_F(ControlServerTest, FollowersGetAnErrorBeforeTheFirstLineAndEventsAfterwards) {
  const ControlClient client(socket());
  const auto take = [](std::string_view) { return true; };
  EXPECT_EQ(client.stream("GET", "/v1/events?follow=1", take).error().code,
            ErrorCode::kPeerUnreachable);
  EventRecord event;
  event.sequence = 5;
  event.kind = "node_lost";
  answer_ = to_json_text(std::vector<EventRecord>{event});
  std::vector<std::string> lines;
  const Status streamed =
      client.stream("GET", "/v1/events?follow=1&since=5", [&](std::string_view line) {
        lines.emplace_back(line);
        return lines.size() < 2;
      });
  EXPECT_TRUE(streamed) << streamed.error().to_string();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], HasSubstr("node_lost"));
  EXPECT_THAT(asked_, HasSubstr("since=6")) << "it goes on behind the last one";
}

TEST_F(ControlServerTest, ASecondDaemonIsRefused) {
  boost::asio::io_context io;
  const auto second = ControlServer::listen(
      socket(), ControlServerPorts{io, {}, {}, {}, folder_.path(), 1, {}});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_THAT(second.error().message, HasSubstr("control.sock"));
}

TEST(NodeNames, AreSplitAtCommasAndChecked) {
  const auto two = node_names("node-1,b.2");
  ASSERT_TRUE(two);
  EXPECT_EQ(*two, (std::vector<NodeId>{NodeId("node-1"), NodeId("b.2")}));
  for (const char* text : {"", ",", "node-1,", ",node-1", "a,,b", "a b", "../x"}) {
    const auto names = node_names(text);
    ASSERT_FALSE(names) << text;
    EXPECT_EQ(names.error().code, ErrorCode::kUsage) << text;
  }
}

}  // namespace
}  // namespace holdfast::daemon
