#include "train/worker/outbox.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace holdfast::train {

bool still_true(const FromWorker& message, const Hello& hello) {
  return std::visit(
      [&](const auto& m) {
        using Message = std::decay_t<decltype(m)>;
        const bool here = m.epoch == hello.epoch;
        if constexpr (std::is_same_v<Message, Hello>) return false;
        else if constexpr (std::is_same_v<Message, Quiesced> ||
                           std::is_same_v<Message, RestoreFailed>)
          return here && hello.phase == WorkerPhase::kIdle;
        else if constexpr (std::is_same_v<Message, Restored>)
          return here && hello.phase == WorkerPhase::kRestoring;
        else if constexpr (std::is_same_v<Message, Stopped>)
          return here && hello.phase == WorkerPhase::kStopped && m.step == hello.step;
        else if constexpr (std::is_same_v<Message, CommBroken>)
          return here && hello.phase == WorkerPhase::kBroken;
        else if constexpr (std::is_same_v<Message, Running>)
          return here && hello.phase != WorkerPhase::kIdle;
        else if constexpr (std::is_same_v<Message, StepDone>)
          return true;  // a row of the ledger, whatever came after
        else if constexpr (std::is_same_v<Message, Fatal>)
          return here || m.epoch == Epoch{};  // of no view: of this worker
        else
          return here;
      },
      message);
}

size_t Outbox::add(FromWorker message) {
  unsent_.push_back(std::move(message));
  size_t dropped = 0;
  for (; unsent_.size() > limits_.unsent; ++dropped) unsent_.pop_front();
  return dropped;
}

void Outbox::sent() {
  sent_.push_back(std::move(unsent_.front()));
  unsent_.pop_front();
  if (sent_.size() > limits_.sent) sent_.pop_front();
}

void Outbox::reconnected(const Hello& hello) {
  unsent_.insert(unsent_.begin(), std::make_move_iterator(sent_.begin()),
                 std::make_move_iterator(sent_.end()));
  sent_.clear();
  std::erase_if(unsent_, [&](const FromWorker& m) { return !still_true(m, hello); });
}

}  // namespace holdfast::train
