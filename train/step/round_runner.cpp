#include "train/step/round_runner.h"

#include <utility>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
Status RoundRunner<B>::run(const LaneRound& round) {
  switch (round.work) {
    case Work::kForward:
      RETURN_IF_ERROR(forward(round));
      break;
    case Work::kInputGradient:
    case Work::kBackward:
      RETURN_IF_ERROR(input_gradient(round));
      break;
    case Work::kWeightGradient:
      break;
  }
  if (round.weights)
    RETURN_IF_ERROR(parts_.model.weight_gradient(*stashes_.at(round.weights->value),
                                                 parts_.gradients));
  for (const uint32_t number : round.experts)
    RETURN_IF_ERROR(
        parts_.model.expert_weight_gradient(*gradient_rounds_.at(number), parts_.gradients));
  if (!round.weights && round.experts.empty()) return {};
  // What is freed is used for the next: nothing may still read it.
  RETURN_IF_ERROR(parts_.device.finish());
  if (round.weights) {
    const auto done = stashes_.find(round.weights->value);
    losses_[done->first] = done->second->loss();
    stashes_.erase(done);
  }
  for (const uint32_t number : round.experts) gradient_rounds_[number].reset();
  return {};
}

template <class B>
size_t RoundRunner<B>::held_rounds() const {
  size_t held = 0;
  for (const KeptForward& kept : forwards_) held += kept.hosted ? 1 : 0;
  for (const auto& hosted : gradient_rounds_) held += hosted ? 1 : 0;
  return held;
}

// ---- F --------------------------------------------------------------------------------------------

template <class B>
Result<MicroBatch> RoundRunner<B>::read(MicroBatchIndex micro_batch) const {
  const StageLayers& stage = parts_.model.stage();
  if (stage.embeds || stage.has_head) return parts_.batch(micro_batch);
  return parts_.sizes;
}

template <class B>
Status RoundRunner<B>::forward(const LaneRound& round) {
  std::optional<MicroBatch> batch;
  if (round.micro_batch) {
    ASSIGN_OR_RETURN(batch, read(*round.micro_batch));
  }
  RETURN_IF_ERROR(receive(round));
  ASSIGN_OR_RETURN(ForwardRound<B> done,
                   parts_.model.forward(batch ? &*batch : nullptr, parts_.weights, parts_.context,
                                        {received_.data(), received_.size()}));
  forwards_.push_back({std::move(done.hosted), round.busy});
  if (!round.micro_batch) return {};
  if (round.to) {
    RETURN_IF_ERROR(parts_.device.finish());
    RETURN_IF_ERROR(send(round, done.stash->output()));
  }
  stashes_[round.micro_batch->value] = std::move(done.stash);
  return {};
}

// ---- I --------------------------------------------------------------------------------------------

template <class B>
Result<std::unique_ptr<Hosted<B>>> RoundRunner<B>::hosted_for(const LaneRound& round) {
  std::vector<const Hosted<B>*> from;
  for (const auto& number : round.forward_rounds)
    from.push_back(number ? forwards_.at(*number).hosted.get() : nullptr);
  if (!round.as_forward) return parts_.model.assemble(from, parts_.context);
  for (const auto& number : round.forward_rounds)
    if (number && forwards_[*number].hosted) return std::move(forwards_[*number].hosted);
  CHECK(false, "an I round without micro-batches");
}

// An F round's rows are copied when they are assembled; the last I that does frees them.
template <class B>
void RoundRunner<B>::release_forwards(const LaneRound& round) {
  for (const auto& number : round.forward_rounds)
    if (number && --forwards_[*number].micro_batches == 0) forwards_[*number].hosted.reset();
}

template <class B>
Status RoundRunner<B>::input_gradient(const LaneRound& round) {
  ASSIGN_OR_RETURN(std::unique_ptr<Hosted<B>> hosted, hosted_for(round));
  RETURN_IF_ERROR(receive(round));
  Stash<B>* stash = round.micro_batch ? stashes_.at(round.micro_batch->value).get() : nullptr;
  RETURN_IF_ERROR(parts_.model.input_gradient(stash, *hosted, parts_.weights, parts_.context,
                                              {received_.data(), received_.size()}));
  gradient_rounds_.push_back(std::move(hosted));
  if (round.to || !round.as_forward) RETURN_IF_ERROR(parts_.device.finish());
  release_forwards(round);
  if (round.to) RETURN_IF_ERROR(send(round, stash->handed_back()));
  return {};
}

// ---- between stages -------------------------------------------------------------------------------

template <class B>
Status RoundRunner<B>::receive(const LaneRound& round) {
  received_.resize(0);
  if (!round.from) return {};
  received_.resize(parts_.elements);
  return parts_.view.receive(*round.from, std::as_writable_bytes(received_.span()));
}

template <class B>
Status RoundRunner<B>::send(const LaneRound& round, std::span<const V> values) {
  const auto bytes = std::as_bytes(values);
  sent_bytes_ += bytes.size();
  return parts_.view.send(*round.to, {bytes.begin(), bytes.end()});
}

template class RoundRunner<CpuBackend<float>>;
#define INSTANTIATE(B) template class RoundRunner<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
