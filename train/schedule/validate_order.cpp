#include <fmt/format.h>

#include "train/schedule/text.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

// Rounds and transfers as nodes, "goes only after" as edges. A node on a cycle never goes.
class Waiting {
 public:
  explicit Waiting(const Plan& plan) : total_(plan.pipelines * plan.micro_batches) {
    uint32_t rounds = 0;
    for (const StagePlan& stage : plan.stages) {
      first_round_.push_back(rounds);
      rounds += static_cast<uint32_t>(stage.rounds.size());
    }
    rounds_ = rounds;
    const size_t nodes = rounds + plan.stages.size() * 2 * total_;
    after_.resize(nodes);
    waits_for_.resize(nodes, 0);
  }

  uint32_t round(size_t stage, uint32_t number) const { return first_round_[stage] + number; }
  uint32_t forward_send(size_t stage, uint32_t micro_batch) const {
    return static_cast<uint32_t>(rounds_ + (stage * 2) * total_ + micro_batch);
  }
  uint32_t gradient_send(size_t stage, uint32_t micro_batch) const {
    return static_cast<uint32_t>(rounds_ + (stage * 2 + 1) * total_ + micro_batch);
  }
  void add(uint32_t before, uint32_t after) {
    after_[before].push_back(after);
    ++waits_for_[after];
  }

  // By node: whether it goes.
  std::vector<bool> run() const {
    std::vector<uint32_t> left = waits_for_;
    std::vector<bool> gone(left.size(), false);
    std::vector<uint32_t> ready;
    for (uint32_t n = 0; n < left.size(); ++n)
      if (left[n] == 0) ready.push_back(n);
    while (!ready.empty()) {
      const uint32_t node = ready.back();
      ready.pop_back();
      gone[node] = true;
      for (const uint32_t next : after_[node])
        if (--left[next] == 0) ready.push_back(next);
    }
    return gone;
  }

 private:
  uint32_t total_;
  uint32_t rounds_ = 0;
  std::vector<uint32_t> first_round_;
  std::vector<std::vector<uint32_t>> after_;
  std::vector<uint32_t> waits_for_;
};

bool is_gradient(Work work) { return work == Work::kInputGradient || work == Work::kBackward; }

void add_data(const Plan& plan, const std::vector<StagePlaces>& places, Waiting& waiting) {
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    for (uint32_t r = 1; r < plan.stages[s].rounds.size(); ++r)
      waiting.add(waiting.round(s, r - 1), waiting.round(s, r));
    for (uint32_t j = 0; j < places[s].micro_batches.size(); ++j) {
      const MicroBatchPlaces& at = places[s].micro_batches[j];
      if (s + 1 < plan.stages.size()) {
        const uint32_t send = waiting.forward_send(s, j);
        waiting.add(waiting.round(s, at.forward.round), send);
        waiting.add(send, waiting.round(s + 1, places[s + 1].micro_batches[j].forward.round));
      }
      if (s > 0) {
        const uint32_t send = waiting.gradient_send(s, j);
        waiting.add(waiting.round(s, at.gradient.round), send);
        waiting.add(send, waiting.round(s - 1, places[s - 1].micro_batches[j].gradient.round));
      }
    }
  }
}

// What one lane sends, and receives, in the order of its rounds.
void add_streams(const Plan& plan, Waiting& waiting) {
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const StagePlan& stage = plan.stages[s];
    for (size_t lane = 0; lane < stage.lanes.size(); ++lane) {
      // The last transfer on each of the lane's streams.
      std::optional<uint32_t> forward_in, forward_out, gradient_in, gradient_out;
      const auto follow = [&](std::optional<uint32_t>& stream, uint32_t transfer) {
        if (stream) waiting.add(*stream, transfer);
        stream = transfer;
      };
      for (uint32_t r = 0; r < stage.rounds.size(); ++r) {
        const auto& cell = stage.rounds[r].lanes[lane];
        if (!cell || cell->work == Work::kWeightGradient) continue;
        const uint32_t j = cell->micro_batch.value;
        const bool gradient = is_gradient(cell->work);
        std::optional<uint32_t> in;
        if (!gradient && s > 0) in = waiting.forward_send(s - 1, j);
        if (gradient && s + 1 < plan.stages.size()) in = waiting.gradient_send(s + 1, j);
        if (in) {
          follow(gradient ? gradient_in : forward_in, *in);
          if (r > 0) waiting.add(waiting.round(s, r - 1), *in);
        }
        if (!gradient && s + 1 < plan.stages.size())
          follow(forward_out, waiting.forward_send(s, j));
        if (gradient && s > 0) follow(gradient_out, waiting.gradient_send(s, j));
      }
    }
  }
}

// The first round of each stage that never goes.
std::vector<std::string> stuck(const Plan& plan, const Waiting& waiting, const char* why) {
  const std::vector<bool> gone = waiting.run();
  std::vector<std::string> all;
  for (size_t s = 0; s < plan.stages.size(); ++s)
    for (uint32_t r = 0; r < plan.stages[s].rounds.size(); ++r)
      if (!gone[waiting.round(s, r)]) {
        all.push_back(fmt::format("stage {} round {} ({}) never begins: {}", s, r,
                                  to_text(plan.stages[s].rounds[r]), why));
        break;
      }
  return all;
}

}  // namespace

std::vector<std::string> order_violations(const Plan& plan,
                                          const std::vector<StagePlaces>& places) {
  Waiting waiting(plan);
  add_data(plan, places, waiting);
  std::vector<std::string> all = stuck(plan, waiting, "it waits for itself");
  if (!all.empty()) return all;
  add_streams(plan, waiting);
  return stuck(plan, waiting, "sends and receives are in orders that wait for each other");
}

}  // namespace holdfast::train
