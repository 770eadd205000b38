// A real cluster on this machine for one test: daemons and workers as processes, killed, stopped and
// started again, looked at through the control socket only.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "conf/job_config.h"
#include "ctl/playground/playground.h"
#include "daemon/control/api.h"

namespace holdfast::chaos {

struct StepLoss {
  double loss = 0;
  std::optional<double> held_out;
  bool operator==(const StepLoss&) const = default;
};
using Losses = std::map<uint64_t, StepLoss>;  // by step

struct ClusterOptions {
  uint32_t nodes = 4;
  uint32_t daemon_grace_ms = 10'000;
  uint32_t arena_wait_ms = 2'000;
};

// The value of a detail of an event; empty when it has none of that name.
std::string detail(const daemon::EventRecord& event, const std::string& name);

class Cluster {
 public:
  explicit Cluster(const ClusterOptions& options);
  ~Cluster();  // ends everything that it started
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  ctl::Playground& playground() { return *playground_; }
  const std::filesystem::path& directory() const { return directory_; }

  // Fails the test (and returns false) when the condition does not come true in time.
  bool wait(const std::string& what, int64_t timeout_ms, const std::function<bool()>& condition);

  void submit(const conf::JobConfig& job);
  std::optional<daemon::api::Status> status(const std::string& node = "node-0");
  bool wait_for_step(uint64_t step, int64_t timeout_ms = 60'000);
  bool wait_for_safe(uint64_t version, int64_t timeout_ms = 60'000);
  bool wait_for_state(const std::string& state, int64_t timeout_ms = 120'000);
  // Waits for an event of that kind (and about that node) with a sequence above `since`; returns it.
  std::optional<daemon::EventRecord> wait_for_event(const std::string& kind, uint64_t since,
                                                    const std::string& node = "",
                                                    int64_t timeout_ms = 30'000);
  uint64_t last_event();
  std::vector<daemon::EventRecord> events();  // fails the test when they cannot be had

  Losses losses(const std::string& job);
  std::vector<daemon::LedgerRow> ledger(const std::string& job);
  // exactly-once: every micro-batch of every step stands in the sealed ledger exactly once.
  void expect_exactly_once(const conf::JobConfig& job);
  // no-loss: no view went back below a safe version.
  void expect_no_loss();
  // What the nodes logged, for a failure message.
  std::string logs();

  Result<boost::json::value> get(const std::string& target, const std::string& node = "node-0");
  Result<boost::json::value> post(const std::string& target, const boost::json::value& body);

 private:
  Result<std::vector<daemon::EventRecord>> ask_events();

  std::filesystem::path directory_;
  std::optional<ctl::Playground> playground_;
};

// A small job over text that this writes below `directory`: a second or two of training.
conf::JobConfig small_job(const std::filesystem::path& directory, bool reproducible,
                          uint64_t steps);

// Runs a job to its end on a cluster of its own where nothing fails.
Losses run_unbroken(const conf::JobConfig& job, uint32_t nodes = 4);
// The same, once per process and kept: by mode and number of steps.
const Losses& unbroken_losses(const conf::JobConfig& job);

}  // namespace holdfast::chaos
