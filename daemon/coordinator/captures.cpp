#include "daemon/coordinator/captures.h"

#include <algorithm>

namespace holdfast::daemon {

void Captures::open(uint32_t lanes, uint32_t every) {
  lanes_ = lanes;
  every_ = std::max(every, 1U);
  lead_ = 1;
  pending_.clear();
  newest_named_.reset();
  safe_.reset();
}

std::optional<Version> Captures::name(int64_t now_ms, Version newest, Version last) {
  if (lanes_ == 0 || pending_.size() >= limits_.under_way) return std::nullopt;
  uint64_t version = newest.value + lead_;
  if (newest_named_) version = std::max(version, newest_named_->value + every_);
  // Far ahead of training it would only hold a place that another could use.
  if (version > newest.value + lead_ + every_) return std::nullopt;
  if (version > last.value) version = last.value;
  if (version <= newest.value || (newest_named_ && version <= newest_named_->value))
    return std::nullopt;
  name_now(now_ms, Version(version));
  return Version(version);
}

void Captures::name_now(int64_t now_ms, Version version) {
  pending_[version].named_ms = now_ms;
  if (!newest_named_ || *newest_named_ < version) newest_named_ = version;
}

bool Captures::replicated(uint32_t lane, Version version, std::vector<Version>& abandoned) {
  const auto it = pending_.find(version);
  if (it == pending_.end()) return false;
  it->second.lanes.insert(lane);
  if (it->second.lanes.size() < lanes_) return false;
  safe_ = version;
  for (const auto& [older, pending] : pending_)
    if (older < version) abandoned.push_back(older);
  pending_.erase(pending_.begin(), std::next(it));
  if (lead_ > 1) --lead_;
  return true;
}

bool Captures::missed(Version version) {
  if (pending_.erase(version) == 0) return false;
  lead_ = std::min(lead_ + 1, limits_.most_lead);
  return true;
}

std::vector<Version> Captures::timed_out(int64_t now_ms) const {
  std::vector<Version> late;
  for (const auto& [version, pending] : pending_)
    if (now_ms - pending.named_ms >= limits_.timeout_ms) late.push_back(version);
  return late;
}

std::vector<Version> Captures::under_way() const {
  std::vector<Version> versions;
  for (const auto& [version, pending] : pending_) versions.push_back(version);
  return versions;
}

}  // namespace holdfast::daemon
