// What people ask for, and a job's way through its states.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "daemon/coordinator/machine.h"
#include "daemon/coordinator/room.h"
#include "train/schedule/job_plan.h"

namespace holdfast::daemon {
namespace {

// What every lane of a view runs in every step.
std::vector<std::vector<uint32_t>> plan_of(const conf::JobConfig& config, const View& view) {
  const auto plan = train::plan_of_job(config, lanes_by_stage(view.members, config.stages));
  CHECK(plan.has_value(), "view {}: {}", to_string(view.epoch), plan.error().to_string());
  std::vector<std::vector<uint32_t>> by_lane;
  for (uint32_t s = 0; s < plan->stages.size(); ++s)
    for (uint32_t lane = 0; lane < plan->stages[s].lanes.size(); ++lane) {
      by_lane.emplace_back();
      for (const MicroBatchIndex j : train::micro_batches_of(*plan, s, lane))
        by_lane.back().push_back(j.value);
    }
  return by_lane;
}

}  // namespace

void Coordinator::Machine::store_job(bool sync) {
  StoreJob record{job(), sync};
  // Without snapshots nothing else tells a later process how far the ledger is sealed.
  if (!wants_captures() && ledger_) record.job.steps_done = ledger_->sealed_up_to().value;
  out_.records.push_back(std::move(record));
}

void Coordinator::Machine::answer(uint64_t request, Status status) {
  out_.records.push_back(RequestDone{request, std::move(status)});
}

void Coordinator::Machine::start(const JobId& name) {
  active_ = name;
  const JobRecord& record = jobs_.at(name);
  shards_ = shards_of_job(record.config);
  ledger_.emplace(record.history,
                  wants_captures() ? record.safe.version : Version(record.steps_done),
                  [config = record.config](const View& view) { return plan_of(config, view); });
  newest_ = record.safe.version;
  view_.reset();
  last_step_.reset();
  loss_of_.reset();
  made_a_step_ = record.safe.version > Version(0) || record.steps_done > 0;
  failed_views_.clear();
  benched_until_ms_.clear();
  benched_before_.clear();
  short_of_memory_.clear();
  expected_.clear();
  unreached_.clear();
  unable_.clear();
  cramped_.clear();
  for (const auto& [id, node] : nodes_)
    if (node.state == NodeState::kUp) look_for_room(node);
  moves_proposed_for_.clear();
  end_attempts_ = 0;
  arenas_.clear();
  arenas_known_ = false;
  measured_ = {};
  recovery_.reset();
  pace_foretold_.reset();
}

Status Coordinator::Machine::check_submission(const conf::JobConfig& config) const {
  if (const auto it = jobs_.find(config.name); it != jobs_.end())
    return fail(ErrorCode::kJobExists, fmt::format("a job named {} exists already", config.name.value));
  if (active_)
    return fail(ErrorCode::kJobState,
                fmt::format("job {} is under way, and a cluster runs one job at a time",
                            active_->value));
  // A new job's snapshots take the room of the old one's, which lies nowhere else.
  for (const auto& [name, record] : jobs_) {
    if (record.state_lost || record.safe.version == Version(0)) continue;
    const bool done = record.state == JobState::kDone;
    return fail(ErrorCode::kJobState,
                fmt::format("job {} {} and its state, {}, is only in the memory of the nodes; {} it, "
                            "and give that up with `holdfastctl job remove {}`",
                            name.value, done ? "is done" : "has ended early", to_string(record.safe),
                            done ? "export" : "resume or export", name.value));
  }
  RETURN_IF_ERROR(conf::validate(config));
  if (config.snapshot.policy == "none") return {};
  const JobShards shards = shards_of_job(config);
  for (const auto& [id, node] : nodes_)
    if (node.state == NodeState::kUp) RETURN_IF_ERROR(check_room(config, shards, node));
  return {};
}

void Coordinator::Machine::on(const SubmitJob& event) {
  if (Status status = check_submission(event.job); !status)
    return answer(event.request, std::move(status));
  const JobId name = event.job.name;
  JobRecord record;
  record.config = event.job;
  record.submitted_in = epoch_;
  jobs_[name] = record;
  start(name);
  store_job(true);
  note("job_submitted", fmt::format("job {} was submitted", name.value));
  answer(event.request, {});
  change_view(fmt::format("job {} starts", name.value));
}

void Coordinator::Machine::on(const StopJob& event) {
  const auto it = jobs_.find(event.job);
  if (it == jobs_.end())
    return answer(event.request, fail(ErrorCode::kJobUnknown,
                                      fmt::format("there is no job named {}", event.job.value)));
  if (active_ != event.job)
    return answer(event.request,
                  fail(ErrorCode::kJobState, fmt::format("job {} is not running", event.job.value)));
  answer(event.request, {});
  switch (phase_) {
    case Phase::kIdle:
    case Phase::kGathering:
    case Phase::kRestoring:
      return finish_job(JobState::kStopped, fmt::format("stopped at {}", to_string(job().safe)));
    case Phase::kRunning:
    case Phase::kTakingOver:
      job().state = JobState::kStopping;
      stopping_since_ms_ = now_ms_;
      job().detail = "a stop was requested";
      store_job(true);
      note("job_stopping", "a stop was requested");
      // A planned change that is under way ends in the stop.
      return;
  }
}

void Coordinator::Machine::on(const ResumeJob& event) {
  const auto it = jobs_.find(event.job);
  if (it == jobs_.end())
    return answer(event.request, fail(ErrorCode::kJobUnknown,
                                      fmt::format("there is no job named {}", event.job.value)));
  if (active_)
    return answer(event.request, fail(ErrorCode::kJobState,
                                      fmt::format("job {} is under way", active_->value)));
  JobRecord& record = it->second;
  if (record.state != JobState::kStopped && record.state != JobState::kFailed)
    return answer(event.request, fail(ErrorCode::kJobState,
                                      fmt::format("job {} has done all its steps", event.job.value)));
  if (record.state_lost) {  // the person was told, and decided to begin again
    record.safe = {};
    record.state_lost = false;
  }
  record.state = JobState::kStarting;
  // What was done beyond that is done again, by others perhaps.
  record.steps_done = record.safe.version.value;
  out_.records.push_back(VoidLedger{event.job, Step(record.safe.version.value)});
  start(event.job);
  store_job(true);
  note("job_resumed", fmt::format("job {} was resumed", event.job.value));
  answer(event.request, {});
  change_view(fmt::format("job {} is resumed", event.job.value));
}

void Coordinator::Machine::on(const RemoveJob& event) {
  if (!jobs_.contains(event.job))
    return answer(event.request, fail(ErrorCode::kJobUnknown,
                                      fmt::format("there is no job named {}", event.job.value)));
  if (active_ == event.job)
    return answer(event.request, fail(ErrorCode::kJobState,
                                      fmt::format("job {} is under way; stop it first", event.job.value)));
  jobs_.erase(event.job);
  out_.records.push_back(DropJob{event.job});
  note("job_removed", fmt::format("job {} was removed", event.job.value));
  answer(event.request, {});
}

void Coordinator::Machine::finish_job(JobState state, const std::string& detail) {
  JobRecord& record = job();
  if (state == JobState::kDone) {
    // Without snapshots, or when the last could not be kept, the rows stand for what was made.
    seal(newest_);
    record.steps_done = newest_.value;
  } else {
    record.steps_done = record.safe.version.value;
  }
  record.state = state;
  record.detail = detail;
  out_.records.push_back(StoreJob{record, true});
  note(state == JobState::kDone ? "job_done" : state == JobState::kFailed ? "job_failed" : "job_stopped",
       detail);
  for (auto& [id, node] : nodes_) {
    send(id, CommandEndJob{epoch_, *active_, detail});
    node.workers.clear();  // they leave, their nodes say no more of them
  }
  note_pace();
  recovery_.reset();
  active_.reset();
  stopping_since_ms_ = -1;
  view_.reset();
  ledger_.reset();
  planned_.reset();
  captures_.close();
  settled_ = protected_ = false;
  enter(Phase::kIdle);
}

}  // namespace holdfast::daemon
