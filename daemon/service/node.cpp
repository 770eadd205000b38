#include "daemon/service/node.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <set>

#include "base/log.h"
#include "daemon/node/asio_loop.h"
#include "daemon/node/job_agent.h"
#include "daemon/node/memory_store.h"
#include "daemon/node/node_records.h"
#include "daemon/node/replica_adapter.h"
#include "daemon/node/worker_adapter.h"
#include "daemon/peers/command_receiver.h"
#include "daemon/peers/node_link.h"
#include "daemon/peers/peer_caller.h"
#include "daemon/peers/peer_server.h"
#include "daemon/service/control_server.h"
#include "daemon/service/coordinator_host.h"
#include "daemon/service/local_view.h"
#include "daemon/service/notify.h"
#include "daemon/service/seed_route.h"
#include "daemon/service/snapshot_route.h"
#include "storage/fabric/striped_fabric.h"

namespace holdfast::daemon {
namespace {

// Workers of an earlier daemon process try to connect every few milliseconds.
constexpr auto kSurvivorWait = std::chrono::milliseconds(2'000);
// Bytes of a write that was given up may still arrive while the peer's kernel sends them.
constexpr int64_t kQuarantineFactor = 2;

std::filesystem::path worker_program(const conf::NodeConfig& config) {
  if (!config.worker.program.empty()) return config.worker.program;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return self.parent_path() / "holdfast-worker";
}

Status make_folder(const std::filesystem::path& folder) {
  if (folder.empty()) return {};  // of a bare name: the folder that we are in
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    return fail(ErrorCode::kFileIo, fmt::format("{}: {}", folder.string(), error.message()));
  return {};
}

}  // namespace

// Members are destroyed from the last to the first: nobody outlives what he uses.
class Node::Impl {
 public:
  Impl(const conf::NodeConfig& config, Clock& clock)
      : config_(config),
        clock_(clock),
        identity_{config.cluster.name, HOLDFAST_RELEASE},
        signals_(io_, SIGTERM, SIGINT),
        watchdog_(io_),
        survivors_late_(io_) {}
  ~Impl() { loop_.finish(); }

  Status open();
  Status run();

 private:
  Status open_storage();
  Status end_survivors_of_another_arena();
  Status open_workers();
  Status open_peers();
  Status open_control();
  void start();
  void report_up();
  void survivor_known(uint32_t slot);
  void join_cluster();
  void ping_watchdog(int64_t every_ms);
  void stop_with(Status status);
  bool is_seed() const { return config_.cluster.seed == config_.listen; }

  const conf::NodeConfig config_;
  Clock& clock_;
  uint64_t session_ = 0;  // numbers this process, once the catalog is open
  const PeerIdentity identity_;
  Status ended_;

  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_;
  boost::asio::steady_timer watchdog_;
  boost::asio::steady_timer survivors_late_;
  AsioLoop loop_{io_};
  LoopExecutor executor_{loop_, [this](std::function<void()> action) {
                           boost::asio::post(io_, std::move(action));
                         }};

  std::unique_ptr<storage::Catalog> catalog_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<storage::Arena> arena_;
  std::unique_ptr<storage::Fabric> fabric_;
  std::map<NodeId, std::string> addresses_;  // of peer control
  std::unique_ptr<PeerServer> peers_;
  // A long one delays no other kind.
  std::unique_ptr<PeerCaller> replica_calls_, control_calls_, snapshot_calls_;
  std::unique_ptr<storage::ReplicaServer> replica_server_;
  std::unique_ptr<storage::Replicator> replicator_;
  std::unique_ptr<ReplicaAdapter> replicas_;
  std::unique_ptr<WorkerAdapter> workers_;
  std::unique_ptr<NodeLink> link_;
  std::unique_ptr<MemoryKeeper> memory_;
  ArenaHolds holds_{clock_};
  std::unique_ptr<JobAgent> agent_;
  std::unique_ptr<CommandReceiver> commands_;
  std::unique_ptr<CoordinatorHost> coordinator_;
  std::unique_ptr<SeedRoute> seed_;
  std::unique_ptr<SnapshotRoute> snapshots_;
  std::unique_ptr<ControlServer> control_;
  std::set<uint32_t> awaited_;  // slots whose survivors have not connected yet
  bool joined_ = false;
};

Status Node::Impl::open() {
  RETURN_IF_ERROR(make_folder(config_.state_dir));
  RETURN_IF_ERROR(make_folder(config_.control_socket.parent_path()));
  RETURN_IF_ERROR(make_folder(config_.arena.path.parent_path()));
  RETURN_IF_ERROR(open_workers());
  RETURN_IF_ERROR(open_storage());
  RETURN_IF_ERROR(open_peers());
  return open_control();
}

Status Node::Impl::open_workers() {
  SupervisorOptions options;
  options.state_dir = config_.state_dir;
  options.program = worker_program(config_);
  options.slots = config_.worker.slots;
  options.start_timeout_ms = config_.worker.start_timeout_ms;
  options.hang_timeout_ms = config_.worker.hang_timeout_ms;
  options.restart_backoff_ms = config_.worker.restart_backoff_ms;
  SupervisorCallbacks callbacks;
  callbacks.on_worker_up = [this](uint32_t slot, const train::Hello& hello) {
    agent_->on_worker_up(slot, hello);
    survivor_known(slot);
  };
  callbacks.on_message = [this](uint32_t slot, const train::FromWorker& message) {
    agent_->on_worker_message(slot, message);
  };
  callbacks.on_worker_dying = [this](uint32_t slot, const std::string& why) {
    agent_->on_worker_dying(slot, why);
  };
  callbacks.on_worker_down = [this](uint32_t slot, const WorkerEnd& end) {
    log::warn("worker {} (pid {}) is gone: {}", slot, end.pid, end.text);
    agent_->on_worker_down(slot, end.text);
    survivor_known(slot);
  };
  callbacks.on_note = [](uint32_t slot, const std::string& text) {
    log::info("worker {}: {}", slot, text);
  };
  ASSIGN_OR_RETURN(supervisor_, Supervisor::create(io_, options, callbacks, clock_));
  workers_ = std::make_unique<WorkerAdapter>(*supervisor_, [](uint32_t slot, const std::string& t) {
    log::debug("worker {}: {}", slot, t);
  });
  return {};
}

Status Node::Impl::open_storage() {
  ASSIGN_OR_RETURN(catalog_,
                   storage::open_rocksdb_catalog(config_.state_dir / "catalog",
                                                 {config_.cluster.name, config_.name}));
  ASSIGN_OR_RETURN(session_, begin_session(*catalog_, clock_.wall_ms()));
  bool survivor = false;
  for (uint32_t slot = 0; slot < config_.worker.slots; ++slot)
    survivor = survivor || supervisor_->survivor(slot).has_value();
  // Other nodes wrote through the fabric region of the process before, which has ended with it.
  const auto may_live = [&](const storage::BlockInfo& block) {
    return survivor && block.writer == config_.name;
  };
  ASSIGN_OR_RETURN(arena_,
                   storage::Arena::open({config_.arena.path, config_.arena.size_bytes,
                                         config_.cluster.name, config_.name},
                                        may_live));
  for (const Error& damage : arena_->damage()) log::warn("{}", damage.to_string());
  RETURN_IF_ERROR(end_survivors_of_another_arena());
  const conf::FabricConfig& options = config_.fabric;
  auto fabric = storage::open_striped_libfabric(
      {options.provider, options.address, options.port, options.timeout_ms}, options.connections,
      arena_->bytes());
  if (!fabric)
    return fail(with_context(fabric.error(),
                             fmt::format("[fabric] in node.toml; address {}, by default the host of "
                                         "`listen`", options.address)));
  fabric_ = std::move(*fabric);
  return {};
}

// They write into a file that is not ours, and what they say of blocks is said of that one. Killed
// before anything is granted.
Status Node::Impl::end_survivors_of_another_arena() {
  ASSIGN_OR_RETURN(const bool another, arena_is_another(*catalog_, arena_->id()));
  if (!another) return {};
  for (uint32_t slot = 0; slot < config_.worker.slots; ++slot) {
    const auto survivor = supervisor_->survivor(slot);
    if (!survivor) continue;
    log::warn(
        "worker {} (pid {}) of an earlier daemon process is killed: {} is another arena than "
        "the one it has",
        slot, *survivor, config_.arena.path.string());
    supervisor_->ensure_worker(slot);
    supervisor_->kill_worker(slot, "the arena is another than the one it has");
  }
  return remember_arena(*catalog_, arena_->id());
}

Status Node::Impl::open_peers() {
  auto peers = PeerServer::listen(io_, config_.listen, identity_);
  if (!peers) return fail(with_context(peers.error(), "`listen` in node.toml"));
  peers_ = std::move(*peers);
  replica_calls_ = std::make_unique<PeerCaller>(io_, identity_);
  control_calls_ = std::make_unique<PeerCaller>(io_, identity_);
  snapshot_calls_ = std::make_unique<PeerCaller>(io_, identity_);
  replica_server_ = std::make_unique<storage::ReplicaServer>(
      storage::ReplicaServerOptions{config_.name, fabric_->address(),
                                    kQuarantineFactor * config_.fabric.timeout_ms},
      *arena_, executor_);
  peers_->route("/replica/", [this](const PeerRequest& request, PeerReply reply) {
    replica_server_->handle(request.target, request.body, std::move(reply));
  });
  replicator_ = std::make_unique<storage::Replicator>(
      storage::ReplicatorOptions{config_.name, session_}, *arena_, *fabric_, executor_,
      [this](const NodeId& peer, std::string target, std::string body, int64_t timeout_ms,
             std::function<void(Result<std::string>)> done) {
        const auto known = addresses_.find(peer);
        if (known == addresses_.end()) {
          boost::asio::post(io_, [peer, done = std::move(done)] {
            done(fail(ErrorCode::kPeerUnreachable,
                      fmt::format("no address of {} is known", peer.value)));
          });
          return;
        }
        replica_calls_->request(known->second, target, std::move(body), timeout_ms,
                                std::move(done));
      });
  replicas_ = std::make_unique<ReplicaAdapter>(*arena_, *replicator_, *replica_server_,
                                               [this](const std::vector<NodeAddress>& nodes) {
                                                 for (const NodeAddress& node : nodes)
                                                   addresses_[node.node] = node.peer;
                                               });
  link_ = std::make_unique<NodeLink>(
      io_,
      NodeLinkOptions{config_.name, session_, identity_, config_.cluster.seed,
                      config_.cluster.heartbeat_ms, config_.cluster.missed_heartbeats},
      NodeLinkCallbacks{[this] {
                          log::info("connected to the coordinator on {}", config_.cluster.seed);
                          report_up();
                        },
                        [this](const Error& why) {
                          log::warn("no connection to the coordinator on {}: {}",
                                    config_.cluster.seed, why.message);
                        }});
  ASSIGN_OR_RETURN(const AgentMemory memory, load_memory(*catalog_));
  memory_ = std::make_unique<MemoryKeeper>(*catalog_, loop_,
                                           [](const std::string& text) { log::warn("{}", text); });
  agent_ = std::make_unique<JobAgent>(
      JobAgentOptions{config_.name, config_.worker.slots, config_.cluster.quiesce_timeout_ms / 2,
                      config_.arena.path.string(), config_.worker.address,
                      config_.worker.first_device},
      JobAgent::Ports{*arena_, *workers_, *replicas_, loop_,
                      [this](NodeEvent event) { link_->report(std::move(event)); },
                      [this](const AgentMemory& changed) { memory_->save(changed); }, &holds_},
      memory);
  for (uint32_t slot = 0; slot < config_.worker.slots; ++slot) {
    const auto survivor = supervisor_->survivor(slot);
    if (survivor) {
      log::info("worker {} (pid {}) of an earlier daemon process runs on", slot, *survivor);
      awaited_.insert(slot);
    }
    if (survivor || memory.job) supervisor_->ensure_worker(slot);
  }
  commands_ = std::make_unique<CommandReceiver>(
      config_.name, session_, [this](const NodeCommand& command) { agent_->on_command(command); });
  commands_->attach(*peers_);
  if (is_seed()) {
    ASSIGN_OR_RETURN(
        coordinator_,
        CoordinatorHost::create(
            config_, session_, identity_,
            {io_, clock_, *catalog_, *peers_,
             [this](const Error& error) { stop_with(tl::unexpected(error)); },
             [](const std::string& text) { log::info("{}", text); }}));
  }
  return {};
}

Status Node::Impl::open_control() {
  seed_ = std::make_unique<SeedRoute>(*control_calls_, config_.cluster.seed,
                                      [this] { return link_->connected(); });
  if (coordinator_) seed_->serve(*coordinator_, *peers_);
  const auto ask_cluster = [this](const HttpRequest& request, ControlAnswer answer) {
    seed_->ask(request, std::move(answer));
  };
  snapshots_ = std::make_unique<SnapshotRoute>(SnapshotRoutePorts{
      config_.name, *arena_, holds_, loop_, *snapshot_calls_, ask_cluster});
  snapshots_->serve(*peers_);
  const LocalView view{config_, *arena_, *supervisor_, *agent_, *link_};
  ControlServerPorts ports{io_,
                           [view] { return local_status(view); },
                           [view] { return local_snapshots(view); },
                           [view, this] { return local_metrics(view, coordinator_.get()); },
                           config_.state_dir,
                           config_.worker.slots,
                           ask_cluster,
                           [this](const HttpRequest& request, ControlAnswer answer) {
                             snapshots_->handle(request, std::move(answer));
                           }};
  ASSIGN_OR_RETURN(control_, ControlServer::listen(config_.control_socket, std::move(ports)));
  return {};
}

void Node::Impl::report_up() {
  link_->report(NodeUp{config_.name, 0, config_.failure_domain, peers_->address(),
                       fabric_->address(), arena_->usage().size_bytes, config_.worker.slots,
                       agent_->worker_reports()});
  agent_->on_connected();
}

// The first report to the coordinator names workers that train on: it would take them for lost.
void Node::Impl::survivor_known(uint32_t slot) {
  awaited_.erase(slot);
  if (awaited_.empty()) join_cluster();
}

void Node::Impl::join_cluster() {
  if (joined_) return;
  joined_ = true;
  survivors_late_.cancel();
  link_->start();
}

void Node::Impl::ping_watchdog(int64_t every_ms) {
  notify_systemd("WATCHDOG=1");
  watchdog_.expires_after(std::chrono::milliseconds(every_ms));
  watchdog_.async_wait([this, every_ms](const boost::system::error_code& error) {
    if (!error) ping_watchdog(every_ms);
  });
}

void Node::Impl::stop_with(Status status) {
  if (ended_) ended_ = std::move(status);
  io_.stop();
}

void Node::Impl::start() {
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    log::info("signal {}: the daemon ends, its workers run on", signal);
    stop_with({});
  });
  if (coordinator_) coordinator_->start();
  if (awaited_.empty()) {
    join_cluster();
  } else {
    survivors_late_.expires_after(kSurvivorWait);
    survivors_late_.async_wait([this](const boost::system::error_code& error) {
      if (!error) join_cluster();
    });
  }
  if (const auto every_ms = watchdog_interval_ms()) ping_watchdog(*every_ms);
}

Status Node::Impl::run() {
  boost::asio::post(io_, [this] { start(); });
  log::info("{} of cluster {} is up: peers on {}, control socket {}, arena {}{}",
            config_.name.value, config_.cluster.name, peers_->address(),
            config_.control_socket.string(), config_.arena.path.string(),
            is_seed() ? ", runs the coordinator" : "");
  notify_systemd("READY=1");
  io_.run();
  notify_systemd("STOPPING=1");
  return ended_;
}

Node::Node(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Node::~Node() = default;

Result<std::unique_ptr<Node>> Node::create(const conf::NodeConfig& config, Clock& clock) {
  auto impl = std::make_unique<Impl>(config, clock);
  RETURN_IF_ERROR(impl->open());
  return std::unique_ptr<Node>(new Node(std::move(impl)));
}

Status Node::run() { return impl_->run(); }

}  // namespace holdfast::daemon
