#include "conf/job_config.h"

#include <fmt/format.h>

#include <set>

#include "conf/files.h"
#include "conf/range.h"
#include "conf/toml_table.h"

namespace holdfast::conf {
namespace {

void read_model(TomlTable t, ModelConfig& m) {
  t.integer("vocabulary", m.vocabulary);
  t.integer("layers", m.layers);
  t.integer("width", m.width);
  t.integer("heads", m.heads);
  t.integer("kv_heads", m.kv_heads);
  t.integer("experts", m.experts);
  t.integer("top_k", m.top_k);
  t.integer("expert_width", m.expert_width);
  t.integer("context", m.context);
  t.real("rope_theta", m.rope_theta);
  t.real("norm_epsilon", m.norm_epsilon);
  t.real("load_balance_weight", m.load_balance_weight);
  t.real("z_loss_weight", m.z_loss_weight);
}

void read_data(TomlTable t, DataConfig& d) {
  t.text("path", d.path);
  t.real("held_out_fraction", d.held_out_fraction);
  t.integer("seed", d.seed);
}

void read_optimizer(TomlTable t, OptimizerConfig& o) {
  t.real("learning_rate", o.learning_rate);
  t.real("min_learning_rate", o.min_learning_rate);
  t.integer("warmup_steps", o.warmup_steps);
  t.real("beta1", o.beta1);
  t.real("beta2", o.beta2);
  t.real("epsilon", o.epsilon);
  t.real("weight_decay", o.weight_decay);
  t.real("clip", o.clip);
  t.text("clip_by", o.clip_by);
}

void read_snapshot(TomlTable t, SnapshotConfig& s) {
  t.text("policy", s.policy);
  t.integer("replicas", s.replicas);
  t.integer("every", s.every);
}

std::optional<SyntheticConfig> read_synthetic(TomlTable& root) {
  if (!root.has("synthetic")) return std::nullopt;
  TomlTable t = root.table("synthetic");
  SyntheticConfig s;
  t.real("forward_ms", s.forward_ms);
  t.real("input_gradient_ms", s.input_gradient_ms);
  t.real("weight_gradient_ms", s.weight_gradient_ms);
  t.real("experts_ms", s.experts_ms);
  t.real("update_ms", s.update_ms);
  t.text("policy", s.policy);
  return s;
}

constexpr double kLargestFactor = 1e6;

// The coordinator keeps a few words for every shard of the job.
constexpr uint64_t kMostShards = uint64_t{1} << 20;

Status shards_fit(const JobConfig& job) {
  const ModelConfig& m = job.model;
  // Embedding, head; attention, router and experts of every layer.
  const uint64_t groups = 2 + uint64_t{m.layers} * (2 + uint64_t{m.experts});
  if (groups * job.slices() <= kMostShards) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = {} slices of the {} parameter groups that model.layers = {} and "
                          "model.experts = {} make are {} shards; {} at most",
                          job.shards == 0 ? "pipelines" : "shards", job.slices(), groups, m.layers,
                          m.experts, groups * job.slices(), kMostShards));
}

// Plans of several stages are made for so many at most (train/schedule/problem.h).
constexpr uint32_t kMostPlannedPipelines = 1024;
constexpr uint64_t kMostPlannedCells = uint64_t{1} << 22;

Status validate_stages(const JobConfig& job) {
  RETURN_IF_ERROR(in_range("stages", job.stages, 1U, job.model.layers));
  RETURN_IF_ERROR(in_range("micro_batches_in_flight", job.micro_batches_in_flight, 0, 1 << 24));
  if (job.stages == 1) return {};
  RETURN_IF_ERROR(in_range("stages", job.stages, 1, 256));
  RETURN_IF_ERROR(in_range("pipelines", job.pipelines, 1U, kMostPlannedPipelines));
  const uint64_t cells = uint64_t{job.pipelines} * job.micro_batches * job.stages;
  if (cells > kMostPlannedCells)
    return fail(ErrorCode::kConfigValue,
                fmt::format("pipelines = {} x micro_batches = {} x stages = {} are {}; {} at most",
                            job.pipelines, job.micro_batches, job.stages, cells,
                            kMostPlannedCells));
  return {};
}

Status validate_optimizer(const OptimizerConfig& o) {
  RETURN_IF_ERROR(in_range("optimizer.learning_rate", o.learning_rate, 0.0, 100.0));
  RETURN_IF_ERROR(in_range("optimizer.min_learning_rate", o.min_learning_rate, 0.0,
                           o.learning_rate));
  RETURN_IF_ERROR(in_range("optimizer.beta1", o.beta1, 0.0, 0.999999));
  RETURN_IF_ERROR(in_range("optimizer.beta2", o.beta2, 0.0, 0.999999));
  RETURN_IF_ERROR(in_range("optimizer.epsilon", o.epsilon, 1e-16, 1.0));
  RETURN_IF_ERROR(in_range("optimizer.weight_decay", o.weight_decay, 0.0, 10.0));
  RETURN_IF_ERROR(in_range("optimizer.clip", o.clip, 0.0, 1e9));
  const std::set<std::string> known = {"global", "stage"};
  if (known.contains(o.clip_by)) return {};
  const auto near = nearest(o.clip_by, known);
  return fail(ErrorCode::kConfigValue,
              fmt::format("optimizer.clip_by = \"{}\" must be \"global\" or \"stage\"{}", o.clip_by,
                          near ? fmt::format(", did you mean \"{}\"?", *near) : ""));
}

Status validate_routing(const JobConfig& job) {
  if (job.routing != "dropless" && job.routing != "capacity")
    return fail(ErrorCode::kConfigValue,
                fmt::format("routing = \"{}\" must be \"dropless\" or \"capacity\"", job.routing));
  if (!job.capacity_factor) return {};
  if (job.routing == "dropless")
    return fail(ErrorCode::kConfigValue,
                fmt::format("capacity_factor = {} needs routing = \"capacity\": \"dropless\" has no "
                            "capacity and drops nothing",
                            *job.capacity_factor));
  if (!(*job.capacity_factor > 0 && *job.capacity_factor <= kLargestFactor))
    return fail(ErrorCode::kConfigValue, fmt::format("capacity_factor = {} is not above 0 and at most {}",
                                                     *job.capacity_factor, kLargestFactor));
  return {};
}

// Kernels of accelerators move rows 16 bytes at a time: 8 elements of bf16.
Status validate_backend(const JobConfig& job) {
  if (job.backend == "cpu") return {};
  if (job.backend != "cuda")
    return fail(ErrorCode::kConfigValue,
                fmt::format("backend = \"{}\" must be \"cpu\" or \"cuda\"", job.backend));
  if (job.reproducible)
    return fail(ErrorCode::kConfigValue,
                "reproducible = true needs backend = \"cpu\": fixed-point sums are not made on "
                "accelerators");
  const ModelConfig& m = job.model;
  const std::pair<const char*, uint32_t> multiples[] = {
      {"model.width / model.heads", m.width / m.heads},
      {"model.expert_width", m.expert_width},
      {"model.vocabulary", m.vocabulary}};
  for (const auto& [key, value] : multiples)
    if (value % 8 != 0)
      return fail(ErrorCode::kModelShape,
                  fmt::format("{} = {} must be a multiple of 8 with backend = \"cuda\"", key, value));
  if (m.width / m.heads > 128)
    return fail(ErrorCode::kModelShape,
                fmt::format("model.width / model.heads = {} is more than 128, which attention takes "
                            "with backend = \"cuda\"",
                            m.width / m.heads));
  if (m.experts > 256 || m.top_k > 16)
    return fail(ErrorCode::kModelShape,
                fmt::format("model.experts = {} and model.top_k = {}: at most 256 and 16 with "
                            "backend = \"cuda\"",
                            m.experts, m.top_k));
  return {};
}

constexpr double kLongestSyntheticMs = 20'000;

Status validate_synthetic(const JobConfig& job) {
  if (!job.synthetic) return {};
  if (job.backend != "cpu")
    return fail(ErrorCode::kConfigValue,
                fmt::format("[synthetic] needs backend = \"cpu\", not \"{}\": an accelerator's "
                            "operations take what they take",
                            job.backend));
  if (job.synthetic->policy == "reroute" && job.staggered())
    return fail(ErrorCode::kConfigValue,
                "synthetic.policy = \"reroute\" updates all stages together: it needs "
                "optimizer.clip_by = \"global\"");
  RETURN_IF_ERROR(validate(*job.synthetic));
  // The last stage waits so long for its first micro-batch, the first for a gradient to come back, and
  // others for a lane that is busy. Collectives end after 30 s.
  const SyntheticConfig& s = *job.synthetic;
  const double longest_ms = job.stages * (s.forward_ms + s.input_gradient_ms +
                                          s.weight_gradient_ms + 3 * s.experts_ms) + s.update_ms;
  if (longest_ms > kLongestSyntheticMs)
    return fail(ErrorCode::kConfigValue,
                fmt::format("[synthetic] times of all {} stages for one micro-batch, with update_ms, are "
                            "{:.0f} ms: at most {:.0f}, as workers wait no longer for each other",
                            job.stages, longest_ms, kLongestSyntheticMs));
  return {};
}

}  // namespace

bool valid_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name.front() != '.' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789-_.") == std::string_view::npos;
}

Status validate(const JobConfig& job) {
  if (!valid_name(job.name.value))
    return fail(ErrorCode::kConfigValue,
                fmt::format("name = \"{}\" must be 1 to 64 letters, digits, '-', '_' or '.'",
                            job.name.value));
  RETURN_IF_ERROR(validate(job.model));
  RETURN_IF_ERROR(in_range("steps", job.steps, uint64_t{1}, uint64_t{1} << 40));
  RETURN_IF_ERROR(in_range("pipelines", job.pipelines, 1, 4096));
  RETURN_IF_ERROR(in_range("micro_batches", job.micro_batches, 1, 4096));
  RETURN_IF_ERROR(validate_stages(job));
  RETURN_IF_ERROR(in_range("micro_batch_sequences", job.micro_batch_sequences, 1, 65536));
  RETURN_IF_ERROR(in_range("shards", job.shards, 0, 65536));
  RETURN_IF_ERROR(shards_fit(job));
  RETURN_IF_ERROR(in_range("slots_per_worker", job.slots_per_worker, 0, 65536));
  RETURN_IF_ERROR(in_range("tolerate", job.tolerate, 0, 4096));
  RETURN_IF_ERROR(in_range("evaluate_micro_batches", job.evaluate_micro_batches, 1, 65536));
  RETURN_IF_ERROR(validate_optimizer(job.optimizer));
  RETURN_IF_ERROR(validate_routing(job));
  RETURN_IF_ERROR(validate_backend(job));
  RETURN_IF_ERROR(validate_synthetic(job));
  if (job.data.path.empty())
    return fail(ErrorCode::kConfigMissing, "data.path is missing: give it in FILE or with --data");
  if (!(job.data.held_out_fraction > 0 && job.data.held_out_fraction <= 0.5))
    return fail(ErrorCode::kConfigValue,
                fmt::format("data.held_out_fraction = {} is not above 0 and at most 0.5",
                            job.data.held_out_fraction));
  if (uint64_t{job.slots()} * job.pipelines < job.model.experts)
    return fail(ErrorCode::kModelShape,
                fmt::format("slots_per_worker = {} on pipelines = {} workers is room for {} experts, "
                            "model.experts = {}",
                            job.slots(), job.pipelines, uint64_t{job.slots()} * job.pipelines,
                            job.model.experts));
  if (job.snapshot.policy != "dense" && job.snapshot.policy != "none")
    return fail(ErrorCode::kConfigValue,
                fmt::format("snapshot.policy = \"{}\" must be \"dense\" or \"none\"",
                            job.snapshot.policy));
  RETURN_IF_ERROR(in_range("snapshot.every", job.snapshot.every, 1, 1'000'000));
  if (job.workers() > 1 && job.snapshot.replicas >= job.workers())
    return fail(ErrorCode::kConfigValue,
                fmt::format("snapshot.replicas = {} needs more than that many workers, pipelines{} = {}",
                            job.snapshot.replicas, job.stages == 1 ? "" : " x stages",
                            job.workers()));
  return {};
}

Result<JobConfig> parse_job(const std::string& toml, const std::filesystem::path& named,
                            const JobOverrides& instead) {
  ASSIGN_OR_RETURN(TomlTable root, TomlTable::parse(toml, named));
  JobConfig job;
  root.text("name", job.name.value);
  root.integer("seed", job.seed);
  root.integer("steps", job.steps);
  root.integer("pipelines", job.pipelines);
  root.integer("stages", job.stages);
  root.integer("micro_batches", job.micro_batches);
  root.integer("micro_batches_in_flight", job.micro_batches_in_flight);
  root.integer("micro_batch_sequences", job.micro_batch_sequences);
  root.integer("shards", job.shards);
  root.integer("slots_per_worker", job.slots_per_worker);
  root.integer("tolerate", job.tolerate);
  root.boolean("reproducible", job.reproducible);
  root.text("routing", job.routing);
  root.real("capacity_factor", job.capacity_factor);
  root.text("backend", job.backend);
  root.integer("evaluate_every", job.evaluate_every);
  root.integer("evaluate_micro_batches", job.evaluate_micro_batches);
  read_model(root.table("model"), job.model);
  read_data(root.table("data"), job.data);
  read_optimizer(root.table("optimizer"), job.optimizer);
  read_snapshot(root.table("snapshot"), job.snapshot);
  job.synthetic = read_synthetic(root);
  RETURN_IF_ERROR(root.finish());
  if (job.name.value.empty()) job.name = JobId(named.stem().string());
  const std::filesystem::path data(job.data.path);
  if (!data.empty() && data.is_relative())
    job.data.path = (std::filesystem::absolute(named).parent_path() / data)
                        .lexically_normal()
                        .string();
  if (!instead.data.empty())
    job.data.path = std::filesystem::absolute(instead.data).lexically_normal().string();
  if (!instead.name.empty()) job.name = JobId(instead.name);
  if (instead.steps) job.steps = *instead.steps;
  if (Status valid = validate(job); !valid)
    return fail(with_context(valid.error(), "in " + named.string()));
  return job;
}

Result<JobConfig> load_job(const std::filesystem::path& file, const JobOverrides& instead) {
  ASSIGN_OR_RETURN(const std::string text, read_config_file(file));
  return parse_job(text, file, instead);
}

}  // namespace holdfast::conf
