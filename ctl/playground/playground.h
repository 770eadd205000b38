// A cluster on this machine: one holdfastd per node, each with its own state directory, arena and
// sockets under one folder. For trying Holdfast out, for tests and for benchmarks.
//
//   DIR/playground.json      what runs where
//   DIR/node-0/node.toml     written here, see conf/node.toml for the keys
//   DIR/node-0/control.sock  its control socket
//   DIR/node-0/holdfastd.log DIR/node-0/state/worker-0.log
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::ctl {

struct PlaygroundOptions {
  std::filesystem::path directory;
  uint32_t nodes = 4;
  uint64_t arena_bytes = uint64_t{256} << 20;  // of each node
  std::string log_level = "info";
  uint32_t daemon_grace_ms = 10'000;
  uint32_t arena_wait_ms = 10'000;
  std::filesystem::path programs;  // folder of holdfastd; empty: beside the running program
};

struct PlaygroundNode {
  std::string name;
  std::filesystem::path folder;
  std::filesystem::path control_socket;
  std::string listen;
  pid_t daemon_pid = 0;  // 0: not running
};

class Playground {
 public:
  // Makes the folder and writes every node.toml; starts nothing. kProcess when a playground already
  // runs in that folder; a stopped one is taken over with its state (`fresh` removes it first).
  static Result<Playground> create(const PlaygroundOptions& options, bool fresh);
  // The playground that create wrote there. kNotFound when there is none.
  static Result<Playground> open(const std::filesystem::path& directory);

  const std::vector<PlaygroundNode>& nodes() const { return nodes_; }
  const PlaygroundNode& node(const std::string& name) const;
  bool has_node(const std::string& name) const;
  const std::filesystem::path& directory() const { return options_.directory; }

  using Environment = std::vector<std::pair<std::string, std::string>>;
  // Starts one daemon and waits until its control socket answers (20 s at most). kAddressInUse when
  // it runs already.
  Status start_node(const std::string& name, const Environment& environment = {});
  // start_node for all, then waits until the seed counts all nodes up (20 s at most).
  Status start_all(const Environment& environment = {});

  // The pid of the node's worker; nullopt when none runs.
  Result<std::optional<pid_t>> worker_pid(const std::string& name) const;
  bool daemon_runs(const std::string& name) const;
  // Sends a signal to the daemon only; SIGKILL also waits until it is gone.
  Status signal_daemon(const std::string& name, int signal);
  // SIGKILLs daemon and worker together, as a machine that loses power.
  Status kill_node(const std::string& name);
  // Ends every daemon (SIGTERM, then SIGKILL after 10 s) and every worker that it left, removes arenas.
  Status stop_all();

 private:
  explicit Playground(PlaygroundOptions options) : options_(std::move(options)) {}
  Status write_node_files() const;
  Status save() const;
  PlaygroundNode& find(const std::string& name);
  std::filesystem::path arena_folder() const;
  // Workers of a node: the live ones that were started for its state folder.
  std::vector<pid_t> workers_of(const PlaygroundNode& node) const;

  PlaygroundOptions options_;
  std::vector<PlaygroundNode> nodes_;
};

}  // namespace holdfast::ctl
