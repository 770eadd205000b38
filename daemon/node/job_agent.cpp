#include "daemon/node/job_agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/fault_point.h"

namespace holdfast::daemon {

using train::WorkerPhase;

namespace {
// Without snapshots nothing is ever sealed.
constexpr size_t kMostUnsealed = 256;
}  // namespace

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
    if (c.view.epoch != memory_.epoch) continue;
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

// ---- workers --------------------------------------------------------------------------------------

void JobAgent::on_worker_up(uint32_t slot, const train::Hello& hello) {
  CHECK(slot < slots_.size());
  if (slots_[slot].leaving) return;  // connected once more on its way out
  if (!job_) {                       // it outlived its job: nobody wants another one in its place
    slots_[slot].leaving = true;
    ports_.workers.stop(slot);
    return;
  }
  if (!hello.job_key.empty() && hello.job_key != job_->key) {
    ports_.workers.kill(slot, "it works for a job that this node does not have");
    return;
  }
  Slot& s = slots_[slot];
  const bool fresh = hello.job_key.empty();
  if (!fresh && hello.epoch > memory_.epoch) {  // its view could not be stored before a restart
    ports_.workers.kill(slot,
                        fmt::format("it works in epoch {}, of which this daemon knows nothing",
                                    to_string(hello.epoch)));
    return;
  }
  if (!fresh && hello.epoch < memory_.epoch && hello.phase != WorkerPhase::kIdle && !quiescing_) {
    ports_.workers.kill(slot, fmt::format("it works in epoch {}, the cluster is in {}",
                                          to_string(hello.epoch), to_string(memory_.epoch)));
    return;
  }
  s.report = {slot, !fresh, hello.epoch, hello.phase, hello.step, hello.held};
  s.job_key = job_->key;
  s.fresh = fresh;
  if (fresh) {
    settle(slot);  // a slot has one process: the one before has ended
    ports_.workers.send(slot, train::Welcome{job_->config, job_->submitted_in, options_.arena_path,
                                             options_.worker_address,
                                             options_.first_device + slot});
    // It is ready for a view once it answers from the present epoch.
    ports_.workers.send(slot, train::Quiesce{memory_.epoch});
    return;
  }
  ports_.report(WorkerChanged{options_.node, 0, s.report, "connected again"});
  if (!quiescing_) {
    if (hello.epoch == memory_.epoch) catch_up(slot);
  } else {
    s.idling = hello.epoch < memory_.epoch;
    if (s.idling) {
      ports_.workers.send(slot, train::Quiesce{memory_.epoch});
    } else {  // only its answer was lost
      settle(slot);
      answer_when_idle();
    }
  }
}

// Said twice they do no harm.
void JobAgent::catch_up(uint32_t slot) {
  const WorkerPhase phase = slots_[slot].report.phase;
  if (phase == WorkerPhase::kIdle) return;
  if (go_ && phase == WorkerPhase::kRestoring) {
    set_phase(slot, WorkerPhase::kRunning);
    ports_.workers.send(slot, train::Go{go_->epoch, go_->comm_addresses});
  }
  if (stop_at_) ports_.workers.send(slot, train::StopAt{stop_at_->epoch, stop_at_->step});
}

void JobAgent::on_worker_down(uint32_t slot, const std::string& why) {
  Slot& s = slots_[slot];
  s.report = {slot, false, s.report.epoch, WorkerPhase::kIdle, s.report.step, {}};
  s.idling = false;
  s.fresh = false;
  settle(slot);
  if (!std::exchange(s.leaving, false))  // its end was wished for: nothing is lost
    ports_.report(WorkerChanged{options_.node, 0, s.report, why});
  answer_when_idle();
}

void JobAgent::on_worker_message(uint32_t slot, const train::FromWorker& message) {
  if (slots_[slot].leaving) return;
  std::visit([this, slot](const auto& m) { on(slot, m); }, message);
}

void JobAgent::on(uint32_t slot, const train::Hello& message) { on_worker_up(slot, message); }

void JobAgent::on(uint32_t slot, const train::Quiesced& message) {
  if (!current(message.epoch)) return;
  Slot& s = slots_[slot];
  s.report.epoch = message.epoch;
  s.report.phase = WorkerPhase::kIdle;
  s.report.held = message.held;
  s.idling = false;
  settle(slot);
  if (s.fresh) {
    s.fresh = false;
    s.report.alive = true;
    ports_.report(WorkerChanged{options_.node, 0, s.report, "started"});
  }
  answer_when_idle();
}

void JobAgent::on(uint32_t slot, const train::Restored& message) {
  if (!current(message.epoch)) return;
  ports_.report(WorkerRestored{options_.node, 0, slot, message.epoch, message.comm_address});
}

void JobAgent::on(uint32_t slot, const train::Running& message) {
  if (!current(message.epoch)) return;
  ports_.report(WorkerRunning{options_.node, 0, slot, message.epoch, message.times});
}

void JobAgent::on(uint32_t slot, const train::RestoreFailed& message) {
  if (!current(message.epoch)) return;
  std::vector<uint32_t> shards;
  for (const train::ShardBlock& bad : message.bad) {
    shards.push_back(bad.shard);
    // Found bad just now: it must not be offered again. Only the block that it says: the index may
    // have been granted anew.
    const auto block = ports_.arena.info(storage::BlockIndex(bad.block));
    if (block && block->header && job_ && block->header->job == job_->hash &&
        block->header->shard.flat(job_->layout.slices()) == bad.shard)
      (void)ports_.arena.free(*block);
  }
  ports_.report(WorkerRestoreFailed{options_.node, 0, slot, message.epoch, shards, options_.node,
                                    message.error});
}

void JobAgent::on(uint32_t slot, const train::StepDone& message) {
  captures_.step_done(slot, message);
  slots_[slot].report.step = message.step.next();
  if (slots_[slot].report.phase == WorkerPhase::kStopped)  // a later StopAt let it go on
    set_phase(slot, WorkerPhase::kRunning);
  std::deque<train::StepDone>& unsealed = slots_[slot].unsealed;
  if (!unsealed.empty() && unsealed.front().epoch != message.epoch) unsealed.clear();
  if (unsealed.size() == kMostUnsealed) unsealed.pop_front();
  unsealed.push_back(message);
  ports_.report(WorkerStepDone{options_.node, 0, slot, message});
}

void JobAgent::on_connected() {
  for (uint32_t slot = 0; slot < options_.slots; ++slot)
    for (const train::StepDone& done : slots_[slot].unsealed)
      ports_.report(WorkerStepDone{options_.node, 0, slot, done});
}

void JobAgent::on(uint32_t slot, const train::Captured& message) {
  if (current(message.epoch) && job_) captures_.captured(slot, *job_, message);
}

void JobAgent::on(uint32_t slot, const train::CaptureMissed& message) {
  if (current(message.epoch)) captures_.missed(slot, message);
}

void JobAgent::on(uint32_t slot, const train::Stopped& message) {
  if (!current(message.epoch)) return;
  set_phase(slot, WorkerPhase::kStopped);
  slots_[slot].report.step = message.step;
  ports_.report(WorkerStopped{options_.node, 0, slot, message.epoch, message.step});
}

void JobAgent::on(uint32_t slot, const train::StopRefused& message) {
  ports_.report(WorkerStopRefused{options_.node, 0, slot, message.epoch, message.begun});
}

void JobAgent::on(uint32_t slot, const train::CommBroken& message) {
  if (!current(message.epoch)) return;
  set_phase(slot, WorkerPhase::kBroken);
  ports_.report(WorkerCommBroken{options_.node, 0, slot, message.epoch, message.step,
                                 message.error});
}

void JobAgent::on(uint32_t slot, const train::Fatal& message) {
  if (!job_ || slots_[slot].job_key != job_->key) return;  // of another job
  ports_.report(WorkerFatal{options_.node, 0, slot, message.epoch, message.error});
}

}  // namespace holdfast::daemon
