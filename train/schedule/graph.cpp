#include "train/schedule/graph.h"

#include <algorithm>
#include <limits>

namespace holdfast::train {
namespace {

constexpr int kMostSteps = 8;  // until the period is computed the long way
constexpr double kNever = -std::numeric_limits<double>::infinity();

// Ends of stages, before updates, when stage s may begin at ready[s]. `end` is scratch, by node.
std::vector<double> stage_ends(const StepGraph& graph, const std::vector<double>& ready,
                               std::vector<double>& end, std::vector<double>* start) {
  std::vector<double> free = ready;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const StepGraph::Node& node = graph.nodes[n];
    double from = free[node.stage];
    for (uint32_t i = node.inputs_begin; i < node.inputs_end; ++i)
      from = std::max(from, end[graph.inputs[i].node] + graph.inputs[i].send);
    end[n] = from + node.duration;
    free[node.stage] = end[n];
    if (start != nullptr) (*start)[n] = from;
  }
  return free;
}

// ways[s][u]: the longest way from stage s being ready to the end of stage u, before its update.
std::vector<std::vector<double>> stage_ways(const StepGraph& graph) {
  const size_t stages = graph.updates.size();
  std::vector<std::vector<double>> ways;
  std::vector<double> end(graph.nodes.size());
  for (size_t s = 0; s < stages; ++s) {
    std::vector<double> ready(stages, kNever);
    ready[s] = 0;
    ways.push_back(stage_ends(graph, ready, end, nullptr));
  }
  return ways;
}

// Karp: the largest mean weight of a cycle in the complete graph over stages.
double largest_cycle_mean(const std::vector<std::vector<double>>& weight) {
  const size_t n = weight.size();
  std::vector<std::vector<double>> best(n + 1, std::vector<double>(n, kNever));
  best[0].assign(n, 0.0);  // from a source that reaches every stage
  for (size_t k = 1; k <= n; ++k)
    for (size_t u = 0; u < n; ++u)
      for (size_t s = 0; s < n; ++s)
        best[k][u] = std::max(best[k][u], best[k - 1][s] + weight[s][u]);
  double mean = kNever;
  for (size_t u = 0; u < n; ++u) {
    if (best[n][u] == kNever) continue;
    double least = std::numeric_limits<double>::infinity();
    for (size_t k = 0; k < n; ++k)
      if (best[k][u] != kNever)
        least = std::min(least, (best[n][u] - best[k][u]) / static_cast<double>(n - k));
    mean = std::max(mean, least);
  }
  return mean;
}

}  // namespace

StepTimes time_once(const StepGraph& graph, Barrier barrier) {
  StepTimes times;
  times.start.resize(graph.nodes.size());
  std::vector<double> end(graph.nodes.size());
  std::vector<double> ends =
      stage_ends(graph, std::vector<double>(graph.updates.size(), 0.0), end, &times.start);
  const double all = *std::max_element(ends.begin(), ends.end());
  for (size_t s = 0; s < ends.size(); ++s) {
    const double from = barrier == Barrier::kGlobal ? all : ends[s];
    times.makespan = std::max(times.makespan, from + graph.updates[s]);
  }
  return times;
}

StepTimes time_step(const StepGraph& graph, Barrier barrier) {
  StepTimes times = time_once(graph, barrier);
  if (barrier == Barrier::kPerStage) {
    times.period = staggered_period(graph, std::numeric_limits<double>::infinity());
    return times;
  }
  // From one barrier to the next: every stage is ready when its update is done.
  std::vector<double> end(graph.nodes.size());
  const std::vector<double> ends = stage_ends(graph, graph.updates, end, nullptr);
  times.period = *std::max_element(ends.begin(), ends.end());
  return times;
}

// Step after step by data flow: the period lies between the least and the greatest growth of the
// stages' ends from one step to the next (Collatz and Wielandt, in max-plus algebra). Most often
// they meet soon.
double staggered_period(const StepGraph& graph, double enough) {
  std::vector<double> end(graph.nodes.size());
  std::vector<double> ready(graph.updates.size(), 0.0);
  for (int step = 0; step < kMostSteps; ++step) {
    std::vector<double> next = stage_ends(graph, ready, end, nullptr);
    double least = std::numeric_limits<double>::infinity();
    double most = 0;
    for (size_t s = 0; s < next.size(); ++s) {
      next[s] += graph.updates[s];
      least = std::min(least, next[s] - ready[s]);
      most = std::max(most, next[s] - ready[s]);
    }
    if (least > enough || most - least <= 1e-12 * next.front()) return most;
    ready = std::move(next);
  }
  std::vector<std::vector<double>> ways = stage_ways(graph);
  for (auto& from : ways)
    for (size_t u = 0; u < from.size(); ++u) from[u] += graph.updates[u];
  return largest_cycle_mean(ways);
}

}  // namespace holdfast::train
