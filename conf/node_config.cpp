#include "conf/node_config.h"

#include <fmt/format.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <charconv>

#include "base/host_port.h"
#include "conf/files.h"
#include "conf/job_config.h"
#include "conf/range.h"
#include "conf/toml_table.h"

namespace holdfast::conf {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "node";
  return name.data();
}

void read_path(TomlTable& t, const char* key, std::filesystem::path& out) {
  std::string text = out.string();
  t.text(key, text);
  out = text;
}

Status valid_address(const char* key, const std::string& address) {
  if (parse_host_port(address)) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" must be host:port, as 10.0.0.5:7400", key, address));
}

// Of an address that is checked before anything is made of it; empty otherwise.
std::string host_of(const std::string& address) {
  const auto parsed = parse_host_port(address);
  return parsed ? parsed->host : "";
}
bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

// What we listen on is what other nodes are told to connect to.
Status reachable(const char* key, const std::string& value, const std::string& host,
                 const char* example) {
  if (!host.empty() && host != "0.0.0.0" && host != "::" && host != "*") return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" is no address that other nodes could connect to; give this "
                          "node's own, as {}",
                          key, value, example));
}

// A node that others reach by its own address must be reached there by their fabric and workers too.
Status as_far_as_listen(const char* key, const std::string& host, const std::string& listen) {
  RETURN_IF_ERROR(reachable(key, host, host, "10.0.0.5"));
  if (!is_loopback(host) || is_loopback(host_of(listen))) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" is reached from this node only, listen = \"{}\" from others; "
                          "leave it out to use the host of listen",
                          key, host, listen));
}

// The daemon's current folder is whatever its starter had.
Status absolute_path(const char* key, const std::filesystem::path& path) {
  if (path.is_absolute()) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" must be an absolute path", key, path.string()));
}

// It stands in URLs and in HTTP headers.
Status fit_name(const char* key, const std::string& name) {
  if (valid_name(name)) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" must be 1 to 64 letters, digits, '-', '_' or '.', and no "
                          "'.' in front",
                          key, name));
}

Status fits_socket(const char* key, const std::filesystem::path& path) {
  constexpr size_t kMost = sizeof(sockaddr_un::sun_path) - 1;
  if (path.string().size() <= kMost) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = \"{}\" has {} characters; the path of a unix socket may have {}", key,
                          path.string(), path.string().size(), kMost));
}

}  // namespace

Result<uint64_t> parse_bytes(const std::string& text) {
  struct Unit {
    const char* name;
    uint64_t factor;
  };
  constexpr std::array units = {Unit{"", 1},
                                Unit{"B", 1},
                                Unit{"KiB", uint64_t{1} << 10},
                                Unit{"MiB", uint64_t{1} << 20},
                                Unit{"GiB", uint64_t{1} << 30},
                                Unit{"TiB", uint64_t{1} << 40}};
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data(), end, number);
  if (code == std::errc()) {
    const char* unit = rest;
    while (unit != end && *unit == ' ') ++unit;
    for (const Unit& u : units)
      if (std::string(unit, end) == u.name && number <= UINT64_MAX / u.factor)
        return number * u.factor;
  }
  return fail(ErrorCode::kConfigValue,
              fmt::format("\"{}\" is not a size as 4096, 64KiB, 512MiB, 1GiB", text));
}

Status validate(const NodeConfig& node) {
  RETURN_IF_ERROR(fit_name("name", node.name.value));
  RETURN_IF_ERROR(fit_name("cluster.name", node.cluster.name));
  RETURN_IF_ERROR(valid_address("listen", node.listen));
  RETURN_IF_ERROR(reachable("listen", node.listen, host_of(node.listen), "10.0.0.5:7400"));
  RETURN_IF_ERROR(as_far_as_listen("fabric.address", node.fabric.address, node.listen));
  RETURN_IF_ERROR(as_far_as_listen("worker.address", node.worker.address, node.listen));
  RETURN_IF_ERROR(valid_address("cluster.seed", node.cluster.seed));
  RETURN_IF_ERROR(absolute_path("state_dir", node.state_dir));
  RETURN_IF_ERROR(absolute_path("control_socket", node.control_socket));
  RETURN_IF_ERROR(absolute_path("arena.path", node.arena.path));
  RETURN_IF_ERROR(fits_socket("control_socket", node.control_socket));
  RETURN_IF_ERROR(fits_socket("state_dir/worker.sock", node.state_dir / "worker.sock"));
  RETURN_IF_ERROR(in_range("cluster.heartbeat_ms", node.cluster.heartbeat_ms, 10, 60'000));
  RETURN_IF_ERROR(in_range("cluster.missed_heartbeats", node.cluster.missed_heartbeats, 2, 1'000));
  RETURN_IF_ERROR(in_range("cluster.daemon_grace_ms", node.cluster.daemon_grace_ms, 100, 3'600'000));
  RETURN_IF_ERROR(
      in_range("cluster.quiesce_timeout_ms", node.cluster.quiesce_timeout_ms, 100, 600'000));
  RETURN_IF_ERROR(in_range("cluster.arena_wait_ms", node.cluster.arena_wait_ms, 0, 3'600'000));
  RETURN_IF_ERROR(in_range("arena.size", node.arena.size_bytes, kLeastArenaBytes,
                           kMostArenaBytes));
  RETURN_IF_ERROR(in_range("fabric.timeout_ms", node.fabric.timeout_ms, 10, 600'000));
  RETURN_IF_ERROR(in_range("fabric.connections", node.fabric.connections, 0, 8));
  // Each connection has a port, from this one on; 0 connections may become four.
  const int ports = node.fabric.connections == 0 ? 4 : static_cast<int>(node.fabric.connections);
  if (node.fabric.port != 0)
    RETURN_IF_ERROR(in_range("fabric.port", node.fabric.port, 1, 65'535 - (ports - 1)));
  RETURN_IF_ERROR(in_range("worker.slots", node.worker.slots, 1, 64));
  RETURN_IF_ERROR(in_range("worker.first_device", node.worker.first_device, 0, 1023));
  RETURN_IF_ERROR(in_range("worker.start_timeout_ms", node.worker.start_timeout_ms, 100, 600'000));
  RETURN_IF_ERROR(in_range("worker.hang_timeout_ms", node.worker.hang_timeout_ms, 300, 3'600'000));
  RETURN_IF_ERROR(
      in_range("worker.restart_backoff_ms", node.worker.restart_backoff_ms, 1, 600'000));
  const std::set<std::string> levels = {"trace", "debug", "info", "warn", "error"};
  if (!levels.contains(node.log_level))
    return fail(ErrorCode::kConfigValue,
                fmt::format("log_level = \"{}\" must be trace, debug, info, warn or error",
                            node.log_level));
  return {};
}

Result<NodeConfig> parse_node(const std::string& toml, const std::filesystem::path& named) {
  ASSIGN_OR_RETURN(TomlTable root, TomlTable::parse(toml, named));
  NodeConfig node;
  node.name = NodeId(host_name());
  root.text("name", node.name.value);
  root.text("failure_domain", node.failure_domain);
  read_path(root, "state_dir", node.state_dir);
  read_path(root, "control_socket", node.control_socket);
  root.text("listen", node.listen);
  root.text("log_level", node.log_level);

  TomlTable cluster = root.table("cluster");
  cluster.text("name", node.cluster.name);
  cluster.text("seed", node.cluster.seed);
  cluster.integer("heartbeat_ms", node.cluster.heartbeat_ms);
  cluster.integer("missed_heartbeats", node.cluster.missed_heartbeats);
  cluster.integer("daemon_grace_ms", node.cluster.daemon_grace_ms);
  cluster.integer("quiesce_timeout_ms", node.cluster.quiesce_timeout_ms);
  cluster.integer("arena_wait_ms", node.cluster.arena_wait_ms);

  TomlTable arena = root.table("arena");
  read_path(arena, "path", node.arena.path);
  arena.bytes("size", node.arena.size_bytes);

  node.fabric.address = node.worker.address = host_of(node.listen);
  TomlTable fabric = root.table("fabric");
  fabric.text("provider", node.fabric.provider);
  fabric.text("address", node.fabric.address);
  fabric.integer("port", node.fabric.port);
  fabric.integer("timeout_ms", node.fabric.timeout_ms);
  fabric.integer("connections", node.fabric.connections);

  TomlTable worker = root.table("worker");
  worker.integer("slots", node.worker.slots);
  worker.integer("first_device", node.worker.first_device);
  worker.text("program", node.worker.program);
  worker.text("address", node.worker.address);
  worker.integer("start_timeout_ms", node.worker.start_timeout_ms);
  worker.integer("hang_timeout_ms", node.worker.hang_timeout_ms);
  worker.integer("restart_backoff_ms", node.worker.restart_backoff_ms);

  RETURN_IF_ERROR(root.finish());
  if (node.failure_domain.empty()) node.failure_domain = node.name.value;
  if (Status valid = validate(node); !valid)
    return fail(with_context(valid.error(), "in " + named.string()));
  return node;
}

Result<NodeConfig> load_node(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::string text, read_config_file(file));
  return parse_node(text, file);
}

}  // namespace holdfast::conf
