// Reading a state through a control socket: in ranges, from whichever holder is good, and never what
// does not have its checksum.
#include "ctl/export/state_reader.h"

#include <gmock/gmock.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "base/checksum.h"
#include "daemon/service/control_server.h"
#include "daemon/service/shard_reading.h"
#include "tests/ctl/program.h"
#include "train/worker/base64.h"

namespace holdfast::ctl {
namespace {

namespace api = daemon::api;
using ::testing::HasSubstr;

constexpr const char* kKey = "00000000000000ab";

conf::ModelConfig model() {
  conf::ModelConfig model;
  model.vocabulary = 140'001;  // its embedding takes more than one range a shard
  model.layers = 1;
  model.width = 32;
  model.experts = 2;
  model.expert_width = 5;
  return model;
}

// Nodes a (asked first) and b hold everything, c is down. The server's loop runs on its own thread.
class StateReaderTest : public ::testing::Test {
 protected:
  StateReaderTest() : layout_(model(), 2) {
    for (const train::GroupSpec& group : layout_.groups())
      for (size_t i = 0; i < group.elements; ++i)
        values_.push_back(static_cast<float>(group.index.value * 1'000 + i % 4'093));
    daemon::ControlServerPorts ports{io_, {}, [] { return api::Snapshots{NodeId("a"), "", {}, {}}; },
                                     {}, {}, 1, {}};
    ports.cluster = [](const daemon::HttpRequest& request, const daemon::ControlAnswer& answer) {
      EXPECT_EQ(request.target, "/v1/nodes");
      std::vector<api::Node> nodes(3);
      nodes[0].node = NodeId("b");
      nodes[1].node = NodeId("a");
      nodes[2].node = NodeId("c");
      nodes[0].state = nodes[1].state = "up";
      nodes[2].state = "down";
      answer(to_json_text(nodes));
    };
    ports.shards = [this](const daemon::HttpRequest& request, const daemon::ControlAnswer& answer) {
      const auto query = daemon::parse_shard_query(request);
      ASSERT_TRUE(query) << query.error().to_string();
      EXPECT_EQ(query->job, 0xabu);
      EXPECT_EQ(query->state, state_);
      answer(query->shard ? range(*query) : list(*query));
    };
    auto server = daemon::ControlServer::listen(socket(), std::move(ports));
    EXPECT_TRUE(server) << server.error().to_string();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~StateReaderTest() override {
    boost::asio::post(io_, [this] { server_.reset(); });
    work_.reset();
    boost::asio::post(io_, [this] { io_.stop(); });
    thread_.join();
  }
  std::filesystem::path socket() const { return folder_.path() / "s"; }

  Result<std::string> list(const daemon::ShardQuery& query) {
    if (!query.hold) released_.insert(query.node.value);
    api::HeldShardList held{query.node, state_, true, {}};
    for (uint32_t flat = 0; flat < layout_.shard_count(); ++flat)
      if (flat != missing_) held.shards.push_back(ShardId::unflat(flat, layout_.slices()));
    return to_json_text(held);
  }
  Result<std::string> range(const daemon::ShardQuery& query) {
    ++ranges_[query.node.value];
    if (unreachable_.contains(query.node.value))
      return fail(ErrorCode::kPeerUnreachable, query.node.value + " does not answer");
    if (broken_.contains(query.node.value))
      return fail(ErrorCode::kBlockInvalid, query.node.value + " has a bad block");
    size_t begin = layout_.range(*query.shard).begin;
    for (uint32_t group = 0; group < query.shard->group.value; ++group)
      begin += layout_.group(GroupIndex(group)).elements;
    std::string bytes(query.length, '\0');
    std::memcpy(bytes.data(), reinterpret_cast<const char*>(values_.data() + begin) + query.offset,
                bytes.size());
    const uint64_t checksum = checksum64(bytes);
    if (garbling_.contains(query.node.value)) bytes[bytes.size() / 2] ^= 1;
    return to_json_text(api::ShardRange{query.node, *query.shard, state_,
                                        layout_.shard_bytes(*query.shard), query.offset, checksum,
                                        train::to_base64(bytes)});
  }
  Result<std::vector<float>> read() {
    std::vector<float> all;
    StateReader reader(daemon::ControlClient(socket()), kKey, state_, layout_);
    RETURN_IF_ERROR(reader.locate());
    RETURN_IF_ERROR(reader.read([&](std::span<const float> values) -> Status {
      EXPECT_LE(values.size() * sizeof(float), api::kMaxShardRangeBytes);
      all.insert(all.end(), values.begin(), values.end());
      return {};
    }));
    return all;
  }
  void expect_all_read() {
    const auto all = read();
    ASSERT_TRUE(all) << all.error().to_string();
    EXPECT_TRUE(*all == values_);
  }

  const StateVersion state_{Version(7), Epoch{3, 4}};
  const train::ParameterLayout layout_;
  std::vector<float> values_;  // every group's flat vector
  // Set before reading, looked at by the loop; written by the loop, looked at after the answers.
  std::set<std::string> broken_, garbling_, unreachable_;
  std::optional<uint32_t> missing_;
  std::set<std::string> released_;
  std::map<std::string, size_t> ranges_;

  test::Folder folder_;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_ =
      boost::asio::make_work_guard(io_);
  std::unique_ptr<daemon::ControlServer> server_;
  std::thread thread_;
};

TEST_F(StateReaderTest, EveryGroupIsReadInRangesFromTheNodeThatIsAsked) {
  expect_all_read();
  EXPECT_EQ(ranges_.size(), 1u);
  EXPECT_EQ(ranges_["a"], layout_.shard_count() + 4) << "embedding and head take two a shard";
  EXPECT_EQ(released_, (std::set<std::string>{"a", "b"}));
}

TEST_F(StateReaderTest, AHolderThatFailsIsLeftForTheNext) {
  broken_ = {"a"};
  expect_all_read();
  EXPECT_EQ(ranges_["a"], layout_.shard_count()) << "once a shard";
}

TEST_F(StateReaderTest, ANodeThatDoesNotAnswerIsNotWaitedForAgain) {
  unreachable_ = {"a"};
  expect_all_read();
  EXPECT_EQ(ranges_["a"], 1u);
}

TEST_F(StateReaderTest, BytesWithoutTheirChecksumAreNotTaken) {
  garbling_ = {"a"};
  expect_all_read();
  garbling_ = {"a", "b"};
  const auto all = read();
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code, ErrorCode::kBlockInvalid);
  EXPECT_THAT(all.error().message, HasSubstr("with another checksum"));
}

TEST_F(StateReaderTest, AShardThatNobodyHoldsIsNamed) {
  missing_ = 5;
  const auto all = read();
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code, ErrorCode::kBlockMissing);
  EXPECT_THAT(all.error().message, HasSubstr("holds g2/s1 at v7@3.4"));
  EXPECT_EQ(released_, (std::set<std::string>{"a", "b"}));
  EXPECT_TRUE(ranges_.empty());
}

}  // namespace
}  // namespace holdfast::ctl
