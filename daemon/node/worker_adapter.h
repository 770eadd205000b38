// The supervisor as the job agent's WorkerPort.
#pragma once

#include <functional>
#include <string>

#include "daemon/node/ports.h"
#include "daemon/supervisor/supervisor.h"

namespace holdfast::daemon {

class WorkerAdapter final : public WorkerPort {
 public:
  WorkerAdapter(Supervisor& supervisor, std::function<void(uint32_t, const std::string&)> note)
      : supervisor_(supervisor), note_(std::move(note)) {}

  void ensure(uint32_t slot) override { supervisor_.ensure_worker(slot); }
  void send(uint32_t slot, const train::ToWorker& message) override;
  void kill(uint32_t slot, const std::string& why) override { supervisor_.kill_worker(slot, why); }
  void stop(uint32_t slot) override { supervisor_.stop_worker(slot); }

 private:
  Supervisor& supervisor_;
  const std::function<void(uint32_t, const std::string&)> note_;
};

}  // namespace holdfast::daemon
