#include "train/snapshot/capturer.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace holdfast::train {
namespace {

using Clock = std::chrono::steady_clock;

FromWorker missed(const Capture& order, std::string why) {
  return CaptureMissed{order.epoch, order.version, std::move(why)};
}

}  // namespace

Capturer::Capturer(CaptureLimits limits, ReportFn report)
    : limits_(limits), report_(std::move(report)), thread_([this] { work(); }) {}

Capturer::~Capturer() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    cancelled_.store(true);
    orders_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

void Capturer::open(CaptureTarget target, ProtectFn protect) {
  MutexLock lock(mutex_);
  target_.emplace(std::move(target));
  protect_ = std::move(protect);
}

void Capturer::order(const Capture& order) {
  {
    MutexLock lock(mutex_);
    if (orders_.size() < limits_.queue) {
      orders_.push_back(order);
      changed_.notify_all();
      return;
    }
  }
  report_(missed(order, fmt::format("{} captures wait already", limits_.queue)));
}

void Capturer::set_version(Version newest) {
  MutexLock lock(mutex_);
  newest_ = newest;
  changed_.notify_all();
}

void Capturer::cancel() {
  MutexLock lock(mutex_);
  orders_.clear();
  if (busy_) cancelled_.store(true);
  changed_.notify_all();
}

void Capturer::cancel_and_wait() {
  cancel();
  MutexLock lock(mutex_);
  newest_.reset();
  while (busy_) changed_.wait(mutex_);
}

void Capturer::work() {
  while (true) {
    Capture order;
    {
      MutexLock lock(mutex_);
      while (orders_.empty() && !ending_) changed_.wait(mutex_);
      if (ending_) return;
      order = std::move(orders_.front());
      orders_.pop_front();
      busy_ = true;
      cancelled_.store(false);
    }
    report_(carry_out(order));
    MutexLock lock(mutex_);
    busy_ = false;
    changed_.notify_all();
  }
}

std::optional<std::string> Capturer::await_version(Version version) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(limits_.version_wait_ms);
  MutexLock lock(mutex_);
  while (!cancelled_.load() && (!newest_ || *newest_ < version))
    if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout)
      return fmt::format("version {} was not made within {} ms", version.value,
                         limits_.version_wait_ms);
  if (cancelled_.load()) return "the view ended";
  if (!target_) return "no job is open";
  return std::nullopt;
}

FromWorker Capturer::carry_out(const Capture& order) {
  if (auto why = await_version(order.version)) return missed(order, std::move(*why));
  const auto begin = Clock::now();
  std::optional<CaptureTarget> target;
  ProtectFn protect;
  {
    MutexLock lock(mutex_);
    target.emplace(*target_);
    protect = protect_;
  }
  auto protection = protect(order.version, limits_.hold_ms);
  if (!protection)
    return missed(order, fmt::format("no buffer holds version {} any more", order.version.value));
  const auto state =
      capture_into(std::move(protection), *target, order.epoch, order.blocks, cancelled_);
  if (!state) return missed(order, state.error().message);
  const std::chrono::duration<double> seconds = Clock::now() - begin;
  return Captured{order.epoch, *state, order.blocks, seconds.count()};
}

}  // namespace holdfast::train
