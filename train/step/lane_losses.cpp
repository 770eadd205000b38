// What a step reports of its micro-batches: LaneTrainer's part that brings them together.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"

namespace holdfast::train {

// Losses are summed in the order of micro-batches, whoever ran them.
template <class B>
Status LaneTrainer<B>::gather_losses(Communicator& comm, StepDone& done) {
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
  if (capacity_) done.dropped.assign(cells, 0);
  std::vector<uint64_t> popularity(cells);
  for (const std::byte* from : by_micro_batch) {
    LossRow row;
    std::memcpy(&row, from, sizeof row);
    std::memcpy(popularity.data(), from + sizeof row, cells * sizeof(uint64_t));
    sum.cross_entropy += row.cross_entropy;
    sum.load_balance += row.load_balance;
    sum.z_loss += row.z_loss;
    for (size_t c = 0; c < cells; ++c) done.popularity[c] += popularity[c];
    if (!capacity_) continue;
    // A source keeps the first choices that fit: how many it drops follows from how many there are.
    const std::vector<uint64_t> dropped = dropped_choices(*capacity_, popularity);
    for (size_t c = 0; c < cells; ++c) done.dropped[c] += dropped[c];
  }
  done.tokens_dropped = std::accumulate(done.dropped.begin(), done.dropped.end(), uint64_t{0});
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

#define INSTANTIATE(B) template Status LaneTrainer<B>::gather_losses(Communicator&, StepDone&);
INSTANTIATE(CpuBackend<float>)
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
