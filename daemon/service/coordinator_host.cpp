#include "daemon/service/coordinator_host.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

namespace holdfast::daemon {
namespace {

constexpr auto kTick = std::chrono::milliseconds(50);

CoordinatorOptions coordinator_options(const conf::NodeConfig& config) {
  CoordinatorOptions options;
  options.daemon_grace_ms = config.cluster.daemon_grace_ms;
  options.quiesce_timeout_ms = config.cluster.quiesce_timeout_ms;
  options.arena_wait_ms = config.cluster.arena_wait_ms;
  options.self = config.name;
  options.silent_ms = int64_t{config.cluster.heartbeat_ms} * config.cluster.missed_heartbeats;
  return options;
}

}  // namespace

Result<std::unique_ptr<CoordinatorHost>> CoordinatorHost::create(const conf::NodeConfig& config,
                                                                 uint64_t session,
                                                                 const PeerIdentity& identity,
                                                                 CoordinatorHostPorts ports) {
  ASSIGN_OR_RETURN(RecordStore records,
                   RecordStore::open(ports.catalog, ports.clock.wall_ms()));
  std::unique_ptr<CoordinatorHost> host(
      new CoordinatorHost(config, std::move(ports), std::move(records)));
  CoordinatorHost* self = host.get();
  host->hub_ = std::make_unique<PeerHub>(
      self->ports_.io, self->ports_.clock, self->ports_.server,
      PeerHubOptions{config.name, session, identity, config.cluster.heartbeat_ms,
                     config.cluster.missed_heartbeats},
      PeerHubCallbacks{[self](const NodeEvent& event) {
                         self->feed(to_event(event));
                         self->log_step(event);
                       },
                       [self](const NodeDown& down) { self->feed(down); }});
  return host;
}

CoordinatorHost::CoordinatorHost(const conf::NodeConfig& config, CoordinatorHostPorts ports,
                                 RecordStore records)
    : ports_(std::move(ports)),
      records_(std::move(records)),
      coordinator_(coordinator_options(config), ports_.clock.monotonic_ms(), records_.epoch(),
                   records_.jobs()),
      steps_(ports_.catalog),
      ticker_(ports_.io) {}

CoordinatorHost::~CoordinatorHost() { aside_.join(); }

void CoordinatorHost::start() {
  hub_->start();
  tick();
}

void CoordinatorHost::tick() {
  feed(Tick{});
  for (const Record& record : records_.retry(ports_.clock.monotonic_ms(), ports_.clock.wall_ms()))
    note_event(std::get<EventRecord>(record));
  ticker_.expires_after(kTick);
  ticker_.async_wait([this](const boost::system::error_code& error) {
    if (!error) tick();
  });
}

void CoordinatorHost::submit(const conf::JobConfig& job, Answer answer) {
  answers_[++requests_] = std::move(answer);
  feed(SubmitJob{requests_, job});
}
void CoordinatorHost::stop(const JobId& job, Answer answer) {
  answers_[++requests_] = std::move(answer);
  feed(StopJob{requests_, job});
}
void CoordinatorHost::resume(const JobId& job, Answer answer) {
  answers_[++requests_] = std::move(answer);
  feed(ResumeJob{requests_, job});
}

void CoordinatorHost::remove(const JobId& job, Answer answer) {
  answers_[++requests_] = std::move(answer);
  feed(RemoveJob{requests_, job});
}

void CoordinatorHost::what_if(std::vector<NodeId> failed, WhatIfAnswer answer) {
  if (std::exchange(*asked_, true))
    return answer(fail(ErrorCode::kQueueFull, "another what-if is being answered; ask again in some seconds"));
  boost::asio::post(aside_, [copy = std::make_shared<Coordinator>(coordinator_.copy()),
                             now_ms = ports_.clock.monotonic_ms(), failed = std::move(failed),
                             answer = std::move(answer), asked = asked_, &io = ports_.io] {
    auto foretold = copy->what_if(now_ms, failed);
    boost::asio::post(io, [foretold = std::move(foretold), answer, asked] {
      *asked = false;
      answer(foretold);
    });
  });
}

void CoordinatorHost::feed(const Event& event) {
  if (failed_) return;
  apply(coordinator_.step(ports_.clock.monotonic_ms(), event));
}

void CoordinatorHost::apply(Outcome outcome) {
  if (auto stored = records_.store(outcome.records, ports_.clock.wall_ms()); !stored) {
    // What the coordinator decided is not on disk: nothing of it may be said to anybody.
    failed_ = true;
    ports_.failed(stored.error());
    return;
  }
  for (const auto& [node, command] : outcome.commands) hub_->send(node, command);
  for (const Record& record : outcome.records) {
    if (const auto* event = std::get_if<EventRecord>(&record)) {
      note_event(*event);
      if (event->kind != "view" || coordinator_.view() == nullptr) continue;
      const View& view = *coordinator_.view();
      note_step_log(steps_.void_above(view.job, view.base.version));
    } else if (const auto* dropped = std::get_if<DropJob>(&record)) {
      note_step_log(steps_.void_above(dropped->job, Version(0)));
    } else if (const auto* done = std::get_if<RequestDone>(&record)) {
      if (auto answer = answers_.extract(done->request)) answer.mapped()(done->status);
    }
  }
}

// For people: a row that is lost takes nothing from training.
void CoordinatorHost::log_step(const NodeEvent& event) {
  const auto* done = std::get_if<WorkerStepDone>(&event);
  if (done == nullptr || failed_) return;
  // The last step may have ended its job just now.
  for (const auto& [name, record] : coordinator_.jobs()) {
    if (record.history.empty() || record.history.back().epoch != done->step.epoch) continue;
    const auto logged = steps_.record(name, done->step);
    note_step_log(logged ? Status() : fail(logged.error()));
  }
}

void CoordinatorHost::note_event(const EventRecord& event) {
  ports_.note(fmt::format("{}: {}", event.kind, event.text));
}

// Once, not at every step while a disk is full.
void CoordinatorHost::note_step_log(const Status& status) {
  if (!status && !std::exchange(step_log_fails_, true))
    ports_.note("step log: rows are lost, training goes on: " + status.error().to_string());
  if (status && std::exchange(step_log_fails_, false)) ports_.note("step log: rows are stored again");
}

}  // namespace holdfast::daemon
