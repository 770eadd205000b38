#include "train/worker/pulse.h"

#include <chrono>
#include <utility>

namespace holdfast::train {

Pulse::Pulse(ProgressRecord& record, std::function<void()> on_beat)
    : record_(record), on_beat_(std::move(on_beat)), thread_([this] { beat(); }) {}

Pulse::~Pulse() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
  }
  ended_.notify_all();
  thread_.join();
}

void Pulse::mark(Step step, uint32_t round, bool waiting) {
  record_.step.store(step.value, std::memory_order_relaxed);
  record_.round.store(round, std::memory_order_relaxed);
  trainer_waits_.store(waiting, std::memory_order_relaxed);
  record_.waiting.store(waiting || waits_.load(std::memory_order_relaxed) > 0,
                        std::memory_order_relaxed);
  mark();
}

void Pulse::mark() { record_.counter.fetch_add(1, std::memory_order_relaxed); }

void Pulse::wait(int change) {
  const int waits = waits_.fetch_add(change, std::memory_order_relaxed) + change;
  if (waits == 0) trainer_waits_.store(false, std::memory_order_relaxed);
  record_.waiting.store(waits > 0, std::memory_order_relaxed);
  mark();
}

void Pulse::beat() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!ending_) ended_.wait_for(mutex_, std::chrono::milliseconds(kPulseMs));
      if (ending_) return;
    }
    if (waits_.load(std::memory_order_relaxed) > 0 ||
        trainer_waits_.load(std::memory_order_relaxed))
      mark();
    if (on_beat_) on_beat_();
  }
}

}  // namespace holdfast::train
