#include "train/schedule/exact_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace holdfast::train {
namespace {

constexpr uint64_t kMostColumns = 20'000;

Status check_costs(const Problem& problem) {
  for (size_t s = 0; s < problem.stages.size(); ++s) {
    const StageCosts& c = problem.stages[s].costs;
    if (c.forward.expert + c.input.expert + c.weight.expert > 0)
      return fail(ErrorCode::kPlanImpossible,
                  fmt::format("the exact solver does not take costs of experts (stage {})", s));
    for (const double cost : {c.forward.dense, c.input.dense, c.weight.dense, c.send, c.update})
      if (cost != std::floor(cost) || cost > 1e6)
        return fail(ErrorCode::kPlanImpossible,
                    fmt::format("the exact solver takes whole costs, stage {} has {}", s, cost));
  }
  return {};
}

}  // namespace

int MixedIntegerProgram::add_column(double most, bool whole) {
  upper.push_back(most);
  integer.push_back(whole);
  return static_cast<int>(upper.size()) - 1;
}

ExactModel::ExactModel(const Problem& problem, const Planned& fast)
    : problem_(&problem),
      coupled_(coupled(fast.policy)),
      steady_(barrier_of(fast.policy) == Barrier::kPerStage) {
  int held = 0;        // W that may be left when all F and I of the step are done
  int all_update = 0;  // with the barrier, the longest update comes after everything
  for (const StageProblem& stage : problem.stages) {
    const StageCosts costs = coupled_ ? as_coupled(stage.costs) : stage.costs;
    Times times;
    times.length[kF] = static_cast<int>(costs.forward.dense);
    times.length[kI] = static_cast<int>(costs.input.dense);
    times.length[kW] = static_cast<int>(costs.weight.dense);
    times.send = static_cast<int>(costs.send);
    times.update = static_cast<int>(costs.update);
    times_.push_back(times);
    const auto count = static_cast<uint32_t>(stage.lanes.size());
    const uint32_t busiest = (problem.total() + count - 1) / count;
    held = std::max(held, static_cast<int>(std::min(busiest, stage.cap)) * times.length[kW]);
    all_update = std::max(all_update, times.update);
  }
  // Staggered, every F and I lies within one period of stage 0's begin, since stage 0 does the
  // first F and the last I; W that are left can follow at once.
  below_ = static_cast<int>(std::ceil(
               (steady_ ? fast.timing.period : fast.timing.makespan - all_update) - 1e-6)) -
           1;
  horizon_ = steady_ ? below_ + held : below_;
}

Result<ExactModel> ExactModel::create(const Problem& problem, const Planned& fast) {
  if (fast.policy == Policy::kOneForwardOneBackward)
    return fail(ErrorCode::kPlanImpossible, "1f1b is one fixed order, there is nothing to solve");
  RETURN_IF_ERROR(check_costs(problem));
  ExactModel model(problem, fast);
  uint64_t columns = 0;
  for (uint32_t s = 0; s < problem.stages.size(); ++s)
    columns += uint64_t{3} * (1 + model.lanes(s)) * static_cast<uint64_t>(model.horizon_);
  if (columns > kMostColumns)
    return fail(
        ErrorCode::kSolverLimit,
        fmt::format("{} unknowns, the exact solver is given {} at most", columns, kMostColumns));
  model.add_columns();
  for (uint32_t s = 0; s < problem.stages.size(); ++s) {
    model.add_rounds(s);
    model.add_lane_turns(s);
    model.add_totals(s);
    model.add_transfers(s);
    model.add_memory(s);
    model.add_aim(s);
  }
  return model;
}

void ExactModel::add_columns() {
  program_.objective = program_.add_column(below_, false);
  for (uint32_t s = 0; s < problem_->stages.size(); ++s) {
    round_.emplace_back(kKinds);
    work_.emplace_back(kKinds);
    for (const Kind kind : {kF, kI, kW}) {
      if (!has(kind)) continue;
      for (int t = 0; t <= last_start(s, kind); ++t)
        round_[s][kind].push_back(program_.add_column(1, true));
      for (uint32_t lane = 0; lane < lanes(s); ++lane) {
        work_[s][kind].emplace_back();
        for (int t = 0; t <= last_start(s, kind); ++t)
          work_[s][kind][lane].push_back(program_.add_column(1, true));
      }
    }
  }
}

void ExactModel::add_begun(Row& row, uint32_t s, Kind kind, uint32_t lane, int until,
                           double factor) const {
  for (int t = 0; t <= std::min(until, last_start(s, kind)); ++t)
    row.terms.emplace_back(work(s, kind, lane, t), factor);
}

void ExactModel::add_begun_anywhere(Row& row, uint32_t s, Kind kind, int until,
                                    double factor) const {
  for (uint32_t lane = 0; lane < lanes(s); ++lane) add_begun(row, s, kind, lane, until, factor);
}

// One round at a time, and lanes work only in rounds that allow it: W also in a round of another
// kind that is at least as long.
void ExactModel::add_rounds(uint32_t s) {
  for (int now = 0; now < horizon_; ++now) {
    Row one{{}, 'L', 1};
    for (const Kind kind : {kF, kI, kW}) {
      if (!has(kind)) continue;
      for (int t = std::max(0, now - times_[s].length[kind] + 1);
           t <= std::min(now, last_start(s, kind)); ++t)
        one.terms.emplace_back(round(s, kind, t), 1);
    }
    program_.rows.push_back(one);
  }
  for (const Kind kind : {kF, kI, kW}) {
    if (!has(kind)) continue;
    for (int t = 0; t <= last_start(s, kind); ++t)
      for (uint32_t lane = 0; lane < lanes(s); ++lane) {
        Row row{{{work(s, kind, lane, t), 1}, {round(s, kind, t), -1}}, 'L', 0};
        if (kind == kW)
          for (const Kind host : {kF, kI})
            if (times_[s].length[kW] <= times_[s].length[host] && t <= last_start(s, host)) {
              row.terms.emplace_back(round(s, host, t), -1);
              row.terms.emplace_back(work(s, host, lane, t), 1);
            }
        program_.rows.push_back(row);
      }
  }
}

// F and I go round the lanes in turn.
void ExactModel::add_lane_turns(uint32_t s) {
  const uint32_t count = lanes(s);
  for (const Kind kind : {kF, kI})
    for (int t = 0; t <= last_start(s, kind) && count > 1; ++t) {
      for (uint32_t lane = 0; lane + 1 < count; ++lane) {
        Row row{{}, 'L', 0};
        add_begun(row, s, kind, lane + 1, t, 1);
        add_begun(row, s, kind, lane, t, -1);
        program_.rows.push_back(row);
      }
      Row row{{}, 'L', 1};
      add_begun(row, s, kind, 0, t, 1);
      add_begun(row, s, kind, count - 1, t, -1);
      program_.rows.push_back(row);
    }
}

void ExactModel::add_totals(uint32_t s) {
  for (const Kind kind : {kF, kI, kW}) {
    if (!has(kind)) continue;
    for (uint32_t lane = 0; lane < lanes(s); ++lane) {
      const uint32_t total = problem_->total();
      Row row{{}, 'E', static_cast<double>((total + lanes(s) - 1 - lane) / lanes(s))};
      add_begun(row, s, kind, lane, horizon_, 1);
      program_.rows.push_back(row);
    }
  }
}

// What begins has arrived: counts of F along the stages, of I back, of I after F at the last stage,
// and of W after I on each lane.
void ExactModel::add_transfers(uint32_t s) {
  const bool last = s + 1 == problem_->stages.size();
  for (int t = 0; t <= horizon_; ++t) {
    if (s > 0) {
      Row row{{}, 'L', 0};
      add_begun_anywhere(row, s, kF, t, 1);
      add_begun_anywhere(row, s - 1, kF, t - times_[s - 1].send - times_[s - 1].length[kF], -1);
      program_.rows.push_back(row);
    }
    Row back{{}, 'L', 0};
    add_begun_anywhere(back, s, kI, t, 1);
    if (last)
      add_begun_anywhere(back, s, kF, t - times_[s].length[kF], -1);
    else
      add_begun_anywhere(back, s + 1, kI, t - times_[s + 1].send - times_[s + 1].length[kI], -1);
    program_.rows.push_back(back);
    for (uint32_t lane = 0; lane < lanes(s) && has(kW); ++lane) {
      Row row{{}, 'L', 0};
      add_begun(row, s, kW, lane, t, 1);
      add_begun(row, s, kI, lane, t - times_[s].length[kI], -1);
      program_.rows.push_back(row);
    }
  }
}

void ExactModel::add_memory(uint32_t s) {
  const Kind end = has(kW) ? kW : kI;
  if (problem_->stages[s].cap >= (problem_->total() + lanes(s) - 1) / lanes(s)) return;
  for (int t = 0; t <= last_start(s, kF); ++t)
    for (uint32_t lane = 0; lane < lanes(s); ++lane) {
      Row row{{}, 'L', static_cast<double>(problem_->stages[s].cap)};
      add_begun(row, s, kF, lane, t, 1);
      add_begun(row, s, end, lane, t - times_[s].length[end], -1);
      program_.rows.push_back(row);
    }
}

// objective >= end (and update) of every last piece of work, short of the stage's begin when
// steady.
void ExactModel::add_aim(uint32_t s) {
  const Kind kind = has(kW) ? kW : kI;
  const int after = times_[s].length[kind] + (steady_ ? times_[s].update : 0);
  std::vector<int> begins;  // by time: whether the stage is taken to begin then
  if (steady_) {
    Row one{{}, 'E', 1};
    for (int t = 0; t <= last_start(s, kF); ++t) {
      begins.push_back(program_.add_column(1, true));
      one.terms.emplace_back(begins.back(), 1);
    }
    program_.rows.push_back(one);
    // Lane 0 has the first F: none before the begin.
    for (int t = 0; t < last_start(s, kF); ++t) {
      Row row{{{work(s, kF, 0, t), 1}}, 'L', 1};
      for (int u = t + 1; u <= last_start(s, kF); ++u)
        row.terms.emplace_back(begins[static_cast<size_t>(u)], 1);
      program_.rows.push_back(row);
    }
  }
  for (int t = 0; t <= last_start(s, kind); ++t)
    for (uint32_t lane = 0; lane < lanes(s); ++lane) {
      Row row{{{work(s, kind, lane, t), static_cast<double>(t + after)}, {program_.objective, -1}},
              'L',
              0};
      for (size_t u = 0; u < begins.size(); ++u)
        row.terms.emplace_back(begins[u], -static_cast<double>(u));
      program_.rows.push_back(row);
    }
}

}  // namespace holdfast::train
