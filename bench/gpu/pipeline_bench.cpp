// Training in stages, one accelerator for each, against one accelerator with the same micro-batches: members
// are threads of this process, each with a device of its own; what they tell each other goes over Gloo, as
// between workers, what they hand over by NCCL. All are measured in one run, one after the other: one
// accelerator, stages with a norm of all gradients, and stages that each update by themselves.
//   pipeline_bench --commit ID [--models moe-s16,moe-1b16] [--stages S] [--micro-batches M] [--sequences B]
//                  [--in-flight N] [--clip-by global,stage] [--steps N] [--warm-up N] [--turns N] [--out FILE]
// Exit 1: something failed, first losses differ by more than 1e-3 of them, or hand-overs do not go by NCCL.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <barrier>
#include <chrono>
#include <fstream>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/json.h"
#include "base/mutex.h"
#include "bench/gpu/bench_models.h"
#include "bench/record.h"
#include "train/comm/gloo_communicator.h"
#include "train/kernels/backends.h"
#include "train/schedule/job_plan.h"

namespace {

using namespace holdfast;
using namespace holdfast::bench;

struct Options {
  std::vector<std::string> models = {"moe-s16", "moe-1b16"};
  uint32_t stages = 2, micro_batches = 16, sequences = 0, in_flight = 0;
  std::vector<std::string> clip_by = {"global", "stage"};
  uint64_t steps = 8, warm_up = 2, turns = 1;
};

struct Row {
  std::string model, clip_by;
  uint32_t stages = 0, micro_batches = 0, sequences = 0;
  std::vector<uint32_t> layers;  // by stage
  std::string path;              // how payload travels
  double seconds_one = 0, seconds_stages = 0;  // of a step, medians over turns
  double tokens_per_second_one = 0, tokens_per_second_stages = 0;
  double ratio = 0;  // of throughputs
  double loss_one = 0, loss_stages = 0;  // of the first step, of the same weights and tokens
};
BOOST_DESCRIBE_STRUCT(Row, (),
                      (model, clip_by, stages, micro_batches, sequences, layers, path, seconds_one,
                       seconds_stages, tokens_per_second_one, tokens_per_second_stages, ratio,
                       loss_one, loss_stages))

struct Report {
  std::string bench = "bench/gpu/pipeline_bench", commit;
  std::vector<std::string> devices;  // by stage
  uint64_t steps = 0, warm_up = 0, turns = 0;
  std::vector<Row> models;
};
BOOST_DESCRIBE_STRUCT(Report, (), (bench, commit, devices, steps, warm_up, turns, models))

conf::JobConfig job_of(const Bench& bench, const Options& options, uint32_t stages) {
  conf::JobConfig job;
  job.name = JobId("bench");
  job.steps = (options.warm_up + options.steps) * options.turns;
  job.pipelines = 1;
  job.stages = stages;
  job.micro_batches = options.micro_batches;
  job.micro_batches_in_flight = options.in_flight;
  job.micro_batch_sequences = options.sequences == 0 ? bench.sequences : options.sequences;
  job.evaluate_micro_batches = 0;
  job.model = bench.model;
  job.optimizer.learning_rate = 3e-4;
  job.data.path = "random";
  return job;
}

// Members that each take a stage, on devices 0, 1, ...; between run() and its return they go on by
// themselves, as workers do.
class Pipeline {
 public:
  Pipeline(const conf::JobConfig& job) : job_(job), layout_(job.model, job.slices()) {
    for (uint32_t m = 0; m < job.stages; ++m) {
      auto factory = make_gloo_factory("127.0.0.1");
      CHECK(factory.has_value(), "{}", factory.error().to_string());
      addresses_.push_back(*(*factory)->prepare(m, job.stages));
      factories_.push_back(std::move(*factory));
    }
    for (uint32_t m = 0; m < job.stages; ++m) threads_.emplace_back([this, m] { run_member(m); });
    begin_.arrive_and_wait();  // all are ready, or one has failed
  }
  ~Pipeline() {
    ending_ = true;
    begin_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }

  // The loss of the last of `steps`.
  Result<double> run(uint64_t steps) {
    RETURN_IF_ERROR(status());
    steps_ = steps;
    begin_.arrive_and_wait();
    end_.arrive_and_wait();
    RETURN_IF_ERROR(status());
    return loss_;
  }
  const std::string& path() const { return path_; }

 private:
  void run_member(uint32_t member) {
    std::unique_ptr<ViewCommunicator> comm;
    auto trainer = open(member, comm);
    if (!trainer) failed(trainer.error());
    begin_.arrive_and_wait();
    for (uint64_t step = 0;;) {
      begin_.arrive_and_wait();
      if (ending_) return;
      for (uint64_t i = 0; trainer && i < steps_; ++i) {
        auto done = (*trainer)->run_step(*comm, Step(step++));
        if (!done) {
          failed(done.error());
          comm->abort();
          break;
        }
        if (member + 1 == job_.stages) loss_ = done->loss;  // the last stage knows it in any case
      }
      end_.arrive_and_wait();
    }
  }

  Result<std::unique_ptr<LaneTrainer<CudaBackend>>> open(uint32_t member,
                                                         std::unique_ptr<ViewCommunicator>& comm) {
    ASSIGN_OR_RETURN(auto device, kernels::Cuda::open(member));
    ASSIGN_OR_RETURN(comm, factories_[member]->connect(addresses_, 60'000, 60'000));
    auto trainer = std::make_unique<LaneTrainer<CudaBackend>>(
        std::move(device), job_, random_tokens(job_), abort_[member],
        [](Step, uint32_t, bool) {});
    const std::vector<StageLayers> stages = split_layers(job_.model, job_.stages);
    std::vector<uint32_t> of_members, owners;
    for (uint32_t m = 0; m < job_.stages; ++m) of_members.push_back(m);
    for (uint32_t flat = 0; flat < layout_.shard_count(); ++flat)
      owners.push_back(
          stage_of(stages, layout_.group(ShardId::unflat(flat, layout_.slices()).group)));
    RETURN_IF_ERROR(trainer->open_view({Epoch{1, 1}, {}, member,
                                        std::vector<uint32_t>(job_.stages, 0), of_members, owners}));
    for (const uint32_t shard : trainer->owned()) RETURN_IF_ERROR(trainer->init_shard(shard));
    RETURN_IF_ERROR(trainer->finish_loading());
    RETURN_IF_ERROR(trainer->materialize(*comm));
    if (member == 0) path_ = trainer->payload_path();
    return trainer;
  }
  Status status() {
    const MutexLock lock(mutex_);
    if (failure_) return fail(*failure_);
    return {};
  }
  void failed(const Error& error) {
    const MutexLock lock(mutex_);
    if (!failure_) failure_ = error;
  }

  const conf::JobConfig job_;
  const ParameterLayout layout_;
  std::vector<std::unique_ptr<CommunicatorFactory>> factories_;
  std::vector<std::string> addresses_;
  std::vector<AbortWord> abort_{job_.stages};
  std::barrier<> begin_{static_cast<ptrdiff_t>(job_.stages) + 1},
      end_{static_cast<ptrdiff_t>(job_.stages) + 1};
  Mutex mutex_;
  std::optional<Error> failure_ GUARDED_BY(mutex_);
  bool ending_ = false;
  uint64_t steps_ = 0;
  double loss_ = 0;  // of the last stage's member
  std::string path_;
  std::vector<std::thread> threads_;
};

// `first`: becomes the loss of the first step. `seconds` gets the mean of a step that counts, until all members
// are done with all of them.
Status measure(const conf::JobConfig& job, const Options& options, Row& row, double& first,
               std::vector<double>& seconds) {
  Pipeline pipeline(job);
  ASSIGN_OR_RETURN(first, pipeline.run(1));
  if (options.warm_up > 1) RETURN_IF_ERROR(pipeline.run(options.warm_up - 1));
  const auto begun = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(pipeline.run(options.steps));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  seconds.push_back(took.count() / static_cast<double>(options.steps));
  if (job.stages > 1) row.path = pipeline.path();
  return {};
}

Result<std::vector<Row>> compare(const std::string& name, const Options& options) {
  const conf::JobConfig one = job_of(benches().at(name), options, 1);
  conf::JobConfig staged = job_of(benches().at(name), options, options.stages);
  if (options.stages > one.model.layers)
    return fail(ErrorCode::kConfigValue,
                fmt::format("{} layers make no {} stages", one.model.layers, options.stages));
  Row row;
  row.model = name;
  row.stages = options.stages;
  row.micro_batches = options.micro_batches;
  row.sequences = one.micro_batch_sequences;
  for (const StageLayers& stage : split_layers(one.model, options.stages))
    row.layers.push_back(stage.layers);
  const size_t ways = options.clip_by.size();
  std::vector<double> seconds_one;
  std::vector<std::vector<double>> seconds_stages(ways);
  std::vector<Row> rows(ways, row);
  for (uint64_t turn = 0; turn < options.turns; ++turn) {
    double loss_one = 0;
    RETURN_IF_ERROR(measure(one, options, row, loss_one, seconds_one));
    for (size_t i = 0; i < ways; ++i) {
      rows[i].clip_by = staged.optimizer.clip_by = options.clip_by[i];
      rows[i].loss_one = loss_one;
      RETURN_IF_ERROR(measure(staged, options, rows[i], rows[i].loss_stages, seconds_stages[i]));
    }
  }
  const double tokens = double(row.sequences) * one.model.context * row.micro_batches;
  for (size_t i = 0; i < ways; ++i) {
    rows[i].seconds_one = median(seconds_one);
    rows[i].seconds_stages = median(seconds_stages[i]);
    rows[i].tokens_per_second_one = tokens / rows[i].seconds_one;
    rows[i].tokens_per_second_stages = tokens / rows[i].seconds_stages;
    rows[i].ratio = rows[i].seconds_one / rows[i].seconds_stages;
  }
  return rows;
}

Result<std::vector<std::string>> names_of_devices(uint32_t count) {
  std::vector<std::string> names;
  for (uint32_t ordinal = 0; ordinal < count; ++ordinal) {
    ASSIGN_OR_RETURN(const auto device, kernels::Cuda::open(ordinal));
    names.push_back(device->name());
  }
  return names;
}

std::string layers_text(const Row& row) {
  std::string text;
  for (const uint32_t layers : row.layers) text += fmt::format("{}{}", text.empty() ? "" : "+", layers);
  return text;
}

void print(const Row& row) {
  fmt::print("{:10} {:8} {:>9} {:>12.2f} {:>12.2f} {:>12.0f} {:>12.0f} {:>7.3f} {:>9.4f} {:>9.4f}\n",
             row.model, row.clip_by, layers_text(row), row.seconds_one * 1e3, row.seconds_stages * 1e3,
             row.tokens_per_second_one, row.tokens_per_second_stages, row.ratio, row.loss_one,
             row.loss_stages);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::string out, commit;
  CLI::App app{"Training in stages against one accelerator"};
  app.add_option("--models", options.models)->delimiter(',')->check([](const std::string& name) {
    return benches().contains(name) ? std::string() : "no such model: " + name;
  });
  app.add_option("--stages", options.stages, "accelerators, one for each")->check(CLI::Range(2, 256));
  app.add_option("--micro-batches", options.micro_batches, "of a step")->check(CLI::Range(1, 4096));
  app.add_option("--sequences", options.sequences, "of a micro-batch; 0: the model's");
  app.add_option("--in-flight", options.in_flight, "micro-batches that a lane holds; 0: the job's default");
  app.add_option("--clip-by", options.clip_by, "global, stage: by whose norm stages clip")
      ->delimiter(',')
      ->check(CLI::IsMember({"global", "stage"}));
  app.add_option("--steps", options.steps, "that count, in each turn")->check(CLI::Range(1, 10'000));
  app.add_option("--warm-up", options.warm_up, "steps before them")
      ->check(CLI::Range(1, 10'000));
  app.add_option("--turns", options.turns, "of one and then the other")->check(CLI::Range(1, 100));
  app.add_option("--commit", commit, "that this was built from, for the record")
      ->required()
      ->check(commit_complaint);
  app.add_option("--out", out, "write the results there as JSON");
  CLI11_PARSE(app, argc, argv);

  const auto devices = names_of_devices(options.stages);
  if (!devices) {
    fmt::print(stderr, "pipeline_bench: {}\n", devices.error().to_string());
    return 1;
  }
  Report report;
  report.commit = commit;
  report.devices = *devices;
  report.steps = options.steps;
  report.warm_up = options.warm_up;
  report.turns = options.turns;
  fmt::print("{:10} {:8} {:>9} {:>12} {:>12} {:>12} {:>12} {:>7} {:>9} {:>9}\n", "model", "clip by", "layers",
             "one ms/step", "stages ms", "one tok/s", "stages tok/s", "ratio", "one loss",
             "stages");
  int status = 0;
  for (const std::string& name : options.models) {
    const auto rows = compare(name, options);
    if (!rows) {
      fmt::print(stderr, "pipeline_bench: {}: {}\n", name, rows.error().to_string());
      return 1;
    }
    for (const Row& row : *rows) {
      print(row);
      if (const std::string why = unlike(row.loss_one, row.loss_stages, row.path); !why.empty()) {
        fmt::print(stderr, "pipeline_bench: {}: {}\n", name, why);
        status = 1;
      }
      report.models.push_back(row);
    }
  }
  if (!out.empty()) std::ofstream(out) << to_json_text(report) << "\n";
  return status;
}
