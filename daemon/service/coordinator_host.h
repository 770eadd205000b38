// Runs the coordinator on the seed node: feeds it events, stores its records, and only then sends
// its commands. On the daemon's event loop.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "conf/node_config.h"
#include "daemon/coordination/record_store.h"
#include "daemon/coordinator/coordinator.h"
#include "daemon/node/step_log.h"
#include "daemon/peers/peer_hub.h"
#include "storage/catalog/catalog.h"

namespace holdfast::daemon {

struct CoordinatorHostPorts {
  boost::asio::io_context& io;
  const Clock& clock;
  storage::Catalog& catalog;
  PeerServer& server;
  // Nothing can be decided safely any more (the catalog refuses): the daemon must end.
  std::function<void(const Error&)> failed;
  std::function<void(const std::string&)> note;  // for the log
};

class CoordinatorHost {
 public:
  // Reads the stored epoch and jobs. The errors of the catalog.
  static Result<std::unique_ptr<CoordinatorHost>> create(const conf::NodeConfig& config,
                                                         uint64_t session,
                                                         const PeerIdentity& identity,
                                                         CoordinatorHostPorts ports);
  ~CoordinatorHost();
  void start();

  using Answer = std::function<void(Status)>;
  // `answer` is called once, from within: accepted and stored, or refused.
  void submit(const conf::JobConfig& job, Answer answer);
  void stop(const JobId& job, Answer answer);
  void resume(const JobId& job, Answer answer);
  void remove(const JobId& job, Answer answer);

  // Decided by a copy of the coordinator on another thread: a large job takes a second or two. `answer`
  // is called once, on the event loop. kQueueFull while another question is being answered.
  using WhatIfAnswer = std::function<void(Result<WhatIf>)>;
  void what_if(std::vector<NodeId> failed, WhatIfAnswer answer);

  const Coordinator& coordinator() const { return coordinator_; }
  const StepLog& steps() const { return steps_; }
  const RecordStore& records() const { return records_; }

 private:
  CoordinatorHost(const conf::NodeConfig& config, CoordinatorHostPorts ports, RecordStore records);
  void feed(const Event& event);
  void apply(Outcome outcome);
  void log_step(const NodeEvent& event);
  void note_event(const EventRecord& event);
  void note_step_log(const Status& status);
  void tick();

  CoordinatorHostPorts ports_;
  RecordStore records_;
  Coordinator coordinator_;
  StepLog steps_;
  std::unique_ptr<PeerHub> hub_;
  boost::asio::steady_timer ticker_;
  std::map<uint64_t, Answer> answers_;
  uint64_t requests_ = 0;
  bool failed_ = false;
  bool step_log_fails_ = false;
  std::shared_ptr<bool> asked_ = std::make_shared<bool>(false);  // a question is being answered
  boost::asio::thread_pool aside_{1};  // last: what runs there ends first
};

}  // namespace holdfast::daemon
