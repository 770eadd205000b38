#include "daemon/node/job_agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/fault_point.h"
#include "daemon/node/restore_check.h"

namespace holdfast::daemon {

using train::WorkerPhase;

JobAgent::JobAgent(JobAgentOptions options, Ports ports, const AgentMemory& memory)
    : options_(std::move(options)),
      ports_(std::move(ports)),
      memory_(memory),
      captures_(options_.node, ports_.arena, ports_.workers, ports_.replicas, ports_.report,
                ports_.holds),
      restorer_(options_.node, ports_.arena, ports_.workers, ports_.replicas, ports_.report),
      slots_(options_.slots),
      verifier_(ports_.arena, ports_.loop) {
  for (uint32_t slot = 0; slot < options_.slots; ++slot) slots_[slot].report.slot = slot;
  if (memory_.job) job_.emplace(*memory_.job, memory_.submitted_in);
  ports_.replicas.set_epoch(memory_.epoch);
  captures_.set_epoch(memory_.epoch);
  restorer_.set_epoch(memory_.epoch);
  restore_owners();
}

// The view that a running worker works in, as an earlier process of this daemon knew it.
void JobAgent::restore_owners() {
  if (!job_) return;
  for (const CommandRestore& c : memory_.views) {
    if (c.view.epoch != memory_.epoch || c.slot >= options_.slots) continue;
    if (!check_restore(c, job_->layout.shard_count())) continue;  // load_memory refuses such a record
    CaptureKeeper::Owner owner{c.view.epoch, c.view.base, {}, c.view.members[c.lane].holders};
    for (const SourcedShard& shard : c.owned) owner.shards.push_back(shard.shard);
    captures_.set_owner(c.slot, std::move(owner));
    history_.push_back({c.view.epoch, c.view.base});
    ports_.replicas.open_view(c.view, c.nodes);
  }
}

std::vector<WorkerReport> JobAgent::worker_reports() const {
  std::vector<WorkerReport> reports;
  for (const Slot& slot : slots_) reports.push_back(slot.report);
  return reports;
}

void JobAgent::set_job(const conf::JobConfig& job, Epoch submitted_in) {
  if (job_ && job_->config == job && job_->submitted_in == submitted_in) return;
  job_.emplace(job, submitted_in);
  memory_.job = job;
  memory_.submitted_in = submitted_in;
  memory_.views.clear();
  history_.clear();
  for (Slot& slot : slots_) slot.unsealed.clear();
  captures_.forget_other_jobs(job_->hash);
}

// ---- commands -----------------------------------------------------------------------------------

void JobAgent::on_command(const NodeCommand& command) {
  std::visit([this](const auto& c) { on(c); }, command);
}

void JobAgent::on(const CommandQuiesce& command) {
  if (command.epoch == memory_.epoch && job_ && !quiescing_) answer_quiesced();  // it was lost
  if (command.epoch <= memory_.epoch) return;
  fault_point("node.quiesce");
  memory_.epoch = command.epoch;
  memory_.safe = command.safe;
  go_.reset();
  stop_at_.reset();
  if (ports_.holds != nullptr) ports_.holds->release();
  set_job(command.job, command.submitted_in);
  ports_.remember(memory_);
  ports_.replicas.set_epoch(command.epoch);
  captures_.set_epoch(command.epoch);
  restorer_.set_epoch(command.epoch);

  quiescing_ = true;
  for (uint32_t slot = 0; slot < options_.slots; ++slot) {
    Slot& s = slots_[slot];
    const bool ours = s.report.alive && s.job_key == job_->key;
    s.idling = ours;
    if (s.report.alive && !ours) {
      s.report.alive = false;  // the supervisor starts one for this job once it is reaped
      ports_.workers.ensure(slot);
      ports_.workers.kill(slot, "it works for another job");
    } else if (ours) {
      ports_.workers.send(slot, train::Quiesce{command.epoch});
    } else if (s.fresh) {
      ports_.workers.send(slot, train::Quiesce{command.epoch});
    } else {
      ports_.workers.ensure(slot);
    }
  }
  ports_.loop.after_ms(options_.quiesce_timeout_ms,
                       [this, epoch = command.epoch] { kill_late_idlers(epoch); });
  answer_when_idle();
}

void JobAgent::kill_late_idlers(Epoch epoch) {
  if (!current(epoch) || !quiescing_) return;
  for (uint32_t slot = 0; slot < options_.slots; ++slot)
    if (slots_[slot].idling)
      ports_.workers.kill(slot, fmt::format("not idle {} ms after the view ended",
                                            options_.quiesce_timeout_ms));
}

void JobAgent::answer_when_idle() {
  if (!quiescing_) return;
  for (const Slot& slot : slots_)
    if (slot.idling) return;
  quiescing_ = false;
  answer_quiesced();
}

// The worker of this slot is idle or ended: what it was granted it does not write into any more.
void JobAgent::settle(uint32_t slot) {
  slots_[slot].settled = true;
  captures_.release_grants(slot);
  const bool all = std::all_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.settled; });
  if (all) captures_.release_inherited();
}

void JobAgent::answer_quiesced() {
  CHECK(job_);
  verifier_.verify(*job_, [this, epoch = memory_.epoch](const ArenaVerifier::Contents& contents) {
    if (current(epoch) && job_) say_quiesced(epoch, contents);
  });
}

void JobAgent::say_quiesced(Epoch epoch, const ArenaVerifier::Contents& contents) {
  NodeQuiesced answer{options_.node, 0, epoch, worker_reports(), {}, {}};
  for (const auto& [state, shards] : contents.held)
    answer.arena.push_back({state, {shards.begin(), shards.end()}});
  for (const auto& [block, error] : contents.damaged)
    if (ports_.arena.free(block))  // refused when it was freed while we looked
      answer.damaged.push_back(error.to_string());
  ports_.report(std::move(answer));
}

void JobAgent::on(const CommandRestore& command) {
  if (!current(command.view.epoch) || !job_ || command.slot >= options_.slots) return;
  if (const Status usable = check_restore(command, job_->layout.shard_count()); !usable) {
    ports_.report(WorkerRestoreFailed{options_.node, 0, command.slot, command.view.epoch, {},
                                      options_.node, usable.error()});
    return;
  }
  std::erase_if(memory_.views,
                [&](const CommandRestore& c) { return c.slot == command.slot; });
  memory_.views.push_back(command);
  ports_.remember(memory_);
  history_.push_back({command.view.epoch, command.view.base});
  ports_.replicas.open_view(command.view, command.nodes);

  CaptureKeeper::Owner owner{command.view.epoch, command.view.base, {},
                             command.view.members[command.lane].holders};
  for (const SourcedShard& shard : command.owned) owner.shards.push_back(shard.shard);
  captures_.set_owner(command.slot, std::move(owner));
  slots_[command.slot].report.step = Step(command.view.base.version.value);
  set_phase(command.slot, WorkerPhase::kRestoring);
  restorer_.restore(*job_, command);
}

void JobAgent::on(const CommandGo& command) {
  if (!current(command.epoch)) return;
  fault_point("node.go");
  go_ = command;
  for (uint32_t slot = 0; slot < options_.slots; ++slot) {
    if (slots_[slot].report.phase != WorkerPhase::kRestoring) continue;
    slots_[slot].report.epoch = command.epoch;
    set_phase(slot, WorkerPhase::kRunning);
    ports_.workers.send(slot, train::Go{command.epoch, command.comm_addresses});
  }
}

void JobAgent::on(const CommandCapture& command) {
  if (!current(command.epoch) || !job_) return;
  captures_.capture(*job_, command.epoch, command.version, command.attempt);
}

void JobAgent::on(const CommandWatermark& command) {
  if (!current(command.epoch) || !job_) return;
  fault_point("node.watermark");
  memory_.safe = command.safe;
  for (Slot& slot : slots_)
    std::erase_if(slot.unsealed, [&](const train::StepDone& done) {
      return done.step.value < command.safe.version.value;
    });
  captures_.watermark(*job_, command.safe, command.abandoned, history_);
}

void JobAgent::on(const CommandStopAt& command) {
  if (!current(command.epoch)) return;
  stop_at_ = command;
  for (uint32_t slot = 0; slot < options_.slots; ++slot)
    if (slots_[slot].report.alive)
      ports_.workers.send(slot, train::StopAt{command.epoch, command.step});
}

void JobAgent::on(const CommandEndJob& command) {
  if (command.epoch < memory_.epoch || !job_) return;
  if (command.job && *command.job != job_->config.name) return;
  for (uint32_t slot = 0; slot < options_.slots; ++slot) {
    Slot& s = slots_[slot];
    if (s.report.alive) ports_.workers.send(slot, train::Exit{command.why});
    ports_.workers.stop(slot);
    s.leaving = s.report.alive || s.fresh;
    s.report.alive = s.fresh = s.idling = false;
    s.job_key.clear();
    s.unsealed.clear();
  }
  memory_.job.reset();
  memory_.views.clear();
  ports_.remember(memory_);
  job_.reset();
  quiescing_ = false;  // nobody waits for the answer
}

}  // namespace holdfast::daemon
