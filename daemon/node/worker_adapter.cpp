#include "daemon/node/worker_adapter.h"

namespace holdfast::daemon {

void WorkerAdapter::send(uint32_t slot, const train::ToWorker& message) {
  const Status sent = supervisor_.send(slot, message);
  if (sent) return;
  note_(slot, sent.error().message);
  // Without a connection nothing is lost: on_worker_up brings the worker up to date. One that does
  // not read its connection cannot obey any more.
  if (sent.error().code == ErrorCode::kQueueFull)
    supervisor_.kill_worker(slot, "it does not read what its daemon says");
}

}  // namespace holdfast::daemon
