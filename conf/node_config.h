// node.toml: what one holdfastd is told; a key that is left out has the default that stands here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast::conf {

struct ClusterConfig {
  std::string name = "holdfast";       // peers of another name are refused
  std::string seed = "127.0.0.1:7400"; // peer address of the seed node, which runs the coordinator
  uint32_t heartbeat_ms = 100;
  uint32_t missed_heartbeats = 5;
  uint32_t daemon_grace_ms = 10'000;  // a lost daemon whose worker may still train
  uint32_t quiesce_timeout_ms = 3'000;
  uint32_t arena_wait_ms = 10'000;    // before going below the safe version
};

inline constexpr uint64_t kLeastArenaBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMostArenaBytes = uint64_t{1} << 50;

struct ArenaConfig {
  std::filesystem::path path = "/dev/shm/holdfast/arena";
  uint64_t size_bytes = uint64_t{1} << 30;  // written "1GiB" in the file
};

struct FabricConfig {
  std::string provider = "auto";  // auto: verbs, then tcp
  std::string address;  // default: the host of `listen`
  uint16_t port = 0;  // 0: any
  uint32_t timeout_ms = 5'000;
  uint32_t connections = 0;  // to each peer; 0: by provider and processors
};

struct WorkerConfig {
  uint32_t slots = 1;  // training processes on this node
  uint32_t first_device = 0;  // slot s computes on accelerator (first_device + s) mod their number
  std::string program;  // empty: holdfast-worker beside holdfastd
  std::string address;  // for collectives; default: the host of `listen`
  uint32_t start_timeout_ms = 20'000;
  uint32_t hang_timeout_ms = 2'000;  // a frozen progress counter, worker alive
  uint32_t restart_backoff_ms = 200;  // doubles up to 10 s
};

struct NodeConfig {
  NodeId name;                 // default: the host name
  std::string failure_domain;  // default: the node's name
  std::filesystem::path state_dir = "/var/lib/holdfast";
  std::filesystem::path control_socket = "/run/holdfast/control.sock";
  std::string listen = "127.0.0.1:7400";  // peer control
  std::string log_level = "info";
  ClusterConfig cluster;
  ArenaConfig arena;
  FabricConfig fabric;
  WorkerConfig worker;
};

Status validate(const NodeConfig& node);
Result<NodeConfig> load_node(const std::filesystem::path& file);
Result<NodeConfig> parse_node(const std::string& toml, const std::filesystem::path& named);
// "1GiB", "512 MiB", "4096" -> bytes; kConfigValue otherwise.
Result<uint64_t> parse_bytes(const std::string& text);

}  // namespace holdfast::conf
