#include <coin/Cbc_C_Interface.h>

#include <limits>
#include <memory>
#include <string>

#include "train/schedule/exact.h"
#include "train/schedule/exact_solver.h"

namespace holdfast::train {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::max();

struct Deleter {
  void operator()(Cbc_Model* model) const { Cbc_deleteModel(model); }
};
using Model = std::unique_ptr<Cbc_Model, Deleter>;

// Columns in the sparse form that CBC loads: its entries column by column.
struct Columns {
  std::vector<CoinBigIndex> start;
  std::vector<int> row;
  std::vector<double> value;

  explicit Columns(const MixedIntegerProgram& program) {
    std::vector<std::vector<std::pair<int, double>>> entries(program.upper.size());
    for (size_t r = 0; r < program.rows.size(); ++r)
      for (const auto& [column, factor] : program.rows[r].terms)
        entries[static_cast<size_t>(column)].emplace_back(static_cast<int>(r), factor);
    for (const auto& of_column : entries) {
      start.push_back(static_cast<CoinBigIndex>(row.size()));
      for (const auto& [r, factor] : of_column) {
        // A row may name a column twice: once it is one entry.
        if (static_cast<size_t>(start.back()) < row.size() && row.back() == r) {
          value.back() += factor;
          continue;
        }
        row.push_back(r);
        value.push_back(factor);
      }
    }
    start.push_back(static_cast<CoinBigIndex>(row.size()));
  }
};

Model load(const MixedIntegerProgram& program) {
  const Columns columns(program);
  const size_t count = program.upper.size();
  const std::vector<double> zero(count, 0.0);
  std::vector<double> objective(count, 0.0);
  objective[static_cast<size_t>(program.objective)] = 1;
  std::vector<double> least, most;
  for (const Row& row : program.rows) {
    least.push_back(row.sense == 'L' ? -kUnbounded : row.right);
    most.push_back(row.sense == 'G' ? kUnbounded : row.right);
  }
  Model model(Cbc_newModel());
  Cbc_loadProblem(model.get(), static_cast<int>(count), static_cast<int>(program.rows.size()),
                  columns.start.data(), columns.row.data(), columns.value.data(), zero.data(),
                  program.upper.data(), objective.data(), least.data(), most.data());
  for (size_t c = 0; c < count; ++c)
    if (program.integer[c]) Cbc_setInteger(model.get(), static_cast<int>(c));
  return model;
}

}  // namespace

bool has_exact_solver() { return true; }

Solution solve(const MixedIntegerProgram& program, double seconds) {
  const Model model = load(program);
  Cbc_setLogLevel(model.get(), 0);
  Cbc_setMaximumSeconds(model.get(), seconds);
  // Aims are whole numbers: what is less than one better is not better.
  Cbc_setParameter(model.get(), "increment", "0.999");
  Cbc_solve(model.get());
  Solution solution;
  if (Cbc_isProvenInfeasible(model.get())) solution.outcome = Outcome::kNone;
  if (!Cbc_isProvenOptimal(model.get())) return solution;
  solution.outcome = Outcome::kBest;
  const double* values = Cbc_getColSolution(model.get());
  solution.values.assign(values, values + program.upper.size());
  return solution;
}

}  // namespace holdfast::train
