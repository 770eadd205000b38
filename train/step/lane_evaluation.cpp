// The held-out loss: LaneTrainer's part that no step depends on.
#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"

namespace holdfast::train {

template <class B>
bool LaneTrainer<B>::evaluation_is_due(Version version) const {
  if (job_.evaluate_micro_batches == 0) return false;
  return version.value == job_.steps ||
         (job_.evaluate_every > 0 && version.value % job_.evaluate_every == 0);
}

// No step follows the job's last version, so its evaluation is made up for when a view begins there.
// By all lanes: which of them had finished it is not known here. Where only the last stage knows the result its
// lanes tell it even if none of them made that version, all of their processes being new: a row of just that.
template <class B>
Status LaneTrainer<B>::make_up_evaluation(const Wires& wires) {
  const Version base = store_.current().version;
  if (base.value != job_.steps || !evaluation_is_due(base)) return {};
  ASSIGN_OR_RETURN(const std::optional<double> loss, evaluate(wires));
  if (!loss || (!unevaluated_ && !job_.staggered())) return {};
  finished_ = unevaluated_ ? std::exchange(unevaluated_, {}) : StepDone{};
  finished_->epoch = epoch_;
  finished_->step = Step(base.value - 1);
  finished_->lane = member_;
  if (job_.staggered()) finished_->of_stage = StageShare{stage_, job_.stages};
  finished_->held_out_loss = loss;
  return {};
}

// Micro-batch i runs on lane i mod c of each stage, forward only. The cross entropy where this lane ran it
// and its stage has the head.
template <class B>
Result<std::optional<double>> LaneTrainer<B>::evaluate_one(const Wires& wires, uint32_t index) {
  const MarkedWeights<B> weights(weights_, marker());
  const ModelContext context = this->context(wires);
  const auto runs = [&](uint32_t stage) {
    return members_.member(stage, index % members_.lanes(stage));
  };
  const bool mine = index < job_.evaluate_micro_batches;
  std::optional<MicroBatch> batch;
  std::span<const typename B::Value> x_ND;
  if (mine) {
    batch = sizes();
    if (map_.stage.embeds || map_.stage.has_head) {
      ASSIGN_OR_RETURN(batch, batches_.held_out(index));
    }
    if (!map_.stage.embeds) {
      ASSIGN_OR_RETURN(const std::byte* at,
                       wires.hand_over.receive(runs(stage_ - 1),
                                               activations() * sizeof(typename B::Value)));
      x_ND = {reinterpret_cast<const typename B::Value*>(at), activations()};
    }
  }
  ASSIGN_OR_RETURN(const auto stash,
                   model_->evaluate(batch ? &*batch : nullptr, weights, context, x_ND));
  if (!mine) return std::optional<double>();
  if (map_.stage.has_head) return std::optional(stash->loss().cross_entropy);
  const auto y_ND = stash->output();
  RETURN_IF_ERROR(wires.hand_over.send(
      runs(stage_ + 1), reinterpret_cast<const std::byte*>(y_ND.data()), y_ND.size_bytes()));
  return std::optional<double>();
}

// Mean cross entropy over the held-out micro-batches, summed in their order on every lane; where stages do
// not wait for each other, on those of the last.
template <class B>
Result<std::optional<double>> LaneTrainer<B>::evaluate(const Wires& wires) {
  const uint32_t count = job_.evaluate_micro_batches;
  std::vector<double> mine;
  for (uint32_t first = 0; first < count; first += map_.lanes) {
    at(Step(store_.current().version.value), first);
    ASSIGN_OR_RETURN(const auto loss, evaluate_one(wires, first + map_.lane));
    if (loss) mine.push_back(*loss);
  }
  const uint32_t last = members_.stages() - 1, lanes = members_.lanes(last);
  if (job_.staggered() && stage_ != last) return std::nullopt;  // the next step waits till these have left
  if (!job_.staggered()) RETURN_IF_ERROR(wires.hand_over.flush());
  const uint32_t first_lane = job_.staggered() ? 0 : members_.first[last];  // of the last stage
  std::vector<size_t> sizes(wires.step.size());
  for (uint32_t index = 0; index < count; ++index)
    sizes[first_lane + index % lanes] += sizeof(double);
  std::vector<double> all(count);
  RETURN_IF_ERROR(wires.step.all_gather(std::as_bytes(std::span(mine)),
                                        std::as_writable_bytes(std::span(all)), sizes));
  std::vector<size_t> next(lanes);
  for (uint32_t lane = 1; lane < lanes; ++lane)
    next[lane] = next[lane - 1] + sizes[first_lane + lane - 1] / sizeof(double);
  double sum = 0;
  for (uint32_t index = 0; index < count; ++index) sum += all[next[index % lanes]++];
  return sum / count;
}

#define INSTANTIATE(B)                                                              \
  template Result<std::optional<double>> LaneTrainer<B>::evaluate_one(              \
      const LaneTrainer<B>::Wires&, uint32_t);                                      \
  template bool LaneTrainer<B>::evaluation_is_due(Version) const;                   \
  template Status LaneTrainer<B>::make_up_evaluation(const LaneTrainer<B>::Wires&); \
  template Result<std::optional<double>> LaneTrainer<B>::evaluate(                  \
      const LaneTrainer<B>::Wires&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
