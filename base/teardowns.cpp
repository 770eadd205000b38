#include "base/teardowns.h"

#include <system_error>
#include <utility>

#include "base/check.h"

namespace holdfast {

void Teardown::begin(std::function<void()> work) {
  const MutexLock lock(mutex_);
  CHECK(phase_ == Phase::kAhead, "a teardown begins twice");
  work_ = std::move(work);
  phase_ = Phase::kBegun;
  changed_.notify_all();
}

void Teardown::dismiss() {
  const MutexLock lock(mutex_);
  if (phase_ != Phase::kAhead) return;
  phase_ = Phase::kOver;
  changed_.notify_all();
}

bool Teardown::wait_until(std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (phase_ == Phase::kBegun && std::chrono::steady_clock::now() < deadline)
    changed_.wait_until(mutex_, deadline);
  return phase_ != Phase::kBegun;
}

bool Teardown::is_over() {
  const MutexLock lock(mutex_);
  return phase_ == Phase::kOver;
}

void Teardown::run() {
  std::function<void()> work;
  {
    const MutexLock lock(mutex_);
    while (phase_ == Phase::kAhead) changed_.wait(mutex_);
    work = std::exchange(work_, nullptr);
  }
  if (work) work();
  work = nullptr;  // before it counts as over
  const MutexLock lock(mutex_);
  phase_ = Phase::kOver;
  changed_.notify_all();
}

Teardowns::~Teardowns() {
  for (const Taken& one : taken_) one.teardown->dismiss();
  static_cast<void>(wait_for(limit_));
  forget_over();
  for (Taken& one : taken_) one.thread.detach();  // shares its teardown, and knows nothing of this
}

std::shared_ptr<Teardown> Teardowns::take(std::function<void()> enter) {
  forget_over();
  auto teardown = std::make_shared<Teardown>();
  taken_.reserve(taken_.size() + 1);  // nothing may throw once the thread runs
  try {
    taken_.push_back({teardown, std::thread([teardown, enter = std::move(enter)] {
                        enter();
                        teardown->run();
                      })});
  } catch (const std::system_error&) {
    return nullptr;
  }
  return teardown;
}

bool Teardowns::wait_until(std::chrono::steady_clock::time_point deadline) {
  bool over = true;
  for (const Taken& one : taken_) over = one.teardown->wait_until(deadline) && over;
  return over;
}

void Teardowns::forget_over() {
  std::erase_if(taken_, [](Taken& one) {
    if (!one.teardown->is_over()) return false;
    one.thread.join();
    return true;
  });
}

}  // namespace holdfast
