// What would follow if some nodes died now: a copy of this machine loses them, hears from the others what
// they are known to hold, and decides.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {

using train::WorkerPhase;

Result<WhatIf> Coordinator::Machine::what_if(int64_t now_ms,
                                             const std::vector<NodeId>& failed) const {
  if (failed.empty()) return fail(ErrorCode::kUsage, "no node is named");
  Losses losses;
  std::vector<std::string> unknown, known;
  for (const NodeId& node : failed) {
    if (!nodes_.contains(node)) unknown.push_back(node.value);
    losses.nodes.insert(node);
  }
  for (const auto& [id, node] : nodes_) known.push_back(id.value);
  if (!unknown.empty())
    return fail(ErrorCode::kNotFound, fmt::format("there is no node {}; known are {}",
                                                  fmt::join(unknown, ", "), fmt::join(known, ", ")));
  if (!active_) return fail(ErrorCode::kJobState, "no job runs: there is nothing to lose");
  if (phase_ != Phase::kRunning)
    return fail(ErrorCode::kJobState,
                fmt::format("job {} does not train just now{}{}; ask again when it does",
                            active_->value, waiting_for_.empty() ? "" : ", it waits for ",
                            waiting_for_));
  if (!arenas_known_)
    return fail(ErrorCode::kJobState, "this coordinator is new to the view and has not heard yet "
                                      "where copies lie; ask again when a version is safe");
  return foretell(now_ms, losses);
}

Assumed Coordinator::Machine::assumed() const {
  Assumed assumed;
  assumed.noticed_seconds = static_cast<double>(options_.cause_wait_ms) / 1000;
  assumed.fetch_bytes_per_second = options_.fetch_bytes_per_second;
  return assumed;
}

// Of a node that the view can do without nothing follows.
bool Coordinator::Machine::concerned(const Losses& losses) const {
  const auto is_lost = [&](const NodeId& node) { return losses.nodes.contains(node); };
  return std::any_of(view_->members.begin(), view_->members.end(), [&](const Member& m) {
    return is_lost(m.worker.node) || losses.workers.contains(m.worker) ||
           std::any_of(m.holders.begin(), m.holders.end(), is_lost);
  });
}

// What every node would say if the view ended now: a step that one lane reported is taken as done by all.
std::map<NodeId, NodeQuiesced> Coordinator::Machine::expected_answers() const {
  std::vector<std::vector<uint32_t>> owned(view_->members.size());
  for (uint32_t shard = 0; shard < view_->owner_lane.size(); ++shard)
    owned[view_->owner_lane[shard]].push_back(shard);
  const auto state_of = [&](Version version) {
    return version == view_->base.version ? view_->base : StateVersion{version, view_->epoch};
  };
  std::map<NodeId, NodeQuiesced> answers;
  for (const auto& [id, node] : nodes_) {
    NodeQuiesced& answer = answers[id];
    answer.node = id;
    answer.session = node.session;
    answer.arena = arenas_.held(id);
    for (WorkerReport worker : node.workers) {
      if (const auto lane = lane_of(id, worker.slot); lane && worker.alive) {
        worker.held = {{state_of(newest_), owned[*lane]}};
        if (newest_ > view_->base.version)
          worker.held.push_back({state_of(Version(newest_.value - 1)), owned[*lane]});
      }
      worker.phase = WorkerPhase::kIdle;
      answer.workers.push_back(std::move(worker));
    }
  }
  return answers;
}

void Coordinator::Machine::suffer(const Losses& losses) {
  std::map<NodeId, NodeQuiesced> answers = expected_answers();
  for (const NodeId& lost : losses.nodes) {
    nodes_[lost].state = NodeState::kDown;
    nodes_[lost].workers.clear();
  }
  for (const WorkerId& lost : losses.workers) {
    for (auto* reports : {&nodes_[lost.node].workers, &answers[lost.node].workers})
      std::erase_if(*reports, [&](const WorkerReport& w) { return w.slot == lost.slot; });
  }
  change_view("a question");
  if (phase_ != Phase::kGathering) return;
  const std::set<NodeId> asked = awaited_;
  for (const NodeId& id : asked) {
    NodeQuiesced& answer = answers[id];
    answer.epoch = epoch_;
    for (WorkerReport& worker : answer.workers) worker.epoch = epoch_;
    on(answer);
  }
  if (phase_ != Phase::kGathering || below_safe_since_ms_ < 0) return;
  now_ms_ += options_.arena_wait_ms;  // nobody comes back with better copies
  consider_deciding();
}

// From arenas alone.
bool Coordinator::Machine::can_have(const StateVersion& state) const {
  if (state.version == Version(0)) return true;
  const Holdings holdings = collect_holdings();
  for (uint32_t shard = 0; shard < shards_.bytes.size(); ++shard) {
    const Copies* copies = holdings.find(shard, state);
    if (!copies || copies->arenas.empty()) return false;
  }
  return true;
}

void Coordinator::Machine::say_what_follows(const Machine& after, WhatIf& answer) const {
  const std::string job_text = "job " + active_->value;
  if (after.phase_ == Phase::kGathering) {
    answer.outcome = "waits";
    answer.text = fmt::format("{} waits for {}", job_text, after.waiting_for_);
    if (wants_captures() && !after.can_have(job().safe))
      answer.text += fmt::format("; no complete copy of {} would be left", to_string(job().safe));
    return;
  }
  if (after.phase_ == Phase::kIdle) {
    const JobRecord& record = after.jobs_.at(*active_);
    answer.outcome = record.state == JobState::kFailed ? "fails" : "stops";
    answer.text = fmt::format("{} {}: {}", job_text, answer.outcome, record.detail);
    return;
  }
  std::vector<std::vector<SourcedShard>> owned(after.view_->members.size());
  for (const auto& [node, command] : after.out_.commands)
    if (const auto* restore = std::get_if<CommandRestore>(&command))
      owned[restore->lane] = restore->owned;
  answer.prediction = predict({job().config, shards_, *view_, *after.view_, owned, after.steps_back_},
                              measured_, assumed());
  answer.outcome = "continues";
  answer.text = fmt::format("{} goes on with {} of {} lanes from {}, {} finished step{} done again",
                            job_text, after.view_->members.size(), job().config.workers(),
                            to_string(after.view_->base), after.steps_back_,
                            after.steps_back_ == 1 ? "" : "s");
  if (after.view_->base.version < job().safe.version)
    answer.text += fmt::format(", after {} s in which nobody came back with {}",
                               options_.arena_wait_ms / 1000, to_string(job().safe));
}

WhatIf Coordinator::Machine::foretell(int64_t now_ms, const Losses& losses) const {
  WhatIf answer;
  answer.failed.assign(losses.nodes.begin(), losses.nodes.end());
  answer.job = *active_;
  answer.epoch = epoch_;
  answer.version = newest_;
  answer.safe = job().safe;
  std::set<uint32_t> living;
  for (const Member& m : view_->members) {
    if (losses.nodes.contains(m.worker.node) || losses.workers.contains(m.worker))
      answer.lost.push_back({m.worker, m.coordinate});
    else
      living.insert(m.coordinate.stage.value);
  }
  for (uint32_t s = 0; s < job().config.stages; ++s)
    if (!living.contains(s)) answer.lost_stages.push_back(s);
  if (!concerned(losses)) {
    answer.outcome = "unaffected";
    std::vector<std::string> names;
    for (const NodeId& node : answer.failed) names.push_back(node.value);
    answer.text = fmt::format("{} {} no lane and no replicas: job {} trains on", fmt::join(names, ", "),
                              names.size() == 1 ? "has" : "have", active_->value);
  } else {
    Machine after(*this);
    after.is_asked_ = true;
    after.recovery_.reset();
    after.out_ = {};
    after.now_ms_ = now_ms;
    after.suffer(losses);
    say_what_follows(after, answer);
  }
  answer.assumptions.push_back("the nodes' arenas are lost with them; the newest reported step is done "
                               "by all lanes, and none follows before they die");
  if (options_.silent_ms > 0)
    answer.assumptions.push_back(fmt::format(
        "their connections end at once; a machine that falls silent is noticed {} ms later",
        options_.silent_ms));
  if (!options_.self.value.empty() && losses.nodes.contains(options_.self)) {
    if (answer.outcome != "unaffected") answer.outcome = "waits";
    answer.text = fmt::format("{} runs the coordinator: nothing is decided until its daemon is back, "
                              "with its catalog; then: {}",
                              options_.self.value, answer.text);
  }
  return answer;
}

}  // namespace holdfast::daemon
