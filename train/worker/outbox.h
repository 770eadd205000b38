// What a worker has to say to its daemon, kept over broken connections. A message that left for the
// kernel may still die with the daemon that did not read it, so the newest are kept and said again
// after the next Hello; the daemon takes every message any number of times. One thread.
#pragma once

#include <cstddef>
#include <deque>

#include "train/worker/messages.h"

namespace holdfast::train {

struct OutboxLimits {
  size_t unsent = 1'024;  // messages; the oldest go first
  size_t sent = 16;       // kept to be said again
};

class Outbox {
 public:
  explicit Outbox(OutboxLimits limits = {}) : limits_(limits) {}

  // How many of the oldest had to go for it.
  size_t add(FromWorker message);
  // The next to be sent, nullptr when there is none; stays in front until sent() or a reconnect.
  const FromWorker* front() const { return unsent_.empty() ? nullptr : &unsent_.front(); }
  void sent();
  // A new connection that began with `hello`: what was sent lately stands in front of the unsent
  // again; what `hello` contradicts is forgotten.
  void reconnected(const Hello& hello);

  size_t size() const { return unsent_.size(); }

 private:
  const OutboxLimits limits_;
  std::deque<FromWorker> unsent_;
  std::deque<FromWorker> sent_;
};

// Whether a message said earlier still describes a worker that says `hello` now. Reports of what
// happened (steps, captures) stay true for their epoch; answers, while the worker stands where it
// gave them.
bool still_true(const FromWorker& message, const Hello& hello);

}  // namespace holdfast::train
