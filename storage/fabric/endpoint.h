// One connected MSG endpoint with its completion queue and the operations under way on it.
// Everything but lost() and reserve() belongs to the progress thread.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <memory>

#include "storage/fabric/fabric.h"
#include "storage/fabric/peer_address.h"
#include "storage/fabric/provider.h"

namespace holdfast::storage {

using TimePoint = std::chrono::steady_clock::time_point;

enum class Direction { kWrite, kRead };

struct Operation {
  Direction direction = Direction::kWrite;
  uint64_t local_offset = 0;
  uint64_t remote_offset = 0;
  uint64_t length = 0;
  FabricDone done;
  TimePoint deadline;
  uint64_t posted = 0;  // bytes handed to libfabric
  uint64_t chunks = 0;  // of them, chunks that are not yet complete
};

class Endpoint {
 public:
  // `connected` is called once: connected, or why not.
  Endpoint(const Provider& provider, std::span<std::byte> region, std::string peer,
           std::chrono::milliseconds timeout, std::function<void(Status)> connected);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  Status open(fi_info& info);
  Status connect(const fi_info& info, const Greeting& greeting);
  Status accept(const Greeting& greeting);
  void on_connected();
  void set_remote(const Greeting& remote) { remote_ = remote; }

  void start(Operation operation);
  // Reads completions, posts what fits, keeps the deadlines. Whether anything moved.
  bool progress(TimePoint now);
  // Closes the endpoint and ends every operation: kFabricTimeout past its deadline, else
  // kFabricLost.
  void lose(Error reason);

  // Takes one of the places for operations; given back when the operation is done.
  bool reserve();
  bool lost() const { return lost_.load(); }
  TimePoint wake_at() const;
  fid_ep* ep() const { return ep_.get(); }
  fid_cq* queue() const { return queue_.get(); }
  uint64_t remote_length() const { return remote_.length; }

 private:
  bool read_completions();
  bool read_error();
  bool post_chunks();
  int64_t post(Operation& operation, uint64_t length);
  void finish(Operation operation, Status status);

  const Provider& provider_;
  std::span<std::byte> region_;
  std::string peer_;
  std::chrono::milliseconds timeout_;
  std::function<void(Status)> connected_;
  TimePoint connect_deadline_;
  Greeting remote_;
  Fid<fid_cq> queue_;  // closed after the endpoint: then no completion can come any more
  Fid<fid_ep> ep_;
  uint64_t chunk_bytes_ = 0;
  uint64_t window_ = 0;
  uint64_t write_completion_ = 0;  // what a write's completion promises, see find_info
  uint64_t chunks_under_way_ = 0;
  bool retry_ = false;                                       // libfabric asked to try again later
  std::list<Operation> operations_;                          // in order of start, hence of deadline
  std::list<Operation>::iterator next_ = operations_.end();  // the first not wholly posted
  std::atomic<bool> lost_{false};
  std::atomic<uint64_t> under_way_{0};
};

}  // namespace holdfast::storage
