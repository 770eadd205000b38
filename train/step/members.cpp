#include "train/step/members.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace holdfast::train {

uint32_t Members::stage_of(uint32_t member) const {
  CHECK(member < count(), "member {} of {}", member, count());
  // A stage without lanes begins where the next one does.
  return static_cast<uint32_t>(std::upper_bound(first.begin(), first.end(), member) -
                               first.begin()) -
         1;
}

std::vector<uint32_t> Members::group(uint32_t stage) const {
  std::vector<uint32_t> all(lanes(stage));
  std::iota(all.begin(), all.end(), first[stage]);
  return all;
}

Result<Members> members_of(std::span<const uint32_t> coordinates,
                           std::span<const uint32_t> stages, uint32_t job_stages) {
  CHECK(stages.empty() || stages.size() == coordinates.size());
  Members members{LanesByStage(job_stages), {}};
  for (size_t m = 0; m < coordinates.size(); ++m) {
    const uint32_t stage = stages.empty() ? 0 : stages[m];
    const bool in_order =
        m == 0 || stages.empty() || stage > stages[m - 1] ||
        (stage == stages[m - 1] && coordinates[m] > coordinates[m - 1]);
    if (stage >= job_stages || !in_order)
      return fail(ErrorCode::kPlanImpossible,
                  fmt::format("member {} is lane {}:{}: members must be in the order of {} stages and "
                              "their pipelines",
                              m, coordinates[m], stage, job_stages));
    members.pipelines[stage].push_back(coordinates[m]);
  }
  uint32_t next = 0;
  for (const auto& lanes : members.pipelines) {
    members.first.push_back(next);
    next += static_cast<uint32_t>(lanes.size());
  }
  return members;
}

}  // namespace holdfast::train
