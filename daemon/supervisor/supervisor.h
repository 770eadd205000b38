// Workers' lives: one holdfast-worker per slot, started when wanted, watched by pidfd and by its
// progress page, started again with backoff after it ended. Workers outlive their daemon on
// purpose: destroying a Supervisor leaves them running, and the next one adopts those that come
// back.
//
// Everything runs on the event loop that was handed in: call from there, callbacks come from there.
// A callback may call back into the supervisor. No callback comes from inside a call.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "train/worker/messages.h"

namespace holdfast::daemon {

struct SupervisorOptions {
  std::filesystem::path state_dir;  // worker.sock, worker-<slot>.log, worker-<slot>.progress
  std::filesystem::path program;    // holdfast-worker
  uint32_t slots = 1;
  uint32_t start_timeout_ms = 20'000;  // from spawn, or from a lost connection, to Hello
  uint32_t hang_timeout_ms = 2'000;
  uint32_t restart_backoff_ms = 200;     // doubles up to 10 s, starts anew after a healthy minute
  uint32_t stop_timeout_ms = 3'000;      // from SIGTERM to SIGKILL
  uint32_t survivor_timeout_ms = 5'000;  // for a worker of an earlier daemon process to connect
  uint32_t hello_timeout_ms = 5'000;     // from a connection to its Hello
};

// How a worker's process ended.
struct WorkerEnd {
  enum class Cause : uint8_t {
    kExited,       // by itself: exit status or signal in `text`
    kKilled,       // kill_worker
    kStopped,      // stop_worker
    kHung,         // its progress counter froze
    kUnreachable,  // did not connect in time
    kNotStarted    // could not be spawned; pid is 0
  };
  Cause cause = Cause::kExited;
  std::string text;  // one sentence with the reason and how long things took
  int64_t pid = 0;
};

struct SupervisorCallbacks {
  // A worker is connected: a fresh one, one that was adopted, or the same one again after its
  // connection broke. What was sent before and not answered may be lost: bring it up to date.
  std::function<void(uint32_t slot, const train::Hello&)> on_worker_up;
  // Any message but Hello.
  std::function<void(uint32_t slot, const train::FromWorker&)> on_message;
  // The kernel takes the process down, it computes and says nothing more; on_worker_down follows. Only
  // where that takes a while: memory registered with an accelerator takes a second and more.
  std::function<void(uint32_t slot, const std::string& why)> on_worker_dying;
  // The process is gone (its pidfd says so; it is reaped when it was our child): nothing of it can
  // write any more. Once for every process, also for one that never said Hello.
  std::function<void(uint32_t slot, const WorkerEnd&)> on_worker_down;
  // For the log: spawned, adopted, hang noticed, connection lost, refused.
  std::function<void(uint32_t slot, const std::string& text)> on_note;
};

class Supervisor {
 public:
  // Listens on state_dir/worker.sock (mode 0600). kAddressInUse when another daemon serves it,
  // kFileIo.
  static Result<std::unique_ptr<Supervisor>> create(boost::asio::io_context& io,
                                                    SupervisorOptions options,
                                                    SupervisorCallbacks callbacks, Clock& clock);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Keep a worker in this slot from now on: waits for a live one of an earlier daemon process to
  // connect, spawns one otherwise, and again after each end. Idempotent.
  void ensure_worker(uint32_t slot);
  // No longer wanted: SIGTERM, SIGKILL after stop_timeout_ms. ensure_worker may follow at once; the
  // new process starts when the old one is gone.
  void stop_worker(uint32_t slot);
  // SIGKILL now. Started again (with backoff) while wanted.
  void kill_worker(uint32_t slot, const std::string& why);
  // kPeerUnreachable when no worker is connected there (on_worker_up will tell), kQueueFull when it
  // does not read.
  Status send(uint32_t slot, const train::ToWorker& message);

  struct SlotStatus {
    int64_t pid = 0;  // 0: no process
    bool connected = false;
    bool adopted = false;  // started by an earlier daemon process
    uint64_t restarts = 0;
    uint64_t hangs = 0;
  };
  SlotStatus status(uint32_t slot) const;
  // The live worker of an earlier daemon process in this slot: it will connect by itself once
  // ensure_worker was called.
  std::optional<int64_t> survivor(uint32_t slot) const;

 private:
  class Impl;
  explicit Supervisor(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace holdfast::daemon
