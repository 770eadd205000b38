// Ranks as threads of one process: the twin of the Gloo communicator, for tests. Collectives meet in
// shared memory; abort, a destroyed rank and deadlines behave as between processes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train/comm/communicator.h"

namespace holdfast::train {

// `size` communicators that reach each other; element r is rank r. Each is used by one thread.
std::vector<std::unique_ptr<ViewCommunicator>> make_in_process_group(uint32_t size,
                                                                     int64_t collective_timeout_ms);

// A place where factories of one test meet.
class InProcessHub {
 public:
  InProcessHub();
  ~InProcessHub();
  std::unique_ptr<CommunicatorFactory> make_factory();
  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace holdfast::train
