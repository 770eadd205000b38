// The in-process twin: one progress thread for the whole network copies and keeps the deadlines.
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "storage/fabric/fabric.h"
#include "storage/fabric/range.h"

namespace holdfast::storage {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;

// One opening of a region. Guarded by the network's mutex; closed or cut for good once not alive.
struct Node {
  std::string name;
  FabricAddress address;
  std::span<std::byte> region;
  bool alive = true;
  bool silent = false;
};

// One channel's state, shared with its operations.
struct Link {
  std::shared_ptr<Node> from;
  std::shared_ptr<Node> to;
  std::chrono::milliseconds timeout{0};
  bool lost = false;
  uint64_t under_way = 0;
};

enum class Direction { kWrite, kRead };

struct Operation {
  std::shared_ptr<Link> link;
  Direction direction = Direction::kWrite;
  uint64_t local_offset = 0;
  uint64_t remote_offset = 0;
  uint64_t length = 0;
  TimePoint deadline;
  Status refused;  // set when it is only queued to be answered on the progress thread
  FabricDone done;
};

// What a silent node's network card still holds: it lands when the node wakes up.
struct LateWrite {
  std::shared_ptr<Node> to;
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

}  // namespace

struct FabricNetwork::State {
  State() : thread_([this] { run(); }) {}
  ~State() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Result<std::shared_ptr<Node>> open(const std::string& name, std::span<std::byte> region);
  Result<std::shared_ptr<Link>> connect(const std::shared_ptr<Node>& from,
                                        const FabricAddress& peer, uint32_t timeout_ms);
  void start(Operation operation);
  bool lost(const Link& link);
  void close_link(Link& link);
  void close_node(Node& node);
  void cut(const std::string& name);
  void silence(const std::string& name);
  void resume(const std::string& name);

 private:
  void run();
  // The operation's outcome at `now`, none while it has to wait. Copies under the lock, so that a
  // node that is closed is no longer touched.
  std::optional<Status> outcome(Operation& operation, TimePoint now) REQUIRES(mutex_);
  void keep_for_later(const Operation& operation) REQUIRES(mutex_);
  std::shared_ptr<Node> find(const std::string& name) REQUIRES(mutex_);
  void wait_until_idle(Link& link) EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::shared_ptr<Node>> nodes_ GUARDED_BY(mutex_);
  std::deque<Operation> operations_ GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Link>> links_ GUARDED_BY(mutex_);
  std::vector<LateWrite> late_writes_ GUARDED_BY(mutex_);
  uint64_t openings_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it runs on the members above
};

namespace {

Status lost_status(const Link& link) {
  return fail(ErrorCode::kFabricLost, fmt::format("the link to {} is lost", link.to->name));
}

class TwinChannel final : public Channel {
 public:
  TwinChannel(std::shared_ptr<FabricNetwork::State> state, std::shared_ptr<Link> link)
      : state_(std::move(state)), link_(std::move(link)) {}
  ~TwinChannel() override { close(); }

  void write(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
             FabricDone done) override {
    start(Direction::kWrite, local_offset, remote_offset, length, std::move(done));
  }
  void read(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
            FabricDone done) override {
    start(Direction::kRead, local_offset, remote_offset, length, std::move(done));
  }
  bool lost() const override { return state_->lost(*link_); }
  void close() override { state_->close_link(*link_); }

 private:
  void start(Direction direction, uint64_t local_offset, uint64_t remote_offset, uint64_t length,
             FabricDone done) {
    Status refused = check_ranges(local_offset, link_->from->region.size(), remote_offset,
                                  link_->to->region.size(), length);
    state_->start(Operation{link_, direction, local_offset, remote_offset, length,
                            std::chrono::steady_clock::now() + link_->timeout, std::move(refused),
                            std::move(done)});
  }

  std::shared_ptr<FabricNetwork::State> state_;
  std::shared_ptr<Link> link_;
};

class TwinFabric final : public Fabric {
 public:
  TwinFabric(std::shared_ptr<FabricNetwork::State> state, std::shared_ptr<Node> node,
             uint32_t timeout_ms)
      : state_(std::move(state)), node_(std::move(node)), timeout_ms_(timeout_ms) {}
  ~TwinFabric() override { state_->close_node(*node_); }

  const FabricAddress& address() const override { return node_->address; }
  Result<std::unique_ptr<Channel>> connect(const FabricAddress& peer) override {
    ASSIGN_OR_RETURN(auto link, state_->connect(node_, peer, timeout_ms_));
    return std::make_unique<TwinChannel>(state_, std::move(link));
  }

 private:
  std::shared_ptr<FabricNetwork::State> state_;
  std::shared_ptr<Node> node_;
  uint32_t timeout_ms_;
};

}  // namespace

Result<std::shared_ptr<Node>> FabricNetwork::State::open(const std::string& name,
                                                         std::span<std::byte> region) {
  MutexLock lock(mutex_);
  if (auto existing = find(name); existing && existing->alive)
    return fail(ErrorCode::kAddressInUse, fmt::format("the twin fabric {} is open already", name));
  auto node = std::make_shared<Node>();
  node->name = name;
  node->address = fmt::format("twin;{};{}", name, ++openings_);
  node->region = region;
  nodes_[name] = node;
  return node;
}

Result<std::shared_ptr<Link>> FabricNetwork::State::connect(const std::shared_ptr<Node>& from,
                                                            const FabricAddress& peer,
                                                            uint32_t timeout_ms) {
  const std::chrono::milliseconds timeout(timeout_ms);
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  std::shared_ptr<Node> to;
  for (const auto& [name, node] : nodes_)
    if (node->address == peer) to = node;
  while (to && to->alive && from->alive && (to->silent || from->silent))
    if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout)
      return fail(ErrorCode::kFabricTimeout,
                  fmt::format("connecting to {} took longer than {} ms", peer, timeout_ms));
  if (!to || !to->alive || !from->alive)
    return fail(ErrorCode::kFabricLost, fmt::format("no fabric is open at {}", peer));
  auto link = std::make_shared<Link>(Link{from, to, timeout});
  std::erase_if(links_, [](const auto& known) { return known.expired(); });
  std::vector<std::shared_ptr<Link>> same;  // oldest first
  for (const auto& known : links_)
    if (auto other = known.lock(); other && other->from == from && other->to == to && !other->lost)
      same.push_back(std::move(other));
  if (same.size() >= kMaxChannelsFromOne) same.front()->lost = true;
  links_.push_back(link);
  return link;
}

void FabricNetwork::State::start(Operation operation) {
  {
    MutexLock lock(mutex_);
    if (operation.refused && operation.link->under_way >= kMaxOperations)
      operation.refused = fail(ErrorCode::kQueueFull,
                               fmt::format("{} operations under way to {}",
                                           operation.link->under_way, operation.link->to->name));
    ++operation.link->under_way;
    operations_.push_back(std::move(operation));
  }
  changed_.notify_all();
}

bool FabricNetwork::State::lost(const Link& link) {
  MutexLock lock(mutex_);
  return link.lost || !link.from->alive || !link.to->alive;
}

void FabricNetwork::State::close_link(Link& link) {
  {
    MutexLock lock(mutex_);
    link.lost = true;
  }
  changed_.notify_all();
  wait_until_idle(link);
}

void FabricNetwork::State::close_node(Node& node) {
  std::vector<std::shared_ptr<Link>> own;
  {
    MutexLock lock(mutex_);
    node.alive = false;
    for (const auto& known : links_)
      if (auto link = known.lock(); link && link->from.get() == &node) own.push_back(link);
  }
  changed_.notify_all();
  for (const auto& link : own) wait_until_idle(*link);
}

void FabricNetwork::State::wait_until_idle(Link& link) {
  CHECK(std::this_thread::get_id() != thread_.get_id(),
        "a channel must not be closed from a completion");
  MutexLock lock(mutex_);
  while (link.under_way > 0) changed_.wait(mutex_);
}

void FabricNetwork::State::cut(const std::string& name) {
  {
    MutexLock lock(mutex_);
    if (auto node = find(name)) node->alive = false;
  }
  changed_.notify_all();
}

void FabricNetwork::State::silence(const std::string& name) {
  MutexLock lock(mutex_);
  if (auto node = find(name)) node->silent = true;
}

void FabricNetwork::State::resume(const std::string& name) {
  {
    MutexLock lock(mutex_);
    auto node = find(name);
    if (!node) return;
    node->silent = false;
    std::erase_if(late_writes_, [&](const LateWrite& late) {
      if (late.to != node) return false;
      if (node->alive)
        std::memcpy(node->region.data() + late.offset, late.bytes.data(), late.bytes.size());
      return true;
    });
  }
  changed_.notify_all();
}

std::shared_ptr<Node> FabricNetwork::State::find(const std::string& name) {
  const auto it = nodes_.find(name);
  return it == nodes_.end() ? nullptr : it->second;
}

void FabricNetwork::State::keep_for_later(const Operation& operation) {
  if (operation.direction != Direction::kWrite || !operation.link->from->alive) return;
  const auto bytes = operation.link->from->region.subspan(operation.local_offset, operation.length);
  late_writes_.push_back(
      {operation.link->to, operation.remote_offset, {bytes.begin(), bytes.end()}});
}

std::optional<Status> FabricNetwork::State::outcome(Operation& operation, TimePoint now) {
  Link& link = *operation.link;
  const bool silent = link.to->silent || link.from->silent;
  if (!operation.refused) return operation.refused;
  if (!link.from->alive || !link.to->alive) {
    link.lost = true;
    return lost_status(link);
  }
  if (silent && now >= operation.deadline) {
    link.lost = true;
    keep_for_later(operation);
    return fail(ErrorCode::kFabricTimeout,
                fmt::format("no answer from {} within {} ms", link.to->name, link.timeout.count()));
  }
  if (link.lost) {
    if (silent) keep_for_later(operation);
    return lost_status(link);
  }
  if (silent) return std::nullopt;
  std::byte* local = link.from->region.data() + operation.local_offset;
  std::byte* remote = link.to->region.data() + operation.remote_offset;
  const bool writes = operation.direction == Direction::kWrite;
  std::memmove(writes ? remote : local, writes ? local : remote, operation.length);
  return Status();
}

void FabricNetwork::State::run() {
  mutex_.lock();
  while (!stopping_) {
    const TimePoint now = std::chrono::steady_clock::now();
    TimePoint wake = TimePoint::max();
    std::optional<Status> status;
    auto it = operations_.begin();
    for (; it != operations_.end(); ++it) {
      status = outcome(*it, now);
      if (status) break;
      wake = std::min(wake, it->deadline);
    }
    if (status) {
      Operation operation = std::move(*it);
      operations_.erase(it);
      mutex_.unlock();
      operation.done(std::move(*status));
      operation.done = nullptr;  // what it holds is released before close() can return
      mutex_.lock();
      --operation.link->under_way;
      changed_.notify_all();
    } else if (wake == TimePoint::max()) {
      changed_.wait(mutex_);
    } else {
      changed_.wait_until(mutex_, wake);
    }
  }
  mutex_.unlock();
}

FabricNetwork::FabricNetwork() : state_(std::make_shared<State>()) {}
FabricNetwork::~FabricNetwork() = default;

Result<std::unique_ptr<Fabric>> FabricNetwork::open(const std::string& name,
                                                    std::span<std::byte> region,
                                                    uint32_t timeout_ms) {
  ASSIGN_OR_RETURN(auto node, state_->open(name, region));
  return std::make_unique<TwinFabric>(state_, std::move(node), timeout_ms);
}

void FabricNetwork::cut(const std::string& name) { state_->cut(name); }
void FabricNetwork::silence(const std::string& name) { state_->silence(name); }
void FabricNetwork::resume(const std::string& name) { state_->resume(name); }

}  // namespace holdfast::storage
