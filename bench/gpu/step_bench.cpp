// Training steps on one accelerator, no cluster around it: tokens a second and model FLOP/s of the
// models that the GPU benchmarks speak of, on random tokens. Builds nothing, needs one device.
//   step_bench [--models moe-s16,moe-1b16,moe-s64] [--steps N] [--warm-up N] [--out FILE]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <random>

#include "base/json.h"
#include "train/comm/in_process.h"
#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"

namespace {

using namespace holdfast;
using namespace holdfast::train;

struct Bench {
  conf::ModelConfig model;
  uint32_t sequences;
};

conf::ModelConfig mixtral_like(uint32_t width, uint32_t layers, uint32_t heads, uint32_t ffn,
                               uint32_t experts, uint32_t top_k) {
  conf::ModelConfig model;
  model.vocabulary = 50304;
  model.layers = layers;
  model.width = width;
  model.heads = model.kv_heads = heads;
  model.experts = experts;
  model.top_k = top_k;
  model.expert_width = ffn;
  model.context = 1024;
  return model;
}

const std::map<std::string, Bench>& benches() {
  static const std::map<std::string, Bench> all = {
      {"moe-s16", {mixtral_like(768, 12, 12, 2048, 16, 2), 32}},
      {"moe-1b16", {mixtral_like(1024, 16, 16, 2048, 16, 2), 16}},
      {"moe-s64", {mixtral_like(768, 12, 12, 1024, 64, 8), 16}},
      {"tiny", {mixtral_like(256, 2, 4, 512, 8, 2), 2}},
  };
  return all;
}

// Of forward and backward, for one token: six for every parameter that it meets, and attention over the
// mean half of the context.
double flops_per_token(const conf::ModelConfig& m) {
  const double d = m.width, f = m.expert_width;
  const double attention = 2 * d * d + 2 * d * (d / m.heads) * m.kv_heads;
  const double met = m.layers * (attention + m.top_k * 3 * d * f + d * m.experts) +
                     d * m.vocabulary;
  return 6 * met + 6.0 * m.layers * d * m.context;
}

conf::JobConfig job_of(const Bench& bench, uint64_t steps) {
  conf::JobConfig job;
  job.name = JobId("bench");
  job.steps = steps;
  job.pipelines = 1;
  job.micro_batches = 1;
  job.micro_batch_sequences = bench.sequences;
  job.evaluate_micro_batches = 0;
  job.model = bench.model;
  job.optimizer.learning_rate = 3e-4;
  job.data.path = "random";
  return job;
}

BatchSource random_tokens(const conf::JobConfig& job) {
  const auto make = [job](uint64_t key) {
    std::mt19937_64 random(key);
    MicroBatch batch{job.micro_batch_sequences, job.model.context, {}, {}};
    const size_t tokens = size_t{batch.sequences} * batch.context;
    for (auto* row : {&batch.tokens, &batch.targets})
      for (size_t i = 0; i < tokens; ++i)
        row->push_back(static_cast<int32_t>(random() % job.model.vocabulary));
    return batch;
  };
  // Made before the clock runs.
  auto kept = std::make_shared<std::vector<MicroBatch>>();
  for (uint64_t i = 0; i < 4; ++i) kept->push_back(make(i));
  return {[kept](Step step, MicroBatchIndex) -> Result<MicroBatch> {
            return (*kept)[step.value % kept->size()];
          },
          [kept](uint32_t) -> Result<MicroBatch> { return kept->front(); }};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Row {
  std::string model;
  double first_loss = 0, last_loss = 0, seconds = 0, fastest_seconds = 0, tokens_per_second = 0,
         model_tflops = 0;
};
BOOST_DESCRIBE_STRUCT(Row, (),
                      (model, first_loss, last_loss, seconds, fastest_seconds, tokens_per_second,
                       model_tflops))

Result<Row> measure(const std::string& name, uint64_t warm_up, uint64_t steps) {
  const Bench& bench = benches().at(name);
  const conf::JobConfig job = job_of(bench, warm_up + steps);
  ASSIGN_OR_RETURN(auto device, kernels::Cuda::open(0));
  AbortWord abort;
  LaneTrainer<CudaBackend> trainer(std::move(device), job, random_tokens(job), abort,
                                   [](Step, uint32_t, bool) {});
  auto group = make_in_process_group(1, 600'000);
  const ParameterLayout layout(job.model, job.slices());
  RETURN_IF_ERROR(trainer.open_view({Epoch{1, 1}, {}, 0, {0},
                                     std::vector<uint32_t>(layout.shard_count(), 0)}));
  for (uint32_t shard = 0; shard < layout.shard_count(); ++shard)
    RETURN_IF_ERROR(trainer.init_shard(shard));
  RETURN_IF_ERROR(trainer.finish_loading());
  RETURN_IF_ERROR(trainer.materialize(*group[0]));
  Row row{name};
  std::vector<double> seconds;
  for (uint64_t step = 0; step < warm_up + steps; ++step) {
    ASSIGN_OR_RETURN(const StepDone done, trainer.run_step(*group[0], Step(step)));
    if (step == 0) row.first_loss = done.loss;
    row.last_loss = done.loss;
    if (step >= warm_up) seconds.push_back(done.seconds);
  }
  const double tokens = double(bench.sequences) * bench.model.context;
  row.seconds = median(seconds);
  row.fastest_seconds = *std::min_element(seconds.begin(), seconds.end());
  row.tokens_per_second = tokens / row.seconds;
  row.model_tflops = row.tokens_per_second * flops_per_token(bench.model) / 1e12;
  return row;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> models = {"moe-s16", "moe-1b16", "moe-s64"};
  uint64_t steps = 20, warm_up = 5;
  std::string out;
  CLI::App app{"Training steps on one accelerator"};
  app.add_option("--models", models)->delimiter(',')->check([](const std::string& name) {
    return benches().contains(name) ? std::string() : "no such model: " + name;
  });
  app.add_option("--steps", steps)->check(CLI::Range(1, 10'000));
  app.add_option("--warm-up", warm_up);
  app.add_option("--out", out, "write the rows there as JSON");
  CLI11_PARSE(app, argc, argv);

  fmt::print("{:10} {:>9} {:>9} {:>12} {:>14} {:>12} {:>10}\n", "model", "first", "last", "ms/step",
             "fastest ms", "tokens/s", "TFLOP/s");
  std::vector<Row> rows;
  for (const std::string& name : models) {
    const auto row = measure(name, warm_up, steps);
    if (!row) {
      fmt::print(stderr, "step_bench: {}: {}\n", name, row.error().to_string());
      return 1;
    }
    fmt::print("{:10} {:>9.4f} {:>9.4f} {:>12.2f} {:>14.2f} {:>12.0f} {:>10.1f}\n", name,
               row->first_loss, row->last_loss, row->seconds * 1e3, row->fastest_seconds * 1e3,
               row->tokens_per_second, row->model_tflops);
    rows.push_back(*row);
  }
  if (!out.empty()) std::ofstream(out) << to_json_text(rows) << "\n";
  return 0;
}
