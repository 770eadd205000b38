// A cluster on this machine for one measurement, and what benchmarks ask it through the control socket.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "conf/job_config.h"
#include "ctl/playground/playground.h"
#include "daemon/control/api.h"
#include "daemon/control/client.h"

namespace holdfast::bench {

// Thrown up to main, so that every cluster on the way is stopped.
struct Failed {
  Error error;
};
template <class T>
T must(Result<T> result) {
  if (!result) throw Failed{result.error()};
  return std::move(*result);
}
inline void must(const Status& status) {
  if (!status) throw Failed{status.error()};
}

int64_t wall_ms();
double median(std::vector<double> values);  // 0 of none
// One of this process for its clusters, below the system's folder for temporary files.
std::filesystem::path cluster_folder();

class ClusterRun {
 public:
  // As many nodes as the job wants workers.
  explicit ClusterRun(const conf::JobConfig& job);
  ~ClusterRun();  // ends every process; keeps the folder, and says where, when the run fails
  ClusterRun(const ClusterRun&) = delete;
  ClusterRun& operator=(const ClusterRun&) = delete;

  void begin(const conf::JobConfig& job);
  ctl::Playground& playground() { return playground_; }
  template <class T>
  T get(const std::string& target) {
    return must(from_json<T>(must(client().call("GET", target, {}, 5'000)), target));
  }
  std::vector<daemon::EventRecord> events();
  // Rows of finished steps, from a step on.
  std::vector<daemon::api::StepRow> steps(const conf::JobConfig& job, uint64_t from);
  uint64_t steps_done();  // throws when the job has failed
  void wait_for(const std::string& what, const std::function<bool()>& condition);
  void wait_for_step(uint64_t step);

 private:
  daemon::ControlClient client() {
    return daemon::ControlClient(playground_.nodes().front().control_socket);
  }
  ctl::Playground playground_;
};

}  // namespace holdfast::bench
