// What a step reports of its micro-batches: LaneTrainer's part that brings them together.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"

namespace holdfast::train {

namespace {

// What one lane tells the others of one micro-batch at its stage, 8 bytes a word: the cross entropy, two
// losses of every layer, and how often every expert of every layer was chosen.
size_t row_words(const StageLayers& stage, const conf::ModelConfig& model) {
  return 1 + size_t{stage.layers} * (2 + model.experts);
}

void append_row(const MicroBatchLoss& loss, std::vector<uint64_t>& words) {
  words.push_back(std::bit_cast<uint64_t>(loss.cross_entropy));
  for (const kernels::RouterLosses& layer : loss.layers) {
    words.push_back(std::bit_cast<uint64_t>(layer.load_balance));
    words.push_back(std::bit_cast<uint64_t>(layer.z));
  }
  words.insert(words.end(), loss.popularity.begin(), loss.popularity.end());
}

// Takes the rows of one micro-batch from stages in their order, and so the layers in theirs.
void add_row(const uint64_t* row, const StageLayers& stage, const conf::ModelConfig& model,
             MicroBatchLoss& loss) {
  const auto number = [&] { return std::bit_cast<double>(*row++); };
  const double cross_entropy = number();
  if (stage.has_head) loss.cross_entropy = cross_entropy;
  for (uint32_t layer = 0; layer < stage.layers; ++layer) {
    loss.load_balance += number();
    loss.z_loss += number();
  }
  std::copy_n(row, size_t{stage.layers} * model.experts,
              loss.popularity.begin() + size_t{stage.first_layer} * model.experts);
}

}  // namespace

// Losses are summed in the order of micro-batches, whoever ran them; of the stages that update together.
template <class B>
Status LaneTrainer<B>::gather_losses(Communicator& step, StepDone& done) {
  std::vector<uint64_t> mine;
  for (const MicroBatchIndex j : micro_batches_of(plan_, stage_, map_.lane)) {
    append_row(losses_.at(j.value), mine);
    done.micro_batches.push_back(j.value);
  }
  std::vector<size_t> sizes;
  std::vector<std::vector<size_t>> places(end_stage());  // [stage][micro-batch]: row's first word
  size_t words = 0;
  const uint32_t count = job_.pipelines * job_.micro_batches;
  for (uint32_t s = first_stage(); s < end_stage(); ++s) {
    const size_t row = row_words(stages_[s], job_.model);
    places[s].resize(count);
    for (uint32_t lane = 0; lane < members_.lanes(s); ++lane) {
      const size_t begin = words;
      for (const MicroBatchIndex j : micro_batches_of(plan_, s, lane)) {
        places[s][j.value] = words;
        words += row;
      }
      sizes.push_back((words - begin) * sizeof(uint64_t));
    }
  }
  std::vector<uint64_t> rows(words);
  RETURN_IF_ERROR(step.all_gather(std::as_bytes(std::span(mine)),
                                  std::as_writable_bytes(std::span(rows)), sizes));

  MicroBatchLoss sum;
  const size_t cells = size_t{job_.model.layers} * job_.model.experts;
  done.popularity.assign(cells, 0);
  if (capacity_) done.dropped.assign(cells, 0);
  for (uint32_t j = 0; j < count; ++j) {
    MicroBatchLoss one;
    one.popularity.assign(cells, 0);
    for (uint32_t s = first_stage(); s < end_stage(); ++s)
      add_row(rows.data() + places[s][j], stages_[s], job_.model, one);
    sum.cross_entropy += one.cross_entropy;
    sum.load_balance += one.load_balance;
    sum.z_loss += one.z_loss;
    for (size_t c = 0; c < cells; ++c) done.popularity[c] += one.popularity[c];
    if (!capacity_) continue;
    // A source keeps the first choices that fit: how many it drops follows from how many there are.
    const std::vector<uint64_t> dropped = dropped_choices(*capacity_, one.popularity);
    for (size_t c = 0; c < cells; ++c) done.dropped[c] += dropped[c];
  }
  done.tokens_dropped = std::accumulate(done.dropped.begin(), done.dropped.end(), uint64_t{0});
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

#define INSTANTIATE(B) template Status LaneTrainer<B>::gather_losses(Communicator&, StepDone&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
