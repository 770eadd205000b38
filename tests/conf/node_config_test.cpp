// node.toml: the sample that is installed loads, sizes are read, bad values are told.
#include "conf/node_config.h"

#include <gmock/gmock.h>

namespace holdfast::conf {
namespace {

using ::testing::HasSubstr;

TEST(NodeConfigTest, TheSampleLoadsAndSaysWhatTheDefaultsAre) {
  const std::filesystem::path file = std::filesystem::path(HOLDFAST_SOURCE_DIR) / "conf/node.toml";
  const auto sample = load_node(file);
  ASSERT_TRUE(sample) << sample.error().to_string();
  const auto empty = parse_node("", "node.toml");
  ASSERT_TRUE(empty) << empty.error().to_string();
  // What the sample spells out is what a node gets that is told nothing.
  EXPECT_EQ(sample->cluster.heartbeat_ms, empty->cluster.heartbeat_ms);
  EXPECT_EQ(sample->cluster.missed_heartbeats, empty->cluster.missed_heartbeats);
  EXPECT_EQ(sample->cluster.daemon_grace_ms, empty->cluster.daemon_grace_ms);
  EXPECT_EQ(sample->cluster.quiesce_timeout_ms, empty->cluster.quiesce_timeout_ms);
  EXPECT_EQ(sample->cluster.arena_wait_ms, empty->cluster.arena_wait_ms);
  EXPECT_EQ(sample->worker.hang_timeout_ms, empty->worker.hang_timeout_ms);
  EXPECT_EQ(sample->worker.start_timeout_ms, empty->worker.start_timeout_ms);
  EXPECT_EQ(sample->worker.restart_backoff_ms, empty->worker.restart_backoff_ms);
  EXPECT_EQ(sample->fabric.timeout_ms, empty->fabric.timeout_ms);
  EXPECT_EQ(sample->fabric.address, empty->fabric.address);
  EXPECT_EQ(sample->worker.address, empty->worker.address);
  EXPECT_EQ(sample->control_socket, empty->control_socket);
  EXPECT_EQ(sample->state_dir, empty->state_dir);
}

TEST(NodeConfigTest, SizesHaveUnits) {
  EXPECT_EQ(parse_bytes("4096").value(), 4096u);
  EXPECT_EQ(parse_bytes("4096B").value(), 4096u);
  EXPECT_EQ(parse_bytes("64KiB").value(), 65'536u);
  EXPECT_EQ(parse_bytes("512 MiB").value(), uint64_t{512} << 20);
  EXPECT_EQ(parse_bytes("1GiB").value(), uint64_t{1} << 30);
  EXPECT_EQ(parse_bytes("2TiB").value(), uint64_t{2} << 40);
  for (const char* bad : {"", "GiB", "1 GB", "-1", "1.5GiB", "1GiBx", "99999999999999999999",
                          "16777216TiB", " 1"}) {
    const auto size = parse_bytes(bad);
    ASSERT_FALSE(size) << bad;
    EXPECT_EQ(size.error().code, ErrorCode::kConfigValue);
    EXPECT_THAT(size.error().message, HasSubstr("is not a size as 4096, 64KiB"));
  }
}

TEST(NodeConfigTest, FabricAndWorkersUseTheHostThatTheNodeListensOn) {
  const auto node = parse_node("listen = \"10.0.0.5:7400\"", "node.toml");
  ASSERT_TRUE(node) << node.error().to_string();
  EXPECT_EQ(node->fabric.address, "10.0.0.5");
  EXPECT_EQ(node->worker.address, "10.0.0.5");
  const auto v6 = parse_node("listen = \"[fd00::5]:7400\"", "node.toml");
  ASSERT_TRUE(v6) << v6.error().to_string();
  EXPECT_EQ(v6->fabric.address, "fd00::5");
  const auto own = parse_node("listen = \"10.0.0.5:7400\"\n[fabric]\naddress = \"10.1.0.5\"",
                              "node.toml");
  ASSERT_TRUE(own) << own.error().to_string();
  EXPECT_EQ(own->fabric.address, "10.1.0.5") << "another network for replication";
  EXPECT_EQ(own->worker.address, "10.0.0.5");
}

struct BadNode {
  std::string text;
  ErrorCode code;
  const char* says;
};

TEST(NodeConfigTest, WhatIsWrongIsNamed) {
  const BadNode table[] = {
      {"listen = \"nowhere\"", ErrorCode::kConfigValue, "listen = \"nowhere\" must be host:port"},
      {"name = \"rack 1/node\"", ErrorCode::kConfigValue, "name = \"rack 1/node\" must be 1 to 64"},
      {"name = \"\"", ErrorCode::kConfigValue, "name = \"\" must be 1 to 64"},
      {"name = \"a\\r\\nX-Role: seed\"", ErrorCode::kConfigValue, "must be 1 to 64 letters"},
      {"[cluster]\nname = \"a&b\"", ErrorCode::kConfigValue, "cluster.name = \"a&b\" must be 1 to"},
      {"[cluster]\nname = \"\"", ErrorCode::kConfigValue, "cluster.name = \"\" must be 1 to 64"},
      {"[cluster]\nname = \"" + std::string(65, 'a') + "\"", ErrorCode::kConfigValue,
       "must be 1 to 64 letters"},
      {"listen = \"host:70000\"", ErrorCode::kConfigValue, "must be host:port"},
      {"listen = \"0.0.0.0:7400\"", ErrorCode::kConfigValue,
       "is no address that other nodes could connect to"},
      {"[cluster]\nseed = \":7400\"", ErrorCode::kConfigValue, "cluster.seed = \":7400\""},
      {"[cluster]\nheartbeat_ms = 1", ErrorCode::kConfigValue,
       "cluster.heartbeat_ms = 1 is not in the range 10 to 60000"},
      {"[arena]\nsize = \"1 QiB\"", ErrorCode::kConfigValue, "arena.size must be a size as"},
      {"[arena]\nsize = \"4KiB\"", ErrorCode::kConfigValue, "arena.size = 4096"},
      {"[fabric]\nconnections = 9", ErrorCode::kConfigValue, "fabric.connections = 9"},
      {"[fabric]\nport = 65534", ErrorCode::kConfigValue, "fabric.port = 65534 is not in the range 1 to 65532"},
      {"[worker]\nslots = 0", ErrorCode::kConfigValue, "worker.slots = 0"},
      {"[worker]\nslot = 1", ErrorCode::kConfigUnknownKey, "did you mean worker.slots?"},
      {"listen = \"*:7400\"", ErrorCode::kConfigValue, "listen = \"*:7400\" is no address"},
      {"[fabric]\naddress = \"0.0.0.0\"", ErrorCode::kConfigValue,
       "fabric.address = \"0.0.0.0\" is no address that other nodes could connect to"},
      {"[worker]\naddress = \"\"", ErrorCode::kConfigValue, "worker.address = \"\" is no address"},
      {"listen = \"10.0.0.5:7400\"\n[worker]\naddress = \"127.0.0.1\"", ErrorCode::kConfigValue,
       "worker.address = \"127.0.0.1\" is reached from this node only, listen = \"10.0.0.5:7400\""},
      {"listen = \"10.0.0.5:7400\"\n[fabric]\naddress = \"localhost\"", ErrorCode::kConfigValue,
       "fabric.address = \"localhost\" is reached from this node only"},
      {"state_dir = \"state\"", ErrorCode::kConfigValue,
       "state_dir = \"state\" must be an absolute path"},
      {"control_socket = \"\"", ErrorCode::kConfigValue,
       "control_socket = \"\" must be an absolute path"},
      {"[arena]\npath = \"arena\"", ErrorCode::kConfigValue,
       "arena.path = \"arena\" must be an absolute path"},
      {"log_level = \"loud\"", ErrorCode::kConfigValue, "must be trace, debug, info, warn or error"},
      {"control_socket = \"/" + std::string(120, 'x') + "\"", ErrorCode::kConfigValue,
       "the path of a unix socket may have 107"},
      {"state_dir = \"/" + std::string(100, 'x') + "\"", ErrorCode::kConfigValue,
       "state_dir/worker.sock"},
  };
  for (const BadNode& bad : table) {
    const auto node = parse_node(bad.text, "/f/node.toml");
    ASSERT_FALSE(node) << bad.text;
    EXPECT_EQ(node.error().code, bad.code) << bad.text << ": " << node.error().to_string();
    EXPECT_THAT(node.error().message, HasSubstr(bad.says)) << bad.text;
    EXPECT_THAT(node.error().message, HasSubstr("/f/node.toml")) << bad.text;
  }
}

}  // namespace
}  // namespace holdfast::conf
