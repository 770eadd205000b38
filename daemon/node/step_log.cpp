#include "daemon/node/step_log.h"

#include <fmt/format.h>

#include <algorithm>

namespace holdfast::daemon {
namespace {

constexpr double kSmoothing = 0.1;

std::string prefix(const JobId& job) { return fmt::format("steps/{}/", job.value); }
std::string key(const JobId& job, Step step) {
  return fmt::format("{}{:016x}", prefix(job), step.value);
}

// Members are only ever added: what a row of an earlier release lacks is as in an empty one.
Result<api::StepRow> read_row(std::string_view text, const std::string& name) {
  ASSIGN_OR_RETURN(boost::json::value value, parse_json(text, name));
  if (boost::json::object* row = value.if_object()) {
    const boost::json::value empty = boost::json::value_from(api::StepRow{});
    for (const auto& member : empty.get_object()) row->insert(member);
  }
  return from_json<api::StepRow>(value, name);
}

}  // namespace

Result<bool> StepLog::record(const JobId& job, const train::StepDone& step) {
  // An older report that came again, or late from a slower lane of this node: the row is there.
  if (newest_ && newest_->made == step.epoch && step.step < newest_->step) return false;
  if (newest_ && newest_->step == step.step && newest_->made == step.epoch) {
    if (!newest_lanes_.insert(step.lane).second) return false;  // told again
    ++newest_->lanes;
    newest_->stall_seconds = std::max(newest_->stall_seconds, step.stall_seconds);
    RETURN_IF_ERROR(catalog_.write({{key(job, step.step), to_json_text(*newest_)}},
                                   storage::Durability::kBuffered));
    return false;
  }
  api::StepRow row;
  row.step = step.step;
  row.made = step.epoch;
  row.lanes = 1;
  row.loss = step.loss;
  row.learning_rate = step.learning_rate;
  row.gradient_norm = step.gradient_norm;
  row.seconds = step.seconds;
  row.tokens = step.tokens;
  row.tokens_dropped = step.tokens_dropped;
  row.held_out_loss = step.held_out_loss;
  row.stall_seconds = step.stall_seconds;
  const double speed = step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0;
  tokens_per_second_ = tokens_per_second_ == 0
                           ? speed
                           : (1 - kSmoothing) * tokens_per_second_ + kSmoothing * speed;
  tokens_dropped_ += step.tokens_dropped;
  newest_ = row;
  newest_lanes_ = {step.lane};
  RETURN_IF_ERROR(catalog_.write({{key(job, step.step), to_json_text(row)}},
                                 storage::Durability::kBuffered));
  auto& trim = trims_.try_emplace(job, kept_).first->second;
  RETURN_IF_ERROR(trim.wrote(catalog_, prefix(job), step.step.value,
                             [&job](uint64_t number) { return key(job, Step(number)); }));
  return true;
}

Result<std::vector<api::StepRow>> StepLog::rows(const JobId& job, Step from,
                                                uint64_t limit) const {
  ASSIGN_OR_RETURN(const auto entries, catalog_.scan(prefix(job), key(job, from), limit));
  std::vector<api::StepRow> rows;
  for (const auto& [name, text] : entries) {
    ASSIGN_OR_RETURN(rows.emplace_back(), read_row(text, name));
  }
  return rows;
}

Status StepLog::void_above(const JobId& job, Version base) {
  newest_.reset();
  trims_.erase(job);
  tokens_per_second_ = 0;  // of other lanes than those that come
  // Step s made version s + 1: rows from step `base` on led past the base.
  ASSIGN_OR_RETURN(const auto entries,
                   catalog_.scan(prefix(job), key(job, Step(base.value)), SIZE_MAX));
  std::vector<storage::Catalog::Write> removals;
  for (const auto& [name, text] : entries) removals.push_back({name, std::nullopt});
  if (removals.empty()) return {};
  return catalog_.write(removals, storage::Durability::kBuffered);
}

}  // namespace holdfast::daemon
