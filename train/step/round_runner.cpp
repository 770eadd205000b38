#include "train/step/round_runner.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
Status RoundRunner<B>::run(const LaneRound& round) {
  switch (round.work) {
    case Work::kForward:
      // Beside the others' F: they wait for this lane only where rows go to the experts.
      RETURN_IF_ERROR(weights(round));
      RETURN_IF_ERROR(forward(round));
      break;
    case Work::kInputGradient:
    case Work::kBackward:
      RETURN_IF_ERROR(input_gradient(round));  // rows go to the experts first
      RETURN_IF_ERROR(weights(round));
      break;
    case Work::kWeightGradient:
      RETURN_IF_ERROR(weights(round));
      break;
  }
  const Clock::time_point begun = Clock::now();
  for (const uint32_t number : round.experts)
    RETURN_IF_ERROR(
        parts_.model.expert_weight_gradient(*gradient_rounds_.at(number), parts_.gradients));
  RETURN_IF_ERROR(lengthen(round.synthetic.expert_weights, begun));
  // One piece of work, as plans time it (schedule/simulate.h): it is handed on at its end.
  if (round.work == Work::kBackward) RETURN_IF_ERROR(hand_back(round));
  if (!round.weights && round.experts.empty()) return {};
  retire(round);
  // What was kept has pinned memory in it that the host writes when it is used again: tokens, tables of
  // routes. Between lanes the host has waited for the device in a dropless round anyway; with rooms of fixed
  // size it has not, and waits here, once a micro-batch.
  const bool at_once = B::kHostMemory || parts_.context.comm.size() > 1;
  while (at_once && !retired_.empty()) RETURN_IF_ERROR(free_oldest());
  return {};
}

template <class B>
Status RoundRunner<B>::weights(const LaneRound& round) {
  if (!round.weights) return {};
  const Clock::time_point begun = Clock::now();
  RETURN_IF_ERROR(
      parts_.model.weight_gradient(*stashes_.at(round.weights->value), parts_.gradients));
  return lengthen(round.synthetic.weights, begun);
}

template <class B>
Status RoundRunner<B>::lengthen(double ms, Clock::time_point since) const {
  return ms > 0 && parts_.lengthen ? parts_.lengthen(ms, since) : Status();
}

template <class B>
Status RoundRunner<B>::finish(bool staggered) {
  RETURN_IF_ERROR(staggered ? parts_.hand_over.flush_older() : parts_.hand_over.flush());
  while (!retired_.empty()) RETURN_IF_ERROR(free_oldest());
  return {};
}

// ---- what was needed ------------------------------------------------------------------------------

template <class B>
void RoundRunner<B>::retire(const LaneRound& round) {
  Retired& done = retired_.emplace_back();
  if (round.weights) {
    done.micro_batch = round.weights->value;
    done.stash = std::move(stashes_.extract(round.weights->value).mapped());
  }
  for (const uint32_t number : round.experts)
    done.hosted.push_back(std::move(gradient_rounds_[number]));
  done.moment.record(parts_.device);
}

// What is freed is used for the next: nothing may still read it.
template <class B>
Status RoundRunner<B>::free_oldest() {
  Retired& oldest = retired_.front();
  oldest.moment.wait();
  RETURN_IF_ERROR(parts_.device.check());
  if (oldest.stash) losses_[*oldest.micro_batch] = oldest.stash->loss();
  retired_.pop_front();
  return {};
}

template <class B>
Status RoundRunner<B>::make_room() {
  while (!retired_.empty() &&
         (held() >= parts_.most.micro_batches || held_rounds() >= parts_.most.rounds))
    RETURN_IF_ERROR(free_oldest());
  return {};
}

template <class B>
size_t RoundRunner<B>::retired_stashes() const {
  return static_cast<size_t>(std::count_if(retired_.begin(), retired_.end(),
                                           [](const Retired& one) { return one.stash != nullptr; }));
}

template <class B>
size_t RoundRunner<B>::held_rounds() const {
  size_t held = 0;
  for (const KeptForward& kept : forwards_) held += kept.hosted ? 1 : 0;
  for (const auto& hosted : gradient_rounds_) held += hosted ? 1 : 0;
  for (const Retired& one : retired_) held += one.hosted.size();
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
  ASSIGN_OR_RETURN(const auto x_ND, receive(round));  // on its way while room is made
  RETURN_IF_ERROR(make_room());
  RETURN_IF_ERROR(lengthen(round.synthetic.forward, Clock::now()));
  ASSIGN_OR_RETURN(ForwardRound<B> done, parts_.model.forward(batch ? &*batch : nullptr,
                                                              parts_.weights, parts_.context, x_ND));
  // Every lane has been here by now: the experts' part begins when all dense parts are done.
  RETURN_IF_ERROR(lengthen(round.synthetic.experts, Clock::now()));
  forwards_.push_back({std::move(done.hosted), round.busy});
  if (!round.micro_batch) return {};
  if (round.to) RETURN_IF_ERROR(send(round, done.stash->output()));
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
  ASSIGN_OR_RETURN(const auto dy_ND, receive(round));
  Stash<B>* stash = round.micro_batch ? stashes_.at(round.micro_batch->value).get() : nullptr;
  RETURN_IF_ERROR(parts_.model.input_gradient(stash, *hosted, parts_.weights, parts_.context,
                                              dy_ND));
  RETURN_IF_ERROR(
      lengthen(round.synthetic.experts + round.synthetic.input_gradient, Clock::now()));
  gradient_rounds_.push_back(std::move(hosted));
  if (round.work != Work::kBackward) RETURN_IF_ERROR(hand_back(round));
  if (!round.as_forward) RETURN_IF_ERROR(parts_.device.finish());  // it has copied them
  release_forwards(round);
  return {};
}

template <class B>
Status RoundRunner<B>::hand_back(const LaneRound& round) {
  if (!round.to) return {};
  return send(round, stashes_.at(round.micro_batch->value)->handed_back());
}

// ---- between stages -------------------------------------------------------------------------------

template <class B>
auto RoundRunner<B>::receive(const LaneRound& round) -> Result<std::span<const V>> {
  if (!round.from) return std::span<const V>();
  ASSIGN_OR_RETURN(const std::byte* at,
                   parts_.hand_over.receive(*round.from, parts_.elements * sizeof(V)));
  return std::span(reinterpret_cast<const V*>(at), parts_.elements);
}

template <class B>
Status RoundRunner<B>::send(const LaneRound& round, std::span<const V> values) {
  sent_bytes_ += values.size_bytes();
  return parts_.hand_over.send(*round.to, reinterpret_cast<const std::byte*>(values.data()),
                               values.size_bytes());
}

template class RoundRunner<CpuBackend<float>>;
#define INSTANTIATE(B) template class RoundRunner<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
