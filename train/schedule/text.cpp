#include "train/schedule/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "base/check.h"
#include "train/schedule/problem.h"

namespace holdfast::train {
namespace {

// Words of one line, with the line's number for errors.
class Line {
 public:
  Line(uint32_t number, const std::string& text) : number_(number), words_(text) {}

  // The next word; empty at the end.
  std::string next() {
    std::string word;
    words_ >> word;
    return word;
  }
  tl::unexpected<Error> bad(const std::string& word, const char* wanted) const {
    return fail(ErrorCode::kPlanText,
                fmt::format("line {}: \"{}\" where {} should stand", number_, word, wanted));
  }
  Status expect(const char* wanted) {
    const std::string word = next();
    if (word == wanted) return {};
    return bad(word, fmt::format("\"{}\"", wanted).c_str());
  }

 private:
  uint32_t number_;
  std::istringstream words_;
};

bool read_number(std::string_view text, uint32_t& value) {
  const auto [rest, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && rest == text.data() + text.size() && !text.empty();
}

std::optional<Work> work_of(char letter) {
  switch (letter) {
    case 'F':
      return Work::kForward;
    case 'I':
      return Work::kInputGradient;
    case 'W':
      return Work::kWeightGradient;
    case 'B':
      return Work::kBackward;
    default:
      return std::nullopt;  // no enum: any character may stand there
  }
}

// A round's work is that of its cells; where W stands beside another kind, the other kind. A round
// without cells only computes expert gradients, which is weight work.
Work work_of_cells(const StageRound& round) {
  Work work = Work::kWeightGradient;
  for (const auto& cell : round.lanes)
    if (cell && cell->work != Work::kWeightGradient) work = cell->work;
  return work;
}

Status add_word(const Line& line, const std::string& word, StageRound& round) {
  if (word == "-") {
    round.lanes.emplace_back();
    return {};
  }
  uint32_t number = 0;
  if (word.size() < 2 || !read_number(std::string_view(word).substr(1), number))
    return line.bad(word, "F7, I7, W7, B7, e7 or -");
  if (word[0] == 'e') {
    round.experts.push_back(number);
    return {};
  }
  const std::optional<Work> work = work_of(word[0]);
  if (!work) return line.bad(word, "F7, I7, W7, B7, e7 or -");
  round.lanes.push_back(Cell{*work, MicroBatchIndex(number)});
  return {};
}

Result<StagePlan> parse_stage(Line& line, size_t number) {
  RETURN_IF_ERROR(line.expect("stage"));
  RETURN_IF_ERROR(line.expect(std::to_string(number).c_str()));
  RETURN_IF_ERROR(line.expect("lanes"));
  StagePlan stage;
  for (bool more = true; more;) {
    std::string word = line.next();
    if (word.ends_with(':')) {
      more = false;
      word.pop_back();
    }
    uint32_t lane = 0;
    if (!read_number(word, lane)) return line.bad(word, "a lane's pipeline");
    stage.lanes.push_back(lane);
  }
  StageRound round;
  for (std::string word = line.next(); !word.empty(); word = line.next()) {
    if (word != "|") {
      RETURN_IF_ERROR(add_word(line, word, round));
      continue;
    }
    round.work = work_of_cells(round);
    stage.rounds.push_back(std::move(round));
    round = {};
  }
  if (!round.lanes.empty() || !round.experts.empty() || !stage.rounds.empty()) {
    round.work = work_of_cells(round);
    stage.rounds.push_back(std::move(round));
  }
  return stage;
}

}  // namespace

char letter(Work work) {
  switch (work) {
    case Work::kForward:
      return 'F';
    case Work::kInputGradient:
      return 'I';
    case Work::kWeightGradient:
      return 'W';
    case Work::kBackward:
      return 'B';
  }
  CHECK(false, "work {}", static_cast<int>(work));
}

std::string to_text(const Cell& cell) {
  return letter(cell.work) + std::to_string(cell.micro_batch.value);
}

std::string to_text(const StageRound& round) {
  std::string text;
  for (const auto& cell : round.lanes) text += (cell ? to_text(*cell) : "-") + " ";
  for (const uint32_t expert : round.experts) text += fmt::format("e{} ", expert);
  if (!text.empty()) text.pop_back();
  return text;
}

std::string to_text(const Plan& plan) {
  std::string text =
      fmt::format("plan pipelines {} micro-batches {}\n", plan.pipelines, plan.micro_batches);
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    text += fmt::format("stage {} lanes", s);
    for (const uint32_t lane : plan.stages[s].lanes) text += fmt::format(" {}", lane);
    text += ":";
    const auto& rounds = plan.stages[s].rounds;
    for (size_t r = 0; r < rounds.size(); ++r) text += (r == 0 ? " " : " | ") + to_text(rounds[r]);
    text += "\n";
  }
  return text;
}

Result<Plan> parse_plan(std::string_view text) {
  std::istringstream lines{std::string(text)};
  std::string content;
  std::getline(lines, content);
  Line head(1, content);
  Plan plan;
  RETURN_IF_ERROR(head.expect("plan"));
  for (const auto& [name, number] :
       {std::pair("pipelines", &plan.pipelines), std::pair("micro-batches", &plan.micro_batches)}) {
    RETURN_IF_ERROR(head.expect(name));
    const std::string word = head.next();
    if (!read_number(word, *number)) return head.bad(word, "a number");
  }
  for (uint32_t number = 2; std::getline(lines, content); ++number) {
    if (content.empty()) continue;
    Line line(number, content);
    ASSIGN_OR_RETURN(StagePlan stage, parse_stage(line, plan.stages.size()));
    plan.stages.push_back(std::move(stage));
  }
  return plan;
}

}  // namespace holdfast::train
