#include "ctl/playground/playground.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/check.h"
#include "base/checksum.h"
#include "base/json.h"
#include "ctl/playground/ports.h"
#include "ctl/playground/process.h"
#include "daemon/control/client.h"

namespace holdfast::ctl {
namespace fs = std::filesystem;

struct SavedNode {
  std::string name;
  std::string listen;
  int64_t daemon_pid = 0;
};
BOOST_DESCRIBE_STRUCT(SavedNode, (), (name, listen, daemon_pid))
struct SavedPlayground {
  uint64_t arena_bytes = 0;
  std::string log_level;
  uint32_t daemon_grace_ms = 0;
  uint32_t arena_wait_ms = 0;
  std::string programs;
  std::vector<SavedNode> nodes;
};
BOOST_DESCRIBE_STRUCT(SavedPlayground, (),
                      (arena_bytes, log_level, daemon_grace_ms, arena_wait_ms, programs, nodes))

namespace {

constexpr int64_t kStartTimeoutMs = 20'000;
constexpr int64_t kStopTimeoutMs = 10'000;
constexpr auto kPoll = std::chrono::milliseconds(20);

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

fs::path state_folder(const PlaygroundNode& node) { return node.folder / "state"; }

}  // namespace

fs::path Playground::arena_folder() const {
  const std::string name = fs::absolute(options_.directory).lexically_normal().string();
  return fmt::format("/dev/shm/holdfast-playground-{:016x}", checksum64(name));
}

Result<Playground> Playground::create(const PlaygroundOptions& options, bool fresh) {
  PlaygroundOptions kept = options;
  kept.directory = fs::absolute(options.directory).lexically_normal();
  if (kept.programs.empty()) kept.programs = program_folder();

  if (auto existing = open(kept.directory)) {
    for (const PlaygroundNode& node : existing->nodes())
      if (node.daemon_pid != 0)
        return fail(ErrorCode::kProcess,
                    fmt::format("a playground runs in {} already; `holdfastctl playground stop "
                                "--dir {}` ends it",
                                kept.directory.string(), kept.directory.string()));
  }
  Playground playground(kept);
  std::error_code error;
  if (fresh) {
    for (uint32_t i = 0; i < kept.nodes; ++i)
      fs::remove_all(kept.directory / fmt::format("node-{}", i), error);
    fs::remove_all(playground.arena_folder(), error);
  }
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports,
                   choose_ports(kept.nodes, checksum64(kept.directory.string())));
  for (uint32_t i = 0; i < kept.nodes; ++i) {
    PlaygroundNode node;
    node.name = fmt::format("node-{}", i);
    node.folder = kept.directory / node.name;
    node.control_socket = node.folder / "control.sock";
    node.listen = fmt::format("127.0.0.1:{}", ports[i]);
    playground.nodes_.push_back(node);
  }
  RETURN_IF_ERROR(playground.write_node_files());
  RETURN_IF_ERROR(playground.save());
  return playground;
}

Result<Playground> Playground::open(const fs::path& directory) {
  const fs::path file = fs::absolute(directory).lexically_normal() / "playground.json";
  std::ifstream in(file);
  if (!in) return fail(ErrorCode::kNotFound, fmt::format("no playground in {}", directory.string()));
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  ASSIGN_OR_RETURN(const SavedPlayground saved,
                   from_json_text<SavedPlayground>(text, file.string()));
  PlaygroundOptions options;
  options.directory = file.parent_path();
  options.nodes = static_cast<uint32_t>(saved.nodes.size());
  options.arena_bytes = saved.arena_bytes;
  options.log_level = saved.log_level;
  options.daemon_grace_ms = saved.daemon_grace_ms;
  options.arena_wait_ms = saved.arena_wait_ms;
  options.programs = saved.programs;
  Playground playground(options);
  for (const SavedNode& s : saved.nodes) {
    PlaygroundNode node;
    node.name = s.name;
    node.folder = options.directory / s.name;
    node.control_socket = node.folder / "control.sock";
    node.listen = s.listen;
    const pid_t pid = static_cast<pid_t>(s.daemon_pid);
    if (pid != 0 && process_runs(pid, "holdfastd")) node.daemon_pid = pid;
    playground.nodes_.push_back(node);
  }
  return playground;
}

Status Playground::save() const {
  SavedPlayground saved{options_.arena_bytes,     options_.log_level, options_.daemon_grace_ms,
                        options_.arena_wait_ms,   options_.programs.string(), {}};
  for (const PlaygroundNode& node : nodes_)
    saved.nodes.push_back({node.name, node.listen, node.daemon_pid});
  const fs::path file = options_.directory / "playground.json";
  const fs::path temporary = file.string() + ".new";
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << to_json_text(saved) << "\n";
    if (!out.flush()) return fail(ErrorCode::kFileIo, "cannot write " + temporary.string());
  }
  std::error_code error;
  fs::rename(temporary, file, error);
  if (error) return fail(ErrorCode::kFileIo, fmt::format("{}: {}", file.string(), error.message()));
  return {};
}

Status Playground::write_node_files() const {
  std::error_code error;
  fs::create_directories(arena_folder(), error);
  if (error)
    return fail(ErrorCode::kFileIo,
                fmt::format("{}: {}", arena_folder().string(), error.message()));
  for (const PlaygroundNode& node : nodes_) {
    fs::create_directories(state_folder(node), error);
    if (error)
      return fail(ErrorCode::kFileIo, fmt::format("{}: {}", node.folder.string(), error.message()));
    const fs::path file = node.folder / "node.toml";
    std::ofstream out(file, std::ios::trunc);
    out << fmt::format(
        "name = \"{}\"\nstate_dir = \"{}\"\ncontrol_socket = \"{}\"\nlisten = \"{}\"\n"
        "log_level = \"{}\"\n\n[cluster]\nname = \"playground\"\nseed = \"{}\"\n"
        "daemon_grace_ms = {}\narena_wait_ms = {}\n\n[arena]\npath = \"{}\"\nsize = \"{}\"\n\n"
        "[fabric]\nprovider = \"tcp\"\naddress = \"127.0.0.1\"\n\n[worker]\naddress = "
        "\"127.0.0.1\"\nfirst_device = {}\n",
        node.name, state_folder(node).string(), node.control_socket.string(), node.listen,
        options_.log_level, nodes_.front().listen, options_.daemon_grace_ms,
        options_.arena_wait_ms, (arena_folder() / (node.name + ".arena")).string(),
        options_.arena_bytes, &node - nodes_.data());
    if (!out.flush()) return fail(ErrorCode::kFileIo, "cannot write " + file.string());
  }
  return {};
}

PlaygroundNode& Playground::find(const std::string& name) {
  for (PlaygroundNode& node : nodes_)
    if (node.name == name) return node;
  CHECK(false, "no node {} in the playground", name);
}
const PlaygroundNode& Playground::node(const std::string& name) const {
  return const_cast<Playground*>(this)->find(name);
}
bool Playground::has_node(const std::string& name) const {
  for (const PlaygroundNode& node : nodes_)
    if (node.name == name) return true;
  return false;
}

Status Playground::start_node(const std::string& name, const Environment& environment) {
  PlaygroundNode& node = find(name);
  if (daemon_runs(name))
    return fail(ErrorCode::kAddressInUse, fmt::format("{} runs already, pid {}, and answers on {}", name,
                                                      node.daemon_pid, node.control_socket.string()));
  ProcessOptions process;
  process.program = options_.programs / "holdfastd";
  process.arguments = {"--config", (node.folder / "node.toml").string()};
  process.environment = environment;
  process.output = node.folder / "holdfastd.log";
  ASSIGN_OR_RETURN(node.daemon_pid, start_process(process));
  RETURN_IF_ERROR(save());

  const int64_t deadline = now_ms() + kStartTimeoutMs;
  while (now_ms() < deadline) {
    // Its end first: should something else answer on that socket, then it is not this one.
    if (wait_gone(node.daemon_pid, kPoll.count())) {
      node.daemon_pid = 0;
      RETURN_IF_ERROR(save());
      return fail(ErrorCode::kProcess, fmt::format("{} ended at once; the reason is in {}", name,
                                                   process.output.string()));
    }
    if (daemon::ControlClient(node.control_socket).call("GET", "/v1/status", {}, 1'000)) return {};
  }
  return fail(ErrorCode::kTimeout,
              fmt::format("{} did not answer on {} within {} s; see {}", name,
                          node.control_socket.string(), kStartTimeoutMs / 1000,
                          process.output.string()));
}

Status Playground::start_all(const Environment& environment) {
  for (const PlaygroundNode& node : nodes_) RETURN_IF_ERROR(start_node(node.name, environment));
  const int64_t deadline = now_ms() + kStartTimeoutMs;
  while (now_ms() < deadline) {
    auto status =
        daemon::ControlClient(nodes_.front().control_socket).call("GET", "/v1/status", {}, 1'000);
    if (status && status->is_object()) {
      const auto* up = status->as_object().if_contains("nodes_up");
      if (up != nullptr && up->is_number() &&
          up->to_number<uint64_t>() == nodes_.size())
        return {};
    }
    std::this_thread::sleep_for(kPoll);  // polling a person's interface: there is nothing to wait on
  }
  return fail(ErrorCode::kTimeout,
              fmt::format("not all {} nodes joined {} within {} s", nodes_.size(),
                          nodes_.front().name, kStartTimeoutMs / 1000));
}

std::vector<pid_t> Playground::workers_of(const PlaygroundNode& node) const {
  // By what they were started with: also one that its daemon has started just now.
  return processes_with("holdfast-worker", {"--state-dir", state_folder(node).string()});
}

Result<std::optional<pid_t>> Playground::worker_pid(const std::string& name) const {
  const std::vector<pid_t> pids = workers_of(node(name));
  if (pids.empty()) return std::optional<pid_t>();
  return std::optional<pid_t>(pids.front());
}

bool Playground::daemon_runs(const std::string& name) const {
  const pid_t pid = node(name).daemon_pid;
  return pid != 0 && process_runs(pid, "holdfastd");
}

Status Playground::signal_daemon(const std::string& name, int signal) {
  PlaygroundNode& node = find(name);
  if (node.daemon_pid == 0 || !process_runs(node.daemon_pid, "holdfastd"))
    return fail(ErrorCode::kProcess, name + " does not run");
  if (kill(node.daemon_pid, signal) != 0)
    return fail(ErrorCode::kProcess, fmt::format("{}: {}", name, std::strerror(errno)));
  if (signal != SIGKILL) return {};
  if (!wait_gone(node.daemon_pid, kStopTimeoutMs))
    return fail(ErrorCode::kTimeout, name + " did not end after SIGKILL");
  node.daemon_pid = 0;
  return save();
}

Status Playground::kill_node(const std::string& name) {
  std::vector<pid_t> workers = workers_of(node(name));
  PlaygroundNode& node = find(name);
  const pid_t daemon = node.daemon_pid;
  if (daemon != 0 && process_runs(daemon, "holdfastd")) kill(daemon, SIGKILL);
  for (const pid_t pid : workers) kill(pid, SIGKILL);
  if (daemon != 0 && !wait_gone(daemon, kStopTimeoutMs))
    return fail(ErrorCode::kTimeout, name + " did not end after SIGKILL");
  // It may have started one in its last moment.
  for (const pid_t pid : workers_of(node)) {
    kill(pid, SIGKILL);
    workers.push_back(pid);
  }
  for (const pid_t pid : workers) wait_gone(pid, kStopTimeoutMs);
  node.daemon_pid = 0;
  return save();
}

Status Playground::stop_all() {
  for (PlaygroundNode& node : nodes_)
    if (node.daemon_pid != 0 && process_runs(node.daemon_pid, "holdfastd"))
      kill(node.daemon_pid, SIGTERM);
  for (PlaygroundNode& node : nodes_) {
    if (node.daemon_pid != 0 && !wait_gone(node.daemon_pid, kStopTimeoutMs)) {
      kill(node.daemon_pid, SIGKILL);
      wait_gone(node.daemon_pid, kStopTimeoutMs);
    }
    node.daemon_pid = 0;
    for (const pid_t pid : workers_of(node)) {
      kill(pid, SIGKILL);
      if (!wait_gone(pid, kStopTimeoutMs))
        return fail(ErrorCode::kTimeout, fmt::format("worker {} of {} did not end", pid, node.name));
    }
  }
  std::error_code error;
  fs::remove_all(arena_folder(), error);
  return save();
}

}  // namespace holdfast::ctl
