// How long planning takes, and what throughput plans keep as workers fail, from simulation at paper
// scale.
//   plan_bench [--seeds N] [--quick] [--commit HEX] [--out FILE] [--figure FILE.svg]
//
// The model of the figure: F = I = W = 1 on every stage, sending 0.1, update 1, a lane holds at
// most 2 S micro-batches; failures drawn at random over all workers, each stage keeps a lane. A
// policy's throughput is micro-batches a time in steady state, relative to fault-free 1F1B with the
// barrier. "drop" is what a system does that gives up a pipeline with every worker lost in it: the
// rest do all micro-batches, in fault-free 1F1B. "moves" is staggered after failure normalization.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "bench/record.h"
#include "train/schedule/normalize.h"
#include "train/schedule/planner.h"

namespace {

using namespace holdfast::train;

struct Size {
  uint32_t pipelines, stages, micro_batches;
};

// ---- how long planning takes ----

Problem model_problem(const Size& size) {
  Problem problem = uniform_problem(size.pipelines, size.stages, size.micro_batches);
  for (StageProblem& stage : problem.stages) {
    stage.costs.send = 0.1;
    stage.costs.update = 1;
    stage.cap = 2 * size.stages;
  }
  return problem;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void fail_at_random(Problem& problem, uint32_t failures, uint32_t seed) {
  std::mt19937 random(seed);
  while (failures > 0) {
    const auto s = static_cast<uint32_t>(random() % problem.stages.size());
    const auto d = static_cast<uint32_t>(random() % problem.pipelines);
    if (problem.stages[s].lanes.size() > 1 && remove_lane(problem, d, s)) --failures;
  }
}

std::string speed_row(const Size& size, uint32_t failures, int seeds) {
  std::vector<double> seconds, gaps;
  for (int seed = 0; seed < seeds; ++seed) {
    Problem problem = model_problem(size);
    fail_at_random(problem, failures, static_cast<uint32_t>(seed));
    seconds.push_back(seconds_of([&] {
      const auto planned = plan_step(problem, Policy::kStaggered);
      CHECK(planned);
      gaps.push_back(gap(*planned));
    }));
  }
  std::sort(seconds.begin(), seconds.end());
  return fmt::format(
      "{{\"pipelines\": {}, \"stages\": {}, \"micro_batches\": {}, \"failures\": {}, "
      "\"median_seconds\": {:.3f}, \"most_seconds\": {:.3f}, \"largest_gap\": {:.4f}}}",
      size.pipelines, size.stages, size.micro_batches, failures, seconds[seconds.size() / 2],
      seconds.back(), *std::max_element(gaps.begin(), gaps.end()));
}

// ---- throughput against failures ----

constexpr const char* kSystems[] = {"moves", "staggered", "split", "reroute", "drop"};
constexpr const char* kColours[] = {"#000000", "#009e73", "#e69f00", "#cc79a7", "#999999"};
constexpr double kPercent[] = {0, 1, 5, 10};

double period_of(const Problem& problem, Policy policy) {
  const auto planned = plan_step(problem, policy);
  CHECK(planned, "{}", planned.error().to_string());
  return planned->timing.period;
}

// Pipelines with a dead worker do nothing; the others share all micro-batches.
double period_when_dropping(const Size& size, const Problem& problem) {
  std::vector<uint32_t> live(size.pipelines, 0);
  for (const StageProblem& stage : problem.stages)
    for (const uint32_t d : stage.lanes) ++live[d];
  const auto whole = static_cast<uint32_t>(std::count(live.begin(), live.end(), size.stages));
  if (whole == 0) return 0;  // it stops
  const uint32_t total = size.pipelines * size.micro_batches;
  return period_of(model_problem({whole, size.stages, (total + whole - 1) / whole}),
                   Policy::kOneForwardOneBackward);
}

double system_period(size_t system, const Size& size, const Problem& problem) {
  switch (system) {  // by place in kSystems
    case 0: {
      const auto proposals = propose_moves(problem, Policy::kStaggered, {});
      CHECK(proposals);
      return proposals->empty() ? period_of(problem, Policy::kStaggered) : proposals->back().after;
    }
    case 1:
      return period_of(problem, Policy::kStaggered);
    case 2:
      return period_of(problem, Policy::kSplit);
    case 3:
      return period_of(problem, Policy::kReroute);
    default:
      return period_when_dropping(size, problem);
  }
}

// [system][percent], relative to fault-free 1F1B.
using Curves = std::vector<std::vector<double>>;

Curves measure_curves(const Size& size, int seeds) {
  const double whole = period_of(model_problem(size), Policy::kOneForwardOneBackward);
  Curves curves;
  for (size_t system = 0; system < std::size(kSystems); ++system) {
    curves.emplace_back();
    for (const double percent : kPercent) {
      const auto failures =
          static_cast<uint32_t>(size.pipelines * size.stages * percent / 100 + 0.5);
      double sum = 0;
      for (int seed = 0; seed < seeds; ++seed) {
        Problem problem = model_problem(size);
        fail_at_random(problem, failures, static_cast<uint32_t>(seed));
        const double period = system_period(system, size, problem);
        sum += period > 0 ? whole / period : 0;
      }
      curves.back().push_back(sum / seeds);
    }
  }
  return curves;
}

std::string panel(const Size& size, const Curves& curves, double left) {
  constexpr double kTop = 84, kHeight = 206, kWidth = 240, kMost = 1.3;
  const auto x = [&](size_t i) { return left + kWidth * kPercent[i] / 10; };
  const auto y = [&](double value) { return kTop + kHeight * (1 - value / kMost); };
  std::string out = fmt::format(
      "<text x=\"{:.0f}\" y=\"{:.0f}\" font-size=\"13\">D = {}, S = {}, M = {}</text>\n", left,
      kTop - 12, size.pipelines, size.stages, size.micro_batches);
  for (int tick = 0; tick <= 12; tick += 2)
    out += fmt::format(
        "<line x1=\"{:.0f}\" y1=\"{:.1f}\" x2=\"{:.0f}\" y2=\"{:.1f}\" stroke=\"#dddddd\"/>"
        "<text x=\"{:.0f}\" y=\"{:.1f}\" text-anchor=\"end\" font-size=\"10\">{:.1f}</text>\n",
        left, y(tick / 10.0), left + kWidth, y(tick / 10.0), left - 6, y(tick / 10.0) + 3,
        tick / 10.0);
  for (size_t i = 0; i < std::size(kPercent); ++i)
    out += fmt::format(
        "<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\" font-size=\"10\">{}%</text>\n",
        x(i), kTop + kHeight + 16, kPercent[i]);
  for (size_t system = curves.size(); system-- > 0;) {
    std::string points;
    for (size_t i = 0; i < curves[system].size(); ++i) {
      points += fmt::format("{:.1f},{:.1f} ", x(i), y(curves[system][i]));
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(i),
                         y(curves[system][i]), kColours[system]);
    }
    out += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                       points, kColours[system]);
  }
  return out;
}

std::string figure(const std::vector<Size>& sizes, const std::vector<Curves>& curves) {
  const double width = 60 + 300 * static_cast<double>(sizes.size());
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"350\" "
      "viewBox=\"0 0 {0:.0f} 350\" font-family=\"sans-serif\" fill=\"#222222\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"16\" y=\"24\" font-size=\"15\">Simulated throughput against workers failed, of "
      "fault-free 1F1B</text>\n"
      "<text x=\"16\" y=\"42\" font-size=\"11\">F = I = W = 1, sending 0.1, update 1, at most 2 S "
      "micro-batches in flight a lane, failures at random</text>\n",
      width);
  for (size_t i = 0; i < sizes.size(); ++i)
    out += panel(sizes[i], curves[i], 50 + 300 * static_cast<double>(i));
  for (size_t system = 0; system < std::size(kSystems); ++system)
    out += fmt::format(
        "<rect x=\"{0}\" y=\"322\" width=\"14\" height=\"12\" fill=\"{1}\"/>"
        "<text x=\"{2}\" y=\"332\" font-size=\"12\">{3}</text>\n",
        50 + 110 * system, kColours[system], 69 + 110 * system, kSystems[system]);
  return out + "</svg>\n";
}

std::string curves_row(const Size& size, const Curves& curves) {
  std::string systems;
  for (size_t system = 0; system < curves.size(); ++system)
    systems += fmt::format("{}\"{}\": [{:.3f}]", system == 0 ? "" : ", ", kSystems[system],
                           fmt::join(curves[system], ", "));
  return fmt::format("{{\"pipelines\": {}, \"stages\": {}, \"micro_batches\": {}, {}}}",
                     size.pipelines, size.stages, size.micro_batches, systems);
}

int failed(const holdfast::Error& error) {
  fmt::print(stderr, "plan_bench: {}\n", error.to_string());
  return holdfast::error_row(error.code).exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Speed of the planner, and throughput under failures from simulation");
  std::string out, figure_file, commit;
  int seeds = 5;
  bool quick = false;
  app.add_option("--out", out, "also write the result to this file");
  app.add_option("--figure", figure_file, "write the figure, an SVG, to this file");
  app.add_option("--commit", commit, "that this was built from, for the record")
      ->check(holdfast::bench::commit_complaint);
  app.add_option("--seeds", seeds, "random sets of failures for each point")
      ->check(CLI::Range(1, 1000));
  app.add_flag("--quick", quick, "small sizes only, to try it out");
  CLI11_PARSE(app, argc, argv);

  for (const std::string& file : {out, figure_file})
    if (const holdfast::Status ready = holdfast::bench::can_write(file); !ready)
      return failed(ready.error());
  std::vector<std::string> speed;
  for (const uint32_t percent : {0u, 1u, 5u, 10u}) {
    const Size size = quick ? Size{8, 8, 16} : Size{32, 16, 64};
    speed.push_back(speed_row(size, size.pipelines * size.stages * percent / 100, seeds));
  }
  const std::vector<Size> sizes = quick
                                      ? std::vector<Size>{{8, 4, 16}}
                                      : std::vector<Size>{{16, 8, 32}, {32, 16, 64}, {64, 32, 128}};
  std::vector<Curves> curves;
  std::vector<std::string> rows;
  for (const Size& size : sizes) {
    curves.push_back(measure_curves(size, seeds));
    rows.push_back(curves_row(size, curves.back()));
  }
  const std::string result = fmt::format(
      "{{\"bench\": \"plan\", \"origin\": {}, \"policy\": \"staggered\", \"seeds\": {},\n \"speed\": [{}],\n"
      " \"percent_failed\": [{}],\n \"relative_throughput\": [{}]}}\n",
      boost::json::serialize(holdfast::bench::origin(commit)), seeds, fmt::join(speed, ",\n  "),
      fmt::join(kPercent, ", "), fmt::join(rows, ",\n  "));
  std::fputs(result.c_str(), stdout);
  for (const auto& [file, text] :
       {std::pair(out, result), std::pair(figure_file, figure(sizes, curves))})
    if (const holdfast::Status written = holdfast::bench::write_result(file, text); !written)
      return failed(written.error());
  return 0;
}
