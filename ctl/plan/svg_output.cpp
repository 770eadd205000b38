#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ctl/plan/report.h"
#include "train/schedule/text.h"

namespace holdfast::ctl {
namespace {

constexpr double kLeft = 64;  // room for lanes' names
constexpr double kRight = 24;
constexpr double kTop = 76;     // title, figures, legend
constexpr double kBottom = 34;  // the axis
constexpr double kGap = 8;      // between stages

struct Look {
  const char* name;
  const char* fill;
  const char* pale;  // taking part without a micro-batch
};

// Okabe and Ito's colours, which people with any colour vision can tell apart.
Look look_of(train::Work work) {
  switch (work) {
    case train::Work::kForward:
      return {"F forward", "#56b4e9", "#dbeefa"};
    case train::Work::kInputGradient:
      return {"I input gradient", "#e69f00", "#faeccc"};
    case train::Work::kWeightGradient:
      return {"W weight gradient", "#009e73", "#ccece3"};
    case train::Work::kBackward:
      return {"B both gradients", "#cc79a7", "#f5e4ed"};
  }
  CHECK(false, "work {}", static_cast<int>(work));
}
constexpr const char* kUpdate = "#999999";

std::string box(double x, double y, double width, double height, const std::string& fill,
                const std::string& hover) {
  return fmt::format(
      "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\" "
      "stroke=\"#ffffff\" stroke-width=\"0.6\"><title>{}</title></rect>\n",
      x, y, width, height, fill, hover);
}

std::string text_at(double x, double y, const char* anchor, double size, const std::string& text) {
  return fmt::format(
      "<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"{}\" font-size=\"{:.0f}\">{}</text>\n", x, y,
      anchor, size, text);
}

// 1, 2 or 5 times a power of ten, so that there are at most `most` ticks.
double tick_every(double length, double most) {
  const double least = length / most;
  double step = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0, 10.0})
    if (step * factor >= least) return step * factor;
  return step * 10;
}

class Chart {
 public:
  explicit Chart(const PlanReport& report) : report_(report), planned_(report.planned) {
    for (const auto& stage : planned_.plan.stages) lanes_ += stage.lanes.size();
    double shortest = planned_.timing.makespan;
    for (const auto& of_stage : planned_.timing.duration)
      for (const double duration : of_stage) shortest = std::min(shortest, duration);
    // Room for a number in the shortest round, within reason.
    const double wanted = 22 * planned_.timing.makespan / shortest;
    scale_ = std::clamp(wanted, 760.0, 4000.0) / planned_.timing.makespan;
    row_ = lanes_ <= 32 ? 20 : lanes_ <= 128 ? 13 : 8;
    width_ = kLeft + scale_ * planned_.timing.makespan + kRight;
    height_ = kTop + static_cast<double>(lanes_) * row_ +
              kGap * static_cast<double>(planned_.plan.stages.size()) + kBottom;
  }

  std::string draw() const {
    std::string out = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
        "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" fill=\"#222222\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        width_, height_);
    out += head() + legend() + axis();
    double y = kTop;
    for (uint32_t s = 0; s < planned_.plan.stages.size(); ++s) {
      for (size_t lane = 0; lane < planned_.plan.stages[s].lanes.size(); ++lane) {
        out += lane_row(s, lane, y);
        y += row_;
      }
      y += kGap;
    }
    return out + "</svg>\n";
  }

 private:
  double x(double time) const { return kLeft + scale_ * time; }

  std::string head() const {
    std::string dead;
    for (size_t i = 0; i < report_.request.failures.size() && i < 12; ++i) {
      const auto& [d, s] = report_.request.failures[i];
      dead += (i == 0 ? "; dead: " : ", ") + lane_text(d, s);
    }
    if (report_.request.failures.size() > 12) dead += " ...";
    return text_at(12, 22, "start", 15, plan_title(report_) + dead) +
           text_at(12, 42, "start", 12,
                   fmt::format(
                       "makespan {} (bound {}), steady period {} (bound {})",
                       number_text(planned_.timing.makespan), number_text(planned_.bounds.makespan),
                       number_text(planned_.timing.period), number_text(planned_.bounds.period)));
  }

  std::string entry(double& at, const std::string& fill, const std::string& name) const {
    std::string out = box(at, 52, 14, 12, fill, name) + text_at(at + 19, 62, "start", 11, name);
    at += 34 + 6.3 * static_cast<double>(name.size());
    return out;
  }

  std::string legend() const {
    std::string out;
    double at = 12;
    bool idle = false;
    for (const train::Work work : {train::Work::kForward, train::Work::kInputGradient,
                                   train::Work::kWeightGradient, train::Work::kBackward}) {
      bool used = false;
      for (const auto& stage : planned_.plan.stages)
        for (const auto& round : stage.rounds) {
          used = used || round.work == work;
          for (const auto& cell : round.lanes) idle = idle || !cell;
        }
      if (used) out += entry(at, look_of(work).fill, look_of(work).name);
    }
    for (const auto& stage : report_.request.problem.stages)
      if (stage.costs.update > 0) {
        out += entry(at, kUpdate, "update");
        break;
      }
    if (idle) out += entry(at, look_of(train::Work::kForward).pale, "pale: no micro-batch");
    return out;
  }

  std::string axis() const {
    std::string out;
    const double makespan = planned_.timing.makespan;
    const double step = tick_every(makespan, scale_ * makespan / 50);
    const double bottom = height_ - kBottom + 4;
    for (double t = 0; t <= makespan + 1e-9; t += step)
      out += fmt::format(
                 "<line x1=\"{0:.2f}\" y1=\"{1:.0f}\" x2=\"{0:.2f}\" y2=\"{2:.2f}\" "
                 "stroke=\"#dddddd\"/>\n",
                 x(t), kTop - 4, bottom) +
             text_at(x(t), bottom + 14, "middle", 10, number_text(t));
    return out + text_at(12, bottom + 14, "start", 10, "time");
  }

  std::string lane_row(uint32_t s, size_t lane, double y) const {
    const train::StagePlan& stage = planned_.plan.stages[s];
    const std::string name = lane_text(stage.lanes[lane], s);
    std::string out;
    if (row_ >= 10 || lane == 0)
      out += text_at(kLeft - 8, y + std::min(row_ - 5, 14.0) + 1, "end", std::min(row_ - 2, 12.0),
                     name);
    for (size_t r = 0; r < stage.rounds.size(); ++r) {
      const double start = planned_.timing.start[s][r];
      const double duration = planned_.timing.duration[s][r];
      const auto& cell = stage.rounds[r].lanes[lane];
      const Look look = look_of(cell ? cell->work : stage.rounds[r].work);
      const std::string what = cell ? train::to_text(*cell) : "no micro-batch";
      out += box(x(start), y, scale_ * duration, row_ - 1, cell ? look.fill : look.pale,
                 fmt::format("{} round {}: {}, {} to {}", name, r, what, number_text(start),
                             number_text(start + duration)));
      const std::string number = cell ? std::to_string(cell->micro_batch.value) : "";
      if (cell && row_ >= 12 && scale_ * duration >= 4 + 6.5 * static_cast<double>(number.size()))
        out += text_at(x(start + duration / 2), y + row_ / 2 + 3, "middle",
                       std::min(row_ - 3, 11.0), number);
    }
    if (const double update = report_.request.problem.stages[s].costs.update; update > 0)
      out += box(x(planned_.timing.update_start[s]), y, scale_ * update, row_ - 1, kUpdate,
                 name + " update");
    return out;
  }

  const PlanReport& report_;
  const train::Planned& planned_;
  size_t lanes_ = 0;
  double scale_ = 1;
  double row_ = 20;
  double width_ = 0;
  double height_ = 0;
};

}  // namespace

std::string plan_svg(const PlanReport& report) { return Chart(report).draw(); }

}  // namespace holdfast::ctl
