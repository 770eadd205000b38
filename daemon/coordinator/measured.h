// What recoveries and steps of this job took here, as the coordinator saw it. Pure; in memory only: a new
// process has measured nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

namespace holdfast::daemon {

// One change of the view, in seconds; absent: it does not count, for something else was waited for.
struct RecoveryTook {
  std::optional<double> noticed;     // first sign of a failure to the end of the view
  std::optional<double> quiesce;     // to the decision
  std::optional<double> restore;     // to Go
  std::optional<double> connect;     // communicators and weights, of the lane that took longest
  std::optional<double> first_step_beside;  // from there to its end on all lanes, less a step of the plan
  uint64_t fetched_bytes = 0;        // of the node that fetched or gave most
  uint64_t loaded_bytes = 0;         // of the node that checked and loaded most of its arena
};

class Measured {
 public:
  void view_begins() { steps_.clear(); }
  void step_took(double seconds);
  void recovery_took(const RecoveryTook& took);

  // Median of the last steps of this view; its first, which is slower, only while it is the only one.
  std::optional<double> step_seconds() const;
  size_t steps() const { return steps_.size(); }

  struct Median {
    double seconds = 0;
    size_t of = 0;  // changes of the view
  };
  std::optional<Median> noticed() const;
  std::optional<Median> quiesce() const;
  std::optional<Median> connect() const;
  std::optional<Median> first_step_beside() const;
  // What a restore takes beside the bytes that it fetches and loads at these speeds.
  std::optional<Median> restore_beside(double fetch_per_second, double load_per_second) const;
  // Of the largest fetches; what else those restores took is in it.
  std::optional<double> fetch_bytes_per_second() const;

 private:
  using Part = std::function<std::optional<double>(const RecoveryTook&)>;
  std::optional<Median> median_of(const Part& part) const;

  std::deque<double> steps_;
  std::deque<RecoveryTook> recoveries_;
};

}  // namespace holdfast::daemon
