// A job file (conf/jobs/*.toml), parsed and validated once, immutable afterwards.
#pragma once

#include <algorithm>
#include <boost/describe.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "conf/model_config.h"
#include "conf/synthetic_config.h"

namespace holdfast::conf {

struct DataConfig {
  std::string path;                 // token file (.tokens), .bin, or Megatron prefix.bin/.idx
  double held_out_fraction = 0.05;  // the tail of the file, never trained on
  uint64_t seed = 1;                // order of the batches

  bool operator==(const DataConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(DataConfig, (), (path, held_out_fraction, seed))

struct OptimizerConfig {
  double learning_rate = 1e-3;
  double min_learning_rate = 1e-4;  // cosine decay ends here
  uint64_t warmup_steps = 20;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // on matrices only, not on norms
  double clip = 1.0;          // the most that the gradient norm is; 0 switches it off
  std::string clip_by = "global";  // the norm is of all stages, or "stage": of each by itself

  bool operator==(const OptimizerConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(OptimizerConfig, (),
                      (learning_rate, min_learning_rate, warmup_steps, beta1, beta2, epsilon,
                       weight_decay, clip, clip_by))

struct SnapshotConfig {
  std::string policy = "dense";  // "dense" or "none"
  uint32_t replicas = 1;         // r: other failure domains that hold every shard
  uint32_t every = 1;            // steps between captures at the least

  bool operator==(const SnapshotConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(SnapshotConfig, (), (policy, replicas, every))

inline constexpr double kCapacityFactor = 1.25;

struct JobConfig {
  JobId name;
  uint64_t seed = 1;  // initial weights
  uint64_t steps = 200;
  uint32_t pipelines = 4;             // D: workers of a stage
  uint32_t stages = 1;                // S: the layers are split over so many workers
  uint32_t micro_batches = 2;         // M: per pipeline and step; a step has D*M
  uint32_t micro_batches_in_flight = 0;  // that a lane holds at most; 0 stands for 2*S
  uint32_t micro_batch_sequences = 4; // B: sequences of T tokens in a micro-batch
  uint32_t shards = 0;                // P: slices per parameter group; 0 stands for D
  uint32_t slots_per_worker = 0;      // k; 0 stands for ceil(E / D)
  uint32_t tolerate = 1;              // lost lanes that room is reserved for
  bool reproducible = false;
  std::string routing = "dropless";       // or "capacity": an expert takes so many tokens, no more
  std::optional<double> capacity_factor;  // of routing "capacity" only; see capacity()
  std::string backend = "cpu";  // what workers compute on: "cpu" or "cuda"
  uint64_t evaluate_every = 50;  // steps; 0: only at the end
  uint32_t evaluate_micro_batches = 8;
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  SnapshotConfig snapshot;
  std::optional<SyntheticConfig> synthetic;  // nullopt: operations take what they take

  uint32_t workers() const { return pipelines * stages; }
  // Stages wait for no gradient norm of each other: each updates once its own weight gradients are there.
  bool staggered() const { return stages > 1 && optimizer.clip_by == "stage"; }
  uint32_t slices() const { return shards == 0 ? pipelines : shards; }
  // No more than there are in a step.
  uint32_t in_flight() const {
    const uint32_t wanted = micro_batches_in_flight == 0 ? 2 * stages : micro_batches_in_flight;
    return std::min(wanted, pipelines * micro_batches);
  }
  uint32_t slots() const {
    return slots_per_worker == 0 ? (model.experts + pipelines - 1) / pipelines : slots_per_worker;
  }
  // What an expert takes of a micro-batch, as a multiple of its even share; nullopt: everything.
  std::optional<double> capacity() const {
    if (routing != "capacity") return std::nullopt;
    return capacity_factor.value_or(kCapacityFactor);
  }
  bool operator==(const JobConfig&) const = default;
};
BOOST_DESCRIBE_STRUCT(JobConfig, (),
                      (name, seed, steps, pipelines, stages, micro_batches, micro_batches_in_flight,
                       micro_batch_sequences, shards, slots_per_worker, tolerate, reproducible, routing, capacity_factor, backend,
                       evaluate_every, evaluate_micro_batches, model, data, optimizer, snapshot,
                       synthetic))

// Names of jobs, nodes and clusters stand in paths, URLs and headers: 1 to 64 letters, digits, '-',
// '_' or '.', none in front.
bool valid_name(std::string_view name);
// Ranges and divisibility, every message naming key, value and allowed values.
Status validate(const JobConfig& job);
// What a person may give beside the file: put in before anything is checked.
struct JobOverrides {
  std::string name = {};
  std::string data = {};  // relative to the current folder
  std::optional<uint64_t> steps = {};
};
// Unknown keys are rejected with the nearest known one, errors name file, line and key. A relative
// data.path is relative to the job file.
Result<JobConfig> load_job(const std::filesystem::path& file, const JobOverrides& instead = {});
Result<JobConfig> parse_job(const std::string& toml, const std::filesystem::path& named,
                            const JobOverrides& instead = {});

}  // namespace holdfast::conf
