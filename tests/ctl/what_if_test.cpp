// What a person reads of GET /v1/what-if.
#include <gmock/gmock.h>

#include "ctl/what_if/report.h"

namespace holdfast::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

daemon::WhatIf answer() {
  daemon::WhatIf a;
  a.failed = {NodeId("node-1"), NodeId("node-2")};
  a.job = JobId("tiny");
  a.version = Version(44);
  a.outcome = "continues";
  a.text = "job tiny goes on with 2 of 4 lanes from v40@7.1, 4 finished steps done again";
  a.lost = {{{NodeId("node-1"), 0}, {PipelineIndex(1), StageIndex(0)}},
            {{NodeId("node-2"), 1}, {PipelineIndex(0), StageIndex(1)}}};
  a.assumptions = {"the nodes' arenas are lost with them"};
  daemon::Prediction p;
  p.base = {Version(40), Epoch{7, 1}};
  p.steps_twice = 4;
  p.lanes = {{{NodeId("node-0"), 0}, {PipelineIndex(0), StageIndex(0)}, 2, 4}};
  p.moves = {{{NodeId("node-3"), 0}, {PipelineIndex(1), StageIndex(1)}, {PipelineIndex(0), StageIndex(1)}}};
  p.orphan_shards = 12;
  p.orphan_bytes = 3 << 20;
  p.bytes_moved = 1 << 20;
  p.transfers = {{NodeId("node-0"), "replica", NodeId("node-3"), 4, 1 << 20},
                 {NodeId("node-0"), "arena", NodeId("node-0"), 8, 2 << 20}};
  p.recovery.noticed = {0.3, false, "assumed: the longest wait"};
  p.recovery.quiesce = {0.12, true, "median of 2 views"};
  p.recovery.first_step = {std::nullopt, false, "not known: no step of this view yet"};
  p.recovery.total = 0.42;
  p.pace.step_seconds_before = 0.1;
  p.pace.step_seconds_after = 0.2;
  p.pace.tokens_per_second_before = 8000;
  p.pace.tokens_per_second_after = 4000;
  p.pace.throughput_ratio = 0.5;
  a.prediction = p;
  return a;
}

TEST(WhatIfTable, SaysTheOutcomeFirstAndWhereFiguresComeFrom) {
  const std::string text = what_if_table(answer());
  EXPECT_THAT(text, testing::StartsWith("If node-1, node-2 died now, at step 44 of job tiny:\n"
                                        "job tiny goes on with 2 of 4 lanes"));
  for (const char* line : {
           "lost      node-1 at (1,0), node-2.1 at (0,1) (pipeline, stage)\n",
           "base      v40@7.1, 4 finished steps done again\n",
           "moves     node-3 from (1,1) to (0,1)\n",
           "shards    12 without an owner (3.0 MiB), 1.0 MiB moved between nodes\n",
           "noticed        0.30  assumed: the longest wait\n",
           "quiesce        0.12  median of 2 views\n",
           "first step        -  not known: no step of this view yet\n",
           "in all         0.42  without what is not known\n",
           "its own arena",
           "node-3",
           "- the nodes' arenas are lost with them\n",
       })
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, testing::ContainsRegex("step +0.100 +0.200  s\n"));
  EXPECT_THAT(text, testing::ContainsRegex("throughput +8000 +4000  tokens/s\n"));
  EXPECT_THAT(text, testing::ContainsRegex("of now +100 +50  %\n"));
  EXPECT_THAT(text, testing::ContainsRegex("node-0 +0 +0 +2 +4\n"));
}

TEST(WhatIfTable, WithoutAViewThereIsNothingToTime) {
  daemon::WhatIf a = answer();
  a.prediction.reset();
  a.lost_stages = {1, 2};
  a.text = "job tiny waits for live workers";
  const std::string text = what_if_table(a);
  EXPECT_THAT(text, HasSubstr("stages    1, 2 would have no lane left\n"));
  EXPECT_THAT(text, Not(HasSubstr("TO RECOVER")));
}

TEST(WhatIfTable, OfManyLanesTheFirstAreShown) {
  daemon::WhatIf a = answer();
  a.prediction->lanes.assign(100, a.prediction->lanes.front());
  EXPECT_THAT(what_if_table(a), HasSubstr("... and 76 more, see -o json\n"));
}

}  // namespace
}  // namespace holdfast::ctl
