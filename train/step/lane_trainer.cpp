#include "train/step/lane_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/fault_point.h"
#include "train/optimizer/adamw.h"
#include "train/optimizer/init.h"
#include "train/step/counting_communicator.h"

namespace holdfast::train {

Result<std::unique_ptr<Trainer>> Trainer::create(const conf::JobConfig& job, AbortWord& abort,
                                                 ProgressFn progress) {
  RETURN_IF_ERROR(conf::validate(job));
  ASSIGN_OR_RETURN(Batches opened, Batches::open(job));
  const auto batches = std::make_shared<Batches>(std::move(opened));
  return std::make_unique<LaneTrainer>(
      job,
      BatchSource{[batches](Step step, MicroBatchIndex j) { return batches->training(step, j); },
                  [batches](uint32_t index) { return batches->held_out(index); },
                  batches->fingerprint()},
      abort, std::move(progress));
}

LaneTrainer::LaneTrainer(const conf::JobConfig& job, BatchSource batches, AbortWord& abort,
                         ProgressFn progress)
    : job_(job),
      layout_(job.model, job.slices()),
      batches_(std::move(batches)),
      abort_(abort),
      progress_(std::move(progress)),
      model_(job.model),
      store_(layout_),
      gradients_(job.reproducible) {}

size_t LaneTrainer::shard_bytes(uint32_t shard) const {
  return layout_.shard_bytes(ShardId::unflat(shard, layout_.slices()));
}

// ---- a view ---------------------------------------------------------------------------------------

Status LaneTrainer::open_view(const TrainerView& view) {
  CHECK(view.owner_lane.size() == layout_.shard_count() && view.lane < view.coordinates.size());
  const auto lanes = static_cast<uint32_t>(view.coordinates.size());
  epoch_ = view.epoch;
  map_ = StageMap{&layout_,
                  place_static(job_.model.layers, job_.model.experts, lanes,
                               slots_per_lane(job_.slots(), job_.model.experts, lanes)),
                  view.owner_lane, view.lane, lanes};
  rounds_ = plan_rounds(job_.pipelines, job_.micro_batches, view.coordinates);
  std::vector<uint32_t> owned;
  for (uint32_t shard = 0; shard < view.owner_lane.size(); ++shard)
    if (view.owner_lane[shard] == view.lane) owned.push_back(shard);
  store_.open(owned, view.base);
  materialized_ = false;
  losses_.clear();
  finished_.reset();
  if (unevaluated_ &&
      StateVersion{Version(unevaluated_->step.value + 1), unevaluated_->epoch} != view.base)
    unevaluated_.reset();
  return {};
}

Status LaneTrainer::load_shard(uint32_t shard, std::span<const std::byte> payload) {
  if (payload.size() != shard_bytes(shard))
    return fail(ErrorCode::kRestoreImpossible,
                fmt::format("shard {} has {} bytes, {} were given", shard, shard_bytes(shard),
                            payload.size()));
  const ShardView view = store_.load(shard);
  const size_t bytes = view.master.size_bytes();
  if (bytes > 0) {
    std::memcpy(view.master.data(), payload.data(), bytes);
    std::memcpy(view.m.data(), payload.data() + bytes, bytes);
    std::memcpy(view.v.data(), payload.data() + 2 * bytes, bytes);
  }
  store_.set_loaded(shard);
  return {};
}

Status LaneTrainer::init_shard(uint32_t shard) {
  const ShardId id = map_.shard(shard);
  const ShardView view = store_.load(shard);
  initial_values(job_.seed, layout_.group(id.group), layout_.range(id), view.master);
  std::fill(view.m.begin(), view.m.end(), 0.0F);
  std::fill(view.v.begin(), view.v.end(), 0.0F);
  store_.set_loaded(shard);
  return {};
}

// Another text on one node would train on silently, and no step could be repeated elsewhere.
Status LaneTrainer::compare_data(Communicator& comm) const {
  std::vector<DataFingerprint> all(map_.lanes);
  const std::vector<size_t> sizes(map_.lanes, sizeof(DataFingerprint));
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(&batches_.data, 1)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  const auto as_many = [&](const DataFingerprint& data) {
    return std::count(all.begin(), all.end(), data);
  };
  const auto usual = std::max_element(
      all.begin(), all.end(), [&](const auto& a, const auto& b) { return as_many(a) < as_many(b); });
  if (*usual == batches_.data) return {};
  return fail(ErrorCode::kDataDiffers,
              fmt::format("{} has {} tokens with checksum {:016x} on lane {}, but {} with checksum "
                          "{:016x} on lane {}",
                          job_.data.path, batches_.data.tokens, batches_.data.checksum, map_.lane,
                          usual->tokens, usual->checksum, usual - all.begin()));
}

Status LaneTrainer::materialize(Communicator& comm) {
  CHECK(comm.size() == map_.lanes && comm.rank() == map_.lane);
  if (!store_.complete())
    return fail(ErrorCode::kRestoreImpossible,
                fmt::format("not every owned shard is at {}", to_string(store_.current())));
  RETURN_IF_ERROR(compare_data(comm));
  RETURN_IF_ERROR(make_weights(comm));
  return make_up_evaluation(comm);
}

Status LaneTrainer::make_weights(Communicator& comm) {
  fault_point("train.materialize");
  RETURN_IF_ERROR(train::materialize(comm, map_, store_, weights_));
  materialized_ = true;
  return {};
}

// ---- progress -------------------------------------------------------------------------------------

void LaneTrainer::at(Step step, uint32_t round, bool waiting) {
  at_step_ = step;
  at_round_ = round;
  progress_(step, round, waiting);
}

MarkFn LaneTrainer::marker() const {
  return [this] { progress_(at_step_, at_round_, false); };
}

// ---- a step ---------------------------------------------------------------------------------------

ModelContext LaneTrainer::context(Communicator& comm) const {
  return {comm, map_.placement, job_.reproducible,
          1.0 / (static_cast<double>(job_.pipelines) * job_.micro_batches)};
}

Result<StepDone> LaneTrainer::run_step(Communicator& lane_comm, Step step) {
  CHECK(materialized_ && store_.current().version == Version(step.value));
  const auto begun = std::chrono::steady_clock::now();
  CountingCommunicator comm(lane_comm);
  StepDone done;
  done.epoch = epoch_;
  done.step = step;
  done.lane = map_.lane;

  RETURN_IF_ERROR(run_rounds(comm, step));
  fault_point("train.reduce");
  ASSIGN_OR_RETURN(const ReducedGradients reduced, reduce(comm, map_, gradients_));
  RETURN_IF_ERROR(gather_losses(comm, done));
  // Every lane has sent its part of the norm only after its own reduce: all sums are whole.
  ASSIGN_OR_RETURN(done.gradient_norm, global_norm(comm, map_, reduced));
  RETURN_IF_ERROR(update(reduced, done));

  // The version exists now; what fails below does not take it back.
  done.bytes_exchanged = comm.sent_bytes();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  finished_ = done;
  if (evaluation_is_due(Version(step.value + 1))) unevaluated_ = done;
  materialized_ = false;
  RETURN_IF_ERROR(make_weights(comm));
  done.bytes_exchanged = comm.sent_bytes();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  if (evaluation_is_due(Version(step.value + 1))) {
    ASSIGN_OR_RETURN(done.held_out_loss, evaluate(comm));
  }
  finished_.reset();
  unevaluated_.reset();
  return done;
}

Status LaneTrainer::run_rounds(Communicator& comm, Step step) {
  gradients_.reset(map_);
  losses_.clear();
  uint32_t number = 0;
  for (const Round& round : rounds_) {
    at(step, number++);
    fault_point("train.forward");
    RETURN_IF_ERROR(run_round(comm, step, round.lanes[map_.lane]));
  }
  return {};
}

Status LaneTrainer::run_round(Communicator& comm, Step step,
                              std::optional<MicroBatchIndex> micro_batch) {
  std::optional<MicroBatch> batch;
  if (micro_batch) {
    ASSIGN_OR_RETURN(batch, batches_.training(step, *micro_batch));
  }
  const ModelContext context = this->context(comm);
  const MarkedWeights weights(weights_, marker());
  MarkedGradients gradients(gradients_, marker());
  ASSIGN_OR_RETURN(const auto stash, model_.forward(batch ? &*batch : nullptr, weights, context));
  if (batch) losses_.push_back(stash->loss());
  RETURN_IF_ERROR(model_.input_gradient(*stash, weights, context));
  RETURN_IF_ERROR(model_.weight_gradient(*stash, gradients));
  return model_.expert_weight_gradient(*stash, gradients);
}

// Losses are summed in the order of micro-batches, whoever ran them.
Status LaneTrainer::gather_losses(Communicator& comm, StepDone& done) {
  const size_t cells = size_t{job_.model.layers} * job_.model.experts;
  const size_t row_bytes = sizeof(LossRow) + cells * sizeof(uint64_t);
  std::vector<std::byte> mine;
  for (const MicroBatchLoss& loss : losses_) {
    const LossRow row{loss.cross_entropy, loss.load_balance, loss.z_loss};
    const auto head = std::as_bytes(std::span(&row, 1));
    const auto tail = std::as_bytes(std::span(loss.popularity));
    mine.insert(mine.end(), head.begin(), head.end());
    mine.insert(mine.end(), tail.begin(), tail.end());
  }
  std::vector<size_t> sizes(map_.lanes);
  std::vector<std::vector<uint32_t>> ran(map_.lanes);
  for (const Round& round : rounds_)
    for (uint32_t lane = 0; lane < map_.lanes; ++lane)
      if (round.lanes[lane]) ran[lane].push_back(round.lanes[lane]->value);
  for (uint32_t lane = 0; lane < map_.lanes; ++lane) sizes[lane] = ran[lane].size() * row_bytes;
  const uint32_t count = job_.pipelines * job_.micro_batches;
  std::vector<std::byte> all(count * row_bytes);
  RETURN_IF_ERROR(comm.all_gather(mine, all, sizes));

  std::vector<const std::byte*> by_micro_batch(count);
  const std::byte* at = all.data();
  for (const auto& lane : ran)
    for (const uint32_t j : lane) {
      by_micro_batch[j] = at;
      at += row_bytes;
    }
  LossRow sum;
  done.popularity.assign(cells, 0);
  std::vector<uint64_t> popularity(cells);
  for (const std::byte* from : by_micro_batch) {
    LossRow row;
    std::memcpy(&row, from, sizeof row);
    std::memcpy(popularity.data(), from + sizeof row, cells * sizeof(uint64_t));
    sum.cross_entropy += row.cross_entropy;
    sum.load_balance += row.load_balance;
    sum.z_loss += row.z_loss;
    for (size_t c = 0; c < cells; ++c) done.popularity[c] += popularity[c];
  }
  done.micro_batches = ran[map_.lane];
  done.loss = sum.cross_entropy / count;
  done.load_balance_loss = sum.load_balance / count;
  done.z_loss = sum.z_loss / count;
  done.tokens = uint64_t{count} * job_.micro_batch_sequences * job_.model.context;
  if (!std::isfinite(done.loss + done.load_balance_loss + done.z_loss))
    return fail(ErrorCode::kLossNotFinite,
                fmt::format("step {}: cross entropy {}, load balance {}, z-loss {}",
                            done.step.value, done.loss, done.load_balance_loss, done.z_loss));
  return {};
}

Status LaneTrainer::update(const ReducedGradients& reduced, StepDone& done) {
  if (!std::isfinite(done.gradient_norm))
    return fail(ErrorCode::kLossNotFinite,
                fmt::format("step {}: the gradient norm is {}", done.step.value,
                            done.gradient_norm));
  const double clip = job_.optimizer.clip;
  done.learning_rate = learning_rate(job_.optimizer, job_.steps, done.step);
  const AdamwStep adamw_step{done.learning_rate,
                             clip > 0 && done.gradient_norm > clip ? clip / done.gradient_norm : 1,
                             done.step.value + 1};
  fault_point("train.update");
  at(done.step, at_round_, true);  // a capture may hold the buffer for a while
  store_.begin_update();
  at(done.step, at_round_);
  for (const uint32_t shard : store_.owned()) {
    // An aborted reduction never becomes a version: nothing is committed once the word is set.
    if (abort_.is_set()) return fail(ErrorCode::kCommAborted, "the view ended before the update");
    at(done.step, at_round_);
    const ShardId id = map_.shard(shard);
    adamw(job_.optimizer, adamw_step, layout_.group(id.group), layout_.range(id),
          store_.now(shard), reduced.values(shard), store_.next(shard));
  }
  if (abort_.is_set()) return fail(ErrorCode::kCommAborted, "the view ended before the update");
  store_.commit_update({Version(done.step.value + 1), epoch_});
  fault_point("train.updated");
  return {};
}

// ---- evaluation -----------------------------------------------------------------------------------

bool LaneTrainer::evaluation_is_due(Version version) const {
  if (job_.evaluate_micro_batches == 0) return false;
  return version.value == job_.steps ||
         (job_.evaluate_every > 0 && version.value % job_.evaluate_every == 0);
}

// No step follows the job's last version, so its evaluation is made up for when a view begins there.
// By all lanes: which of them had finished it is not known here.
Status LaneTrainer::make_up_evaluation(Communicator& comm) {
  const Version base = store_.current().version;
  if (base.value != job_.steps || !evaluation_is_due(base)) return {};
  ASSIGN_OR_RETURN(const double loss, evaluate(comm));
  if (!unevaluated_) return {};
  finished_ = std::exchange(unevaluated_, {});
  finished_->epoch = epoch_;
  finished_->lane = map_.lane;
  finished_->held_out_loss = loss;
  return {};
}

// Mean cross entropy over the held-out micro-batches, summed in their order on every lane.
Result<double> LaneTrainer::evaluate(Communicator& comm) {
  const uint32_t count = job_.evaluate_micro_batches;
  const ModelContext context = this->context(comm);
  const MarkedWeights weights(weights_, marker());
  std::vector<double> mine;
  std::vector<size_t> sizes(map_.lanes);
  for (uint32_t first = 0; first < count; first += map_.lanes) {
    at(Step(store_.current().version.value), first);
    std::optional<MicroBatch> batch;
    if (first + map_.lane < count) {
      ASSIGN_OR_RETURN(batch, batches_.held_out(first + map_.lane));
    }
    ASSIGN_OR_RETURN(const MicroBatchLoss loss,
                     model_.evaluate(batch ? &*batch : nullptr, weights, context));
    if (batch) mine.push_back(loss.cross_entropy);
    for (uint32_t lane = 0; lane < map_.lanes; ++lane)
      if (first + lane < count) sizes[lane] += sizeof(double);
  }
  std::vector<double> all(count);
  RETURN_IF_ERROR(comm.all_gather(std::as_bytes(std::span(mine)),
                                  std::as_writable_bytes(std::span(all)), sizes));
  std::vector<size_t> next(map_.lanes);
  for (uint32_t lane = 1; lane < map_.lanes; ++lane)
    next[lane] = next[lane - 1] + sizes[lane - 1] / sizeof(double);
  double sum = 0;
  for (uint32_t index = 0; index < count; ++index) sum += all[next[index % map_.lanes]++];
  return sum / count;
}

}  // namespace holdfast::train
