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

// One more lane of the newest row.
Result<bool> StepLog::count(const JobId& job, const train::StepDone& step) {
  if (!newest_lanes_.insert(step.lane).second) return false;  // told again
  ++newest_->lanes;
  newest_->stall_seconds = std::max(newest_->stall_seconds, step.stall_seconds);
  RETURN_IF_ERROR(catalog_.write({{key(job, step.step), to_json_text(*newest_)}},
                                 storage::Durability::kBuffered));
  return false;
}

// Of the job's last step, which the last stage evaluated in a later view: only that stage tells it again.
Status StepLog::add_held_out_loss(const JobId& job, const train::StepDone& step) {
  ASSIGN_OR_RETURN(auto kept, rows(job, step.step, 1));
  if (kept.empty() || kept[0].step != step.step || kept[0].held_out_loss) return {};
  kept[0].held_out_loss = step.held_out_loss;
  return catalog_.write({{key(job, step.step), to_json_text(kept[0])}},
                        storage::Durability::kBuffered);
}

Result<bool> StepLog::record(const JobId& job, const train::StepDone& report) {
  // An older report that came again, or late from a slower lane of this node: the row is there.
  if (newest_ && newest_->made == report.epoch && report.step < newest_->step) return false;
  if (newest_ && newest_->step == report.step && newest_->made == report.epoch)
    return count(job, report);
  const auto whole = parts_.add(report);
  if (!whole) {
    if (report.held_out_loss) RETURN_IF_ERROR(add_held_out_loss(job, report));
    return false;
  }
  const train::StepDone& step = whole->step;
  api::StepRow row;
  row.step = step.step;
  row.made = step.epoch;
  row.lanes = static_cast<uint32_t>(whole->lanes.size());
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
  newest_lanes_ = whole->lanes;
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
  parts_.clear();
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
