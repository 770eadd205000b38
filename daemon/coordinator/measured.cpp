#include "daemon/coordinator/measured.h"

#include <algorithm>
#include <vector>

namespace holdfast::daemon {
namespace {

constexpr size_t kStepsKept = 10;
constexpr size_t kRecoveriesKept = 8;
// Less is over before its speed can be told from what a restore takes anyway.
constexpr uint64_t kTellingBytes = uint64_t{64} << 20;

// The lower of the two in the middle.
std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

void Measured::step_took(double seconds) {
  steps_.push_back(seconds);
  if (steps_.size() > kStepsKept) steps_.pop_front();
}

void Measured::recovery_took(const RecoveryTook& took) {
  recoveries_.push_back(took);
  if (recoveries_.size() > kRecoveriesKept) recoveries_.pop_front();
}

std::optional<double> Measured::step_seconds() const {
  if (steps_.size() < 2) return median({steps_.begin(), steps_.end()});
  const bool with_first = steps_.size() < kStepsKept;
  return median({steps_.begin() + (with_first ? 1 : 0), steps_.end()});
}

std::optional<Measured::Median> Measured::median_of(const Part& part) const {
  std::vector<double> values;
  for (const RecoveryTook& took : recoveries_)
    if (const auto value = part(took)) values.push_back(*value);
  const auto middle = median(values);
  return middle ? std::optional(Median{*middle, values.size()}) : std::nullopt;
}

std::optional<Measured::Median> Measured::noticed() const {
  return median_of([](const RecoveryTook& took) { return took.noticed; });
}
std::optional<Measured::Median> Measured::quiesce() const {
  return median_of([](const RecoveryTook& took) { return took.quiesce; });
}
std::optional<Measured::Median> Measured::connect() const {
  return median_of([](const RecoveryTook& took) { return took.connect; });
}
std::optional<Measured::Median> Measured::first_step_beside() const {
  return median_of([](const RecoveryTook& took) { return took.first_step_beside; });
}

std::optional<Measured::Median> Measured::restore_beside(double fetch_per_second,
                                                         double load_per_second) const {
  return median_of([&](const RecoveryTook& took) -> std::optional<double> {
    if (!took.restore) return std::nullopt;
    const double bytes = static_cast<double>(took.fetched_bytes) / fetch_per_second +
                         static_cast<double>(took.loaded_bytes) / load_per_second;
    return std::max(0.0, *took.restore - bytes);
  });
}

std::optional<double> Measured::fetch_bytes_per_second() const {
  const auto median_speed = median_of([](const RecoveryTook& took) -> std::optional<double> {
    if (!took.restore || *took.restore <= 0 || took.fetched_bytes < kTellingBytes)
      return std::nullopt;
    return static_cast<double>(took.fetched_bytes) / *took.restore;
  });
  return median_speed ? std::optional(median_speed->seconds) : std::nullopt;
}

}  // namespace holdfast::daemon
