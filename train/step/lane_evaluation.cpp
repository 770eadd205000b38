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
// By all lanes: which of them had finished it is not known here.
template <class B>
Status LaneTrainer<B>::make_up_evaluation(const Wires& wires) {
  const Version base = store_.current().version;
  if (base.value != job_.steps || !evaluation_is_due(base)) return {};
  ASSIGN_OR_RETURN(const double loss, evaluate(wires));
  if (!unevaluated_) return {};
  finished_ = std::exchange(unevaluated_, {});
  finished_->epoch = epoch_;
  finished_->lane = map_.lane;
  finished_->held_out_loss = loss;
  return {};
}

// Mean cross entropy over the held-out micro-batches, summed in their order on every lane.
template <class B>
Result<double> LaneTrainer<B>::evaluate(const Wires& wires) {
  const uint32_t count = job_.evaluate_micro_batches;
  const ModelContext context = this->context(wires);
  const MarkedWeights<B> weights(weights_, marker());
  std::vector<double> mine;
  std::vector<size_t> sizes(map_.lanes);
  for (uint32_t first = 0; first < count; first += map_.lanes) {
    at(Step(store_.current().version.value), first);
    std::optional<MicroBatch> batch;
    if (first + map_.lane < count) {
      ASSIGN_OR_RETURN(batch, batches_.held_out(first + map_.lane));
    }
    ASSIGN_OR_RETURN(const auto stash,
                     model_.evaluate(batch ? &*batch : nullptr, weights, context));
    if (batch) mine.push_back(stash->loss().cross_entropy);
    for (uint32_t lane = 0; lane < map_.lanes; ++lane)
      if (first + lane < count) sizes[lane] += sizeof(double);
  }
  std::vector<double> all(count);
  RETURN_IF_ERROR(wires.comm.all_gather(std::as_bytes(std::span(mine)),
                                        std::as_writable_bytes(std::span(all)), sizes));
  std::vector<size_t> next(map_.lanes);
  for (uint32_t lane = 1; lane < map_.lanes; ++lane)
    next[lane] = next[lane - 1] + sizes[lane - 1] / sizeof(double);
  double sum = 0;
  for (uint32_t index = 0; index < count; ++index) sum += all[next[index % map_.lanes]++];
  return sum / count;
}

#define INSTANTIATE(B)                                                              \
  template bool LaneTrainer<B>::evaluation_is_due(Version) const;                   \
  template Status LaneTrainer<B>::make_up_evaluation(const LaneTrainer<B>::Wires&); \
  template Result<double> LaneTrainer<B>::evaluate(const LaneTrainer<B>::Wires&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
