// The one thread that talks to libfabric: it accepts and makes connections, moves copies on for
// both sides (progress is manual), keeps deadlines, and sleeps on descriptors while nothing
// happens.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "storage/fabric/endpoint.h"

namespace holdfast::storage {

class Progress {
 public:
  static Result<std::shared_ptr<Progress>> open(const FabricOptions& options,
                                                std::span<std::byte> region);
  ~Progress();

  // Blocks until the endpoint is connected, or for the timeout.
  Result<std::shared_ptr<Endpoint>> connect(Info info, const PeerAddress& peer);
  void start(const std::shared_ptr<Endpoint>& endpoint, Operation operation, Status refused);
  void close(const std::shared_ptr<Endpoint>& endpoint);
  // Loses every endpoint and ends the thread. What is started afterwards is refused.
  void stop();

  const Provider& provider() const { return provider_; }
  uint64_t region_id() const { return region_id_; }
  uint64_t region_length() const { return region_.size(); }

 private:
  using Task = std::function<void()>;

  Progress() = default;
  Status open_descriptors();
  // False once the thread has ended; the task is then dropped.
  bool post(Task task);
  void run();
  bool run_tasks();
  bool read_events();
  void on_event(uint32_t event, const fi_eq_cm_entry& entry, std::span<const std::byte> data);
  void on_request(fi_info& info, std::span<const std::byte> data);
  void on_answer(Endpoint& endpoint, std::span<const std::byte> data);
  void wait_for_work();
  Status add(const std::shared_ptr<Endpoint>& endpoint, fi_info& info);
  std::shared_ptr<Endpoint> find(fid_t id) const;
  // Ends the oldest connection made to us if `sender`, or all peers together, have too many.
  void make_room(uint64_t sender);

  Provider provider_;
  std::span<std::byte> region_;
  std::chrono::milliseconds timeout_{0};
  uint64_t region_id_ = 0;
  size_t max_channels_in_ = 0;
  uint64_t accepted_ = 0;
  int epoll_ = -1;
  int wake_ = -1;
  uint32_t barren_ = 0;  // loops in a row in which libfabric forbade sleeping, yet nothing moved
  // Of the progress thread. What an active endpoint's peer must be, for the answer to be checked.
  struct Known {
    std::shared_ptr<Endpoint> endpoint;
    uint64_t wanted_region = 0;  // 0: the peer connected to us
    uint64_t sender = 0;         // then: the peer's region
    uint64_t number = 0;         // in the order of their coming
  };
  std::map<fid_t, Known> endpoints_;
  Mutex mutex_;
  std::vector<Task> tasks_ GUARDED_BY(mutex_);
  bool ended_ GUARDED_BY(mutex_) = false;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace holdfast::storage
