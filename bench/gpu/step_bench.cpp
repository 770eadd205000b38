// Training steps on one accelerator, no cluster around it: tokens a second and model FLOP/s of the
// models that the GPU benchmarks speak of, on random tokens. Builds nothing, needs one device.
//   step_bench [--models moe-s16,moe-1b16,moe-s64] [--routing dropless|capacity] [--capacity-factor X]
//              [--steps N] [--warm-up N] [--out FILE]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>

#include "base/json.h"
#include "bench/gpu/bench_models.h"
#include "train/comm/in_process.h"
#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"

namespace {

using namespace holdfast;
using namespace holdfast::bench;

struct Options {
  std::vector<std::string> models = {"moe-s16", "moe-1b16", "moe-s64"};
  std::string routing = "dropless";
  std::optional<double> capacity_factor;
  uint64_t steps = 20, warm_up = 5;
};

conf::JobConfig job_of(const Bench& bench, const Options& options) {
  conf::JobConfig job;
  job.name = JobId("bench");
  job.steps = options.warm_up + options.steps;
  job.routing = options.routing;
  job.capacity_factor = options.capacity_factor;
  job.pipelines = 1;
  job.micro_batches = 1;
  job.micro_batch_sequences = bench.sequences;
  job.evaluate_micro_batches = 0;
  job.model = bench.model;
  job.optimizer.learning_rate = 3e-4;
  job.data.path = "random";
  return job;
}

// How long the host needs to enqueue the rounds of a step: until the last mark before the longest time
// without any, in which it waits for the device. Where that is much less than the step, the device never
// waits for the host, and graphs of kernels would gain nothing.
class HostTime {
 public:
  void mark() {
    const auto now = std::chrono::steady_clock::now();
    const double gap = seconds(now - last_);
    if (gap > longest_) {
      longest_ = gap;
      until_ = seconds(last_ - begun_);
    }
    last_ = now;
  }
  void begin() {
    begun_ = last_ = std::chrono::steady_clock::now();
    longest_ = until_ = 0;
  }
  double enqueued() const { return until_; }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }
  Clock::time_point begun_, last_;
  double longest_ = 0, until_ = 0;
};

struct Row {
  std::string model;
  std::string routing;
  double first_loss = 0, last_loss = 0, seconds = 0, fastest_seconds = 0, tokens_per_second = 0,
         model_tflops = 0;  // of all choices, those that are dropped too
  double host_seconds = 0;
  double dropped_fraction = 0;  // of the choices of the steps that were timed
};
BOOST_DESCRIBE_STRUCT(Row, (),
                      (model, routing, first_loss, last_loss, seconds, fastest_seconds,
                       tokens_per_second, model_tflops, host_seconds, dropped_fraction))

Result<Row> measure(const std::string& name, const Options& options) {
  const Bench& bench = benches().at(name);
  const conf::JobConfig job = job_of(bench, options);
  ASSIGN_OR_RETURN(auto device, kernels::Cuda::open(0));
  AbortWord abort;
  HostTime host;  // one lane: all marks come from this thread
  LaneTrainer<CudaBackend> trainer(std::move(device), job, random_tokens(job), abort,
                                   [&host](Step, uint32_t, bool) { host.mark(); });
  auto group = make_in_process_group(1, 600'000);
  const ParameterLayout layout(job.model, job.slices());
  RETURN_IF_ERROR(trainer.open_view({Epoch{1, 1}, {}, 0, {0}, {},
                                     std::vector<uint32_t>(layout.shard_count(), 0)}));
  for (uint32_t shard = 0; shard < layout.shard_count(); ++shard)
    RETURN_IF_ERROR(trainer.init_shard(shard));
  RETURN_IF_ERROR(trainer.finish_loading());
  RETURN_IF_ERROR(trainer.materialize(*group[0]));
  Row row{name, options.routing};
  std::vector<double> seconds, enqueued;
  double dropped = 0;
  for (uint64_t step = 0; step < job.steps; ++step) {
    host.begin();
    ASSIGN_OR_RETURN(const StepDone done, trainer.run_step(*group[0], Step(step)));
    if (step == 0) row.first_loss = done.loss;
    row.last_loss = done.loss;
    if (step < options.warm_up) continue;
    seconds.push_back(done.seconds);
    enqueued.push_back(host.enqueued());
    dropped += double(done.tokens_dropped);
  }
  const double tokens = double(bench.sequences) * bench.model.context;
  row.dropped_fraction =
      dropped / (double(options.steps) * tokens * bench.model.top_k * bench.model.layers);
  row.seconds = median(seconds);
  row.host_seconds = median(enqueued);
  row.fastest_seconds = *std::min_element(seconds.begin(), seconds.end());
  row.tokens_per_second = tokens / row.seconds;
  row.model_tflops = row.tokens_per_second * flops_per_token(bench.model) / 1e12;
  return row;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::string out;
  CLI::App app{"Training steps on one accelerator"};
  app.add_option("--models", options.models)->delimiter(',')->check([](const std::string& name) {
    return benches().contains(name) ? std::string() : "no such model: " + name;
  });
  app.add_option("--routing", options.routing)->check(CLI::IsMember({"dropless", "capacity"}));
  app.add_option("--capacity-factor", options.capacity_factor, "of --routing capacity");
  app.add_option("--steps", options.steps)->check(CLI::Range(1, 10'000));
  app.add_option("--warm-up", options.warm_up);
  app.add_option("--out", out, "write the rows there as JSON");
  CLI11_PARSE(app, argc, argv);
  if (options.capacity_factor && (options.routing != "capacity" || !(*options.capacity_factor > 0))) {
    fmt::print(stderr, "step_bench: --capacity-factor is above 0 and goes with --routing capacity\n");
    return 1;
  }

  fmt::print("{:10} {:>9} {:>9} {:>10} {:>11} {:>9} {:>10} {:>9} {:>9}\n", "model", "first", "last",
             "ms/step", "fastest ms", "host ms", "tokens/s", "TFLOP/s", "dropped");
  std::vector<Row> rows;
  for (const std::string& name : options.models) {
    const auto row = measure(name, options);
    if (!row) {
      fmt::print(stderr, "step_bench: {}: {}\n", name, row.error().to_string());
      return 1;
    }
    fmt::print("{:10} {:>9.4f} {:>9.4f} {:>10.2f} {:>11.2f} {:>9.2f} {:>10.0f} {:>9.1f} {:>8.2f}%\n",
               name, row->first_loss, row->last_loss, row->seconds * 1e3, row->fastest_seconds * 1e3,
               row->host_seconds * 1e3, row->tokens_per_second, row->model_tflops,
               100 * row->dropped_fraction);
    rows.push_back(*row);
  }
  if (!out.empty()) std::ofstream(out) << to_json_text(rows) << "\n";
  return 0;
}
