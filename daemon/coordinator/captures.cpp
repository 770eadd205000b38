#include "daemon/coordinator/captures.h"

#include <algorithm>

namespace holdfast::daemon {
namespace {

// So many captures in time, and a smaller lead is tried.
constexpr uint32_t kInTimeBeforeNearer = 32;
constexpr uint32_t kMostDoublings = 5;

}  // namespace

void Captures::open(uint32_t lanes, uint32_t every) {
  lanes_ = lanes;
  every_ = std::max(every, 1U);
  lead_ = 1;
  in_time_ = in_a_row_ = 0;
  pending_.clear();
  newest_named_.reset();
}

std::optional<Captures::Named> Captures::name(Version newest, Version last) {
  if (lanes_ == 0 || pending_.size() >= limits_.under_way) return std::nullopt;
  uint64_t version = newest.value + lead_;
  const uint64_t apart = uint64_t{every_} << std::min(std::max(in_a_row_, 1U) - 1, kMostDoublings);
  if (newest_named_) version = std::max(version, newest_named_->value + apart);
  version = std::min(version, last.value);
  // One more than the lead, so that short steps find two orders; further ahead it would only hold a
  // place that another could use.
  if (version > newest.value + lead_ + 1) return std::nullopt;
  if (version <= newest.value || (newest_named_ && version <= newest_named_->value))
    return std::nullopt;
  return name_now(Version(version));
}

Captures::Named Captures::name_now(Version version) {
  pending_[version] = {next_attempt_, -1, {}};
  if (!newest_named_ || *newest_named_ < version) newest_named_ = version;
  return {version, next_attempt_++};
}

std::map<Version, Captures::Pending>::iterator Captures::find(const Named& named) {
  const auto it = pending_.find(named.version);
  return it != pending_.end() && it->second.attempt == named.attempt ? it : pending_.end();
}

bool Captures::replicated(uint32_t lane, const Named& named, std::vector<Version>& abandoned) {
  const auto it = find(named);
  if (it == pending_.end()) return false;
  it->second.lanes.insert(lane);
  if (it->second.lanes.size() < lanes_) return false;
  for (const auto& [older, pending] : pending_)
    if (older < named.version) abandoned.push_back(older);
  pending_.erase(pending_.begin(), std::next(it));
  in_a_row_ = 0;
  if (lead_ > 1 && ++in_time_ >= kInTimeBeforeNearer) {
    --lead_;
    in_time_ = 0;
  }
  return true;
}

bool Captures::missed(const Named& named, bool too_late) {
  const auto it = find(named);
  if (it == pending_.end()) return false;
  pending_.erase(it);
  if (too_late) {
    lead_ = std::min(lead_ + 1, limits_.most_lead);
    in_time_ = 0;
  } else {
    ++in_a_row_;
  }
  return true;
}

std::vector<Captures::Named> Captures::late(int64_t now_ms, Version newest, int64_t limit_ms) {
  std::vector<Named> late;
  for (auto& [version, pending] : pending_) {
    if (version > newest) continue;
    if (pending.made_ms < 0) pending.made_ms = now_ms;
    if (now_ms - pending.made_ms >= limit_ms) late.push_back({version, pending.attempt});
  }
  return late;
}

std::vector<Captures::Named> Captures::under_way() const {
  std::vector<Named> all;
  for (const auto& [version, pending] : pending_) all.push_back({version, pending.attempt});
  return all;
}

}  // namespace holdfast::daemon
