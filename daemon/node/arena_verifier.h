// Tells what a node can offer: the blocks of a job whose bytes have the checksum taken at capture.
// A large arena takes seconds to sum, and a view waits for it: the work is spread over the loop's
// helper threads, and a block that this process has summed before is not summed again: what it looked
// at here, read, committed for a peer or fetched. Captures of its own workers it has not summed, nor
// anything that lay there when it started. Whoever uses a block verifies it then, and one that was
// found bad there is looked at again here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "daemon/node/node_job.h"
#include "daemon/node/ports.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

class ArenaVerifier {
 public:
  struct Contents {
    std::map<StateVersion, std::set<uint32_t>> held;  // shards
    std::vector<std::pair<storage::BlockInfo, Error>> damaged;
  };
  using Done = std::function<void(const Contents&)>;

  ArenaVerifier(storage::Arena& arena, LoopPort& loop) : arena_(arena), loop_(loop) {}

  // `done` comes on the event loop. One runs at a time: what is asked meanwhile begins when it
  // ends, and of several only the newest.
  void verify(const NodeJob& job, Done done);

 private:
  struct Request {
    uint64_t job_hash = 0;
    uint32_t slices = 1;
    Done done;
  };
  struct Run {
    Request request;
    std::vector<storage::BlockInfo> unknown;  // blocks to sum
    size_t next = 0;
    size_t helpers = 0;  // at work
    Contents contents;
  };
  void start(Request request);
  void next_batch(const std::shared_ptr<Run>& run);
  void finish(const std::shared_ptr<Run>& run);
  static void add(Run& run, const storage::BlockInfo& block);

  storage::Arena& arena_;
  LoopPort& loop_;
  bool running_ = false;
  std::optional<Request> waiting_;
};

}  // namespace holdfast::daemon
