#include "daemon/node/worker_adapter.h"

namespace holdfast::daemon {

void WorkerAdapter::send(uint32_t slot, const train::ToWorker& message) {
  const Status sent = supervisor_.send(slot, message);
  if (sent) return;
  note_(slot, sent.error().message);
  // Without a connection: once it is back the agent says Quiesce, Go and StopAt again. What else
  // was said is lost, and missed by its limit: a capture is given up, a restore ends the view. One
  // that does not read its connection cannot obey any more.
  if (sent.error().code == ErrorCode::kQueueFull)
    supervisor_.kill_worker(slot, "it does not read what its daemon says");
}

}  // namespace holdfast::daemon
