#include "storage/fabric/progress.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <future>
#include <random>

namespace holdfast::storage {
namespace {

constexpr uint32_t kBarrenLoops = 16;

uint64_t random_id() {
  std::random_device device;
  const uint64_t id = (uint64_t{device()} << 32) | device();
  return id == 0 ? 1 : id;
}

}  // namespace

Result<std::shared_ptr<Progress>> Progress::open(const FabricOptions& options,
                                                 std::span<std::byte> region) {
  std::shared_ptr<Progress> progress(new Progress());
  ASSIGN_OR_RETURN(progress->provider_, open_provider(options, region));
  progress->region_ = region;
  progress->timeout_ = std::chrono::milliseconds(options.timeout_ms);
  progress->region_id_ = random_id();
  progress->max_channels_in_ = options.max_channels_in;
  RETURN_IF_ERROR(progress->open_descriptors());
  progress->thread_ = std::thread([raw = progress.get()] { raw->run(); });
  return progress;
}

Status Progress::open_descriptors() {
  ASSIGN_OR_RETURN(const int events, wait_descriptor(provider_.events->fid, "waiting for events"));
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  for (int descriptor : {wake_, events}) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0)
      return fail(ErrorCode::kFabricUnavailable,
                  fmt::format("epoll of the fabric's descriptors: {}", std::strerror(errno)));
  }
  return {};
}

Progress::~Progress() {
  stop();
  if (wake_ >= 0) ::close(wake_);
  if (epoll_ >= 0) ::close(epoll_);
}

void Progress::stop() {
  if (!thread_.joinable()) return;
  post([this] { stopping_ = true; });
  thread_.join();
}

bool Progress::post(Task task) {
  bool first = false;
  {
    MutexLock lock(mutex_);
    if (ended_) return false;
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (first) eventfd_write(wake_, 1);
  return true;
}

bool Progress::run_tasks() {
  std::vector<Task> tasks;
  {
    MutexLock lock(mutex_);
    tasks.swap(tasks_);
  }
  for (Task& task : tasks) task();
  return !tasks.empty();
}

void Progress::run() {
  while (!stopping_) {
    bool moved = run_tasks();
    moved |= read_events();
    const TimePoint now = std::chrono::steady_clock::now();
    for (auto& [id, known] : endpoints_) moved |= known.endpoint->progress(now);
    std::erase_if(endpoints_, [](const auto& entry) { return entry.second.endpoint->lost(); });
    if (moved)
      barren_ = 0;
    else
      wait_for_work();
  }
  const Error closed{ErrorCode::kFabricLost, "the fabric is closed"};
  for (auto& [id, known] : endpoints_) known.endpoint->lose(closed);
  endpoints_.clear();
  for (;;) {
    run_tasks();
    MutexLock lock(mutex_);
    if (!tasks_.empty()) continue;
    ended_ = true;
    return;
  }
}

void Progress::wait_for_work() {
  using std::chrono::milliseconds;
  std::vector<fid_t> waited{&provider_.events->fid};
  TimePoint wake_at = TimePoint::max();
  for (const auto& [id, known] : endpoints_) {
    waited.push_back(&known.endpoint->queue()->fid);
    wake_at = std::min(wake_at, known.endpoint->wake_at());
  }
  int timeout_ms = -1;
  if (wake_at != TimePoint::max()) {
    const auto left = wake_at - std::chrono::steady_clock::now();
    // Rounded up: waking just before the deadline would spin until it.
    timeout_ms = std::max<int>(
        0, static_cast<int>(std::chrono::duration_cast<milliseconds>(left).count()) + 1);
  }
  if (fi_trywait(provider_.fabric.get(), waited.data(), static_cast<int>(waited.size())) != 0) {
    if (++barren_ < kBarrenLoops) return;
    timeout_ms = 1;
  }
  epoll_event ready;
  if (epoll_wait(epoll_, &ready, 1, timeout_ms) > 0) {
    eventfd_t count = 0;
    eventfd_read(wake_, &count);  // fails harmlessly when another descriptor was ready
  }
}

bool Progress::read_events() {
  alignas(fi_eq_cm_entry) std::array<std::byte, sizeof(fi_eq_cm_entry) + 512> message;
  bool moved = false;
  for (;;) {
    uint32_t event = 0;
    const ssize_t size =
        fi_eq_read(provider_.events.get(), &event, message.data(), message.size(), 0);
    if (size == -FI_EAVAIL) {
      fi_eq_err_entry error{};
      if (fi_eq_readerr(provider_.events.get(), &error, 0) < 0) return moved;
      if (auto endpoint = find(error.fid))
        endpoint->lose({ErrorCode::kFabricLost,
                        fmt::format("the connection failed: {}", fi_strerror(error.err))});
    } else if (size < static_cast<ssize_t>(sizeof(fi_eq_cm_entry))) {
      return moved;
    } else {
      const auto& entry = *reinterpret_cast<const fi_eq_cm_entry*>(message.data());
      on_event(event, entry,
               std::span(message).first(static_cast<size_t>(size)).subspan(sizeof entry));
    }
    moved = true;
  }
}

void Progress::on_event(uint32_t event, const fi_eq_cm_entry& entry,
                        std::span<const std::byte> data) {
  if (event == FI_CONNREQ) {
    const Info info(entry.info);
    on_request(*info, data);
    return;
  }
  const auto endpoint = find(entry.fid);
  if (!endpoint) return;
  if (event == FI_CONNECTED) on_answer(*endpoint, data);
  if (event == FI_SHUTDOWN) endpoint->lose({ErrorCode::kFabricLost, "the peer has gone"});
}

void Progress::on_request(fi_info& info, std::span<const std::byte> data) {
  const auto asked = read_greeting(data);
  if (!asked || asked->region_id != region_id_) {
    fi_reject(provider_.listener.get(), info.handle, nullptr, 0);
    return;
  }
  make_room(asked->key);
  auto endpoint =
      std::make_shared<Endpoint>(provider_, region_, "a peer", timeout_, [](const Status&) {});
  Status accepted = add(endpoint, info);
  if (accepted) {
    Known& known = endpoints_.at(&endpoint->ep()->fid);
    known.sender = asked->key;
    known.number = ++accepted_;
    accepted = endpoint->accept(make_answer(region_id_, fi_mr_key(provider_.region.get()),
                                            provider_.remote_base, region_.size()));
  }
  if (!accepted) endpoint->lose(std::move(accepted).error());
}

// Each costs a socket and a completion queue, and one whose peer vanished without a word looks like
// one that is idle.
void Progress::make_room(uint64_t sender) {
  size_t all = 0, of_sender = 0;
  const Known *oldest = nullptr, *oldest_of_sender = nullptr;
  const auto older = [](const Known& known, const Known* than) {
    return than == nullptr || known.number < than->number;
  };
  for (const auto& [id, known] : endpoints_) {
    if (known.wanted_region != 0 || known.endpoint->lost()) continue;
    ++all;
    if (older(known, oldest)) oldest = &known;
    if (known.sender != sender) continue;
    ++of_sender;
    if (older(known, oldest_of_sender)) oldest_of_sender = &known;
  }
  if (of_sender >= kMaxChannelsFromOne) {
    oldest_of_sender->endpoint->lose({ErrorCode::kFabricLost, "its peer has connected anew"});
  } else if (all >= max_channels_in_) {
    oldest->endpoint->lose({ErrorCode::kFabricLost, "another peer needs its room"});
  }
}

void Progress::on_answer(Endpoint& endpoint, std::span<const std::byte> data) {
  const uint64_t wanted = endpoints_.at(&endpoint.ep()->fid).wanted_region;
  if (wanted != 0) {
    auto answer = read_greeting(data);
    if (answer && answer->region_id != wanted)
      answer = fail(ErrorCode::kFabricProtocol, "the peer serves another region");
    if (!answer) {
      endpoint.lose(std::move(answer).error());
      return;
    }
    endpoint.set_remote(*answer);
  }
  endpoint.on_connected();
}

Status Progress::add(const std::shared_ptr<Endpoint>& endpoint, fi_info& info) {
  RETURN_IF_ERROR(endpoint->open(info));
  ASSIGN_OR_RETURN(const int descriptor,
                   wait_descriptor(endpoint->queue()->fid, "waiting for completions"));
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0)
    return fail(ErrorCode::kFabricLost,
                fmt::format("epoll of a completion queue: {}", std::strerror(errno)));
  endpoints_[&endpoint->ep()->fid] = {endpoint};
  return {};
}

std::shared_ptr<Endpoint> Progress::find(fid_t id) const {
  const auto it = endpoints_.find(id);
  return it == endpoints_.end() || it->second.endpoint->lost() ? nullptr : it->second.endpoint;
}

Result<std::shared_ptr<Endpoint>> Progress::connect(Info info, const PeerAddress& peer) {
  const std::string name = fmt::format("{}:{}", peer.host, peer.port);
  auto connected = std::make_shared<std::promise<Status>>();
  std::future<Status> answer = connected->get_future();
  auto endpoint = std::make_shared<Endpoint>(
      provider_, region_, name, timeout_,
      [connected](Status status) { connected->set_value(std::move(status)); });
  const std::shared_ptr<fi_info> shared_info(info.release(), InfoFree());
  const bool posted = post([this, endpoint, shared_info, region_id = peer.region_id] {
    Status started;
    if (stopping_) started = fail(ErrorCode::kFabricLost, "the fabric is closed");
    if (started) started = add(endpoint, *shared_info);
    if (started) {
      endpoints_.at(&endpoint->ep()->fid).wanted_region = region_id;
      started = endpoint->connect(*shared_info, make_request(region_id, region_id_));
    }
    if (!started) endpoint->lose(std::move(started).error());
  });
  if (!posted) return fail(ErrorCode::kFabricLost, "the fabric is closed");
  // The progress thread keeps the deadline: the answer always comes.
  if (Status status = answer.get(); !status)
    return fail(with_context(std::move(status).error(), fmt::format("connecting to {}", name)));
  return endpoint;
}

void Progress::start(const std::shared_ptr<Endpoint>& endpoint, Operation operation,
                     Status refused) {
  operation.deadline = std::chrono::steady_clock::now() + timeout_;
  if (refused && !endpoint->reserve())
    refused = fail(ErrorCode::kQueueFull, "too many operations under way on this channel");
  auto shared = std::make_shared<Operation>(std::move(operation));
  const bool posted = post([endpoint, shared, refused] {
    if (refused)
      endpoint->start(std::move(*shared));
    else
      shared->done(refused);
  });
  if (!posted) shared->done(fail(ErrorCode::kFabricLost, "the fabric is closed"));
}

void Progress::close(const std::shared_ptr<Endpoint>& endpoint) {
  auto closed = std::make_shared<std::promise<void>>();
  const bool posted = post([endpoint, closed] {
    endpoint->lose({ErrorCode::kFabricLost, "the channel was closed"});
    closed->set_value();
  });
  if (posted) closed->get_future().wait();
}

}  // namespace holdfast::storage
