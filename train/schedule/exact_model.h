// "Is there a better plan than this one?" as a mixed-integer program over whole times: binaries say
// which round begins when at which stage, and what each lane does in it. Micro-batches are alike,
// so they are counted, not named: the k-th F of lane l of c is micro-batch k c + l (as in drafts).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "train/schedule/planner.h"

namespace holdfast::train {

struct Row {
  std::vector<std::pair<int, double>> terms;  // column, coefficient
  char sense = 'L';                           // L: <=, E: =, G: >=
  double right = 0;
};

struct MixedIntegerProgram {
  std::vector<double> upper;  // by column; lower bounds are 0
  std::vector<bool> integer;  // by column
  std::vector<Row> rows;
  int objective = 0;  // the column that is minimised

  int add_column(double most, bool whole);
};

class ExactModel {
 public:
  // For plans with a smaller aim than `fast` has. kPlanImpossible, kSolverLimit as plan_exactly.
  static Result<ExactModel> create(const Problem& problem, const Planned& fast);

  const MixedIntegerProgram& program() const { return program_; }
  // The plan of a solution, values by column.
  Plan decode(const std::vector<double>& solution) const;

 private:
  enum Kind : uint32_t { kF, kI, kW, kKinds };
  struct Times {
    int length[kKinds];
    int send = 0;
    int update = 0;
  };

  ExactModel(const Problem& problem, const Planned& fast);
  void add_columns();
  void add_rounds(uint32_t s);
  void add_lane_turns(uint32_t s);
  void add_totals(uint32_t s);
  void add_transfers(uint32_t s);
  void add_memory(uint32_t s);
  void add_aim(uint32_t s);

  uint32_t lanes(uint32_t s) const {
    return static_cast<uint32_t>(problem_->stages[s].lanes.size());
  }
  // Columns: a round of a kind begins; a lane begins work of a kind.
  int round(uint32_t s, Kind kind, int t) const { return round_[s][kind][static_cast<size_t>(t)]; }
  int work(uint32_t s, Kind kind, uint32_t lane, int t) const {
    return work_[s][kind][lane][static_cast<size_t>(t)];
  }
  bool has(Kind kind) const { return kind != kW || !coupled_; }
  int last_start(uint32_t s, Kind kind) const { return horizon_ - times_[s].length[kind]; }
  // Adds coefficient * (work of this kind that began at `until` or before, on one lane or all).
  void add_begun(Row& row, uint32_t s, Kind kind, uint32_t lane, int until, double factor) const;
  void add_begun_anywhere(Row& row, uint32_t s, Kind kind, int until, double factor) const;

  const Problem* problem_;
  bool coupled_;
  bool steady_;  // the aim is the period
  std::vector<Times> times_;
  int horizon_ = 0;
  int below_ = 0;  // the aim must be this at most
  MixedIntegerProgram program_;
  std::vector<std::vector<std::vector<int>>> round_;              // stage, kind, time
  std::vector<std::vector<std::vector<std::vector<int>>>> work_;  // stage, kind, lane, time
};

}  // namespace holdfast::train
