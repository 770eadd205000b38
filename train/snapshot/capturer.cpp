#include "train/snapshot/capturer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace holdfast::train {
namespace {

FromWorker missed(const Capture& order, std::string why, bool too_late = false) {
  return CaptureMissed{order.epoch, order.version, std::move(why), too_late};
}

}  // namespace

Capturer::Capturer(CaptureLimits limits, ReportFn report, BrokenFn broken)
    : limits_(limits),
      report_(std::move(report)),
      broken_(std::move(broken)),
      thread_([this] { work(); }) {}

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
      const auto place = std::upper_bound(
          orders_.begin(), orders_.end(), order.version,
          [](Version version, const Order& other) { return version < other.capture.version; });
      orders_.insert(place, {order, Clock::now()});
      changed_.notify_all();
      return;
    }
  }
  report_(missed(order, fmt::format("{} captures wait already", limits_.queue)));
}

void Capturer::set_version(Version newest) {
  MutexLock lock(mutex_);
  newest_ = newest;
  newest_since_ = Clock::now();
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

// However far ahead its version is: as long as versions are made, it may come.
Capturer::Clock::time_point Capturer::deadline_of(const Order& order) const {
  return std::max(order.since, newest_since_) + std::chrono::milliseconds(limits_.version_wait_ms);
}

bool Capturer::is_made(const Order& order) const {
  return newest_ && order.capture.version <= *newest_;
}

std::optional<Capturer::Order> Capturer::next() {
  while (!ending_) {
    const auto due =
        std::min_element(orders_.begin(), orders_.end(),
                         [](const Order& a, const Order& b) { return a.since < b.since; });
    auto taken = orders_.begin();
    if (due == orders_.end()) {
      changed_.wait(mutex_);
      continue;
    }
    if (!is_made(*taken)) {
      const Clock::time_point deadline = deadline_of(*due);  // the order may go while we wait
      if (Clock::now() < deadline) {
        changed_.wait_until(mutex_, deadline);
        continue;
      }
      taken = due;
    }
    Order order = std::move(*taken);
    orders_.erase(taken);
    return order;
  }
  return std::nullopt;
}

void Capturer::work() {
  while (true) {
    std::optional<Order> order;
    bool made = false;
    {
      MutexLock lock(mutex_);
      order = next();
      if (!order) return;
      made = is_made(*order);
      busy_ = true;
      cancelled_.store(false);
    }
    report_(made ? carry_out(order->capture)
                 : missed(order->capture, fmt::format("version {} was not made, nor any other "
                                                      "within {} ms",
                                                      order->capture.version.value,
                                                      limits_.version_wait_ms)));
    MutexLock lock(mutex_);
    busy_ = false;
    changed_.notify_all();
  }
}

FromWorker Capturer::carry_out(const Capture& order) {
  const auto begin = Clock::now();
  std::optional<CaptureTarget> target;
  ProtectFn protect;
  {
    MutexLock lock(mutex_);
    if (!target_) return missed(order, "no job is open");
    target.emplace(*target_);
    protect = protect_;
  }
  auto protection = protect(order.version, limits_.hold_ms);
  if (!protection)
    return missed(order, fmt::format("no buffer holds version {} any more", order.version.value),
                  /*too_late=*/true);
  const auto state =
      capture_into(std::move(protection), *target, order.epoch, order.blocks, cancelled_);
  if (!state && state.error().code == ErrorCode::kDeviceFailed) broken_(state.error());
  if (!state) return missed(order, state.error().message);
  const std::chrono::duration<double> seconds = Clock::now() - begin;
  return Captured{order.epoch, *state, order.blocks, seconds.count()};
}

}  // namespace holdfast::train
