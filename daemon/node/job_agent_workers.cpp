// JobAgent: what workers say, and their ends.
#include <fmt/format.h>

#include <utility>

#include "base/check.h"
#include "daemon/node/job_agent.h"

namespace holdfast::daemon {

using train::WorkerPhase;

namespace {
// Without snapshots nothing is ever sealed.
constexpr size_t kMostUnsealed = 256;
}  // namespace

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

void JobAgent::lost(uint32_t slot, const std::string& why) {
  Slot& s = slots_[slot];
  s.report = {slot, false, s.report.epoch, WorkerPhase::kIdle, s.report.step, {}};
  s.idling = s.fresh = false;
  if (!s.leaving)  // its end was wished for: nothing is lost
    ports_.report(WorkerChanged{options_.node, 0, s.report, why});
}

void JobAgent::on_worker_dying(uint32_t slot, const std::string& why) {
  slots_[slot].dying = true;
  lost(slot, why);
  answer_when_idle();
}

void JobAgent::on_worker_down(uint32_t slot, const std::string& why) {
  settle(slot);
  if (!std::exchange(slots_[slot].dying, false)) lost(slot, why);
  slots_[slot].leaving = false;
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
  if (s.dying) return;
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
