#include "train/model/dispatch.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace holdfast::train {
namespace {

using Rows = std::vector<std::vector<size_t>>;  // [lane][expert]

// How `count` rows of source lane `source` for one expert are split over the lanes: the replicas
// take consecutive runs, in the order of their lanes.
void split_rows(uint32_t count, std::span<const uint32_t> replicas, uint32_t source,
                bool reproducible, ExpertIndex expert, Rows& rows) {
  CHECK(!replicas.empty(), "expert {} has no slot", expert.value);
  const size_t slots = replicas.size();
  if (reproducible) {
    rows[replicas[source % slots]][expert.value] += count;
    return;
  }
  for (size_t slot = 0; slot < slots; ++slot)
    rows[replicas[slot]][expert.value] += (slot + 1) * count / slots - slot * count / slots;
}

// rows_from_lane_to[source]: [lane][expert]
std::vector<Rows> split_all(std::span<const uint32_t> counts, size_t experts,
                            const LayerPlacement& placement, DispatchRule rule) {
  const uint32_t lanes = placement.lanes();
  std::vector<Rows> rows(lanes, Rows(lanes, std::vector<size_t>(experts)));
  for (uint32_t e = 0; e < experts; ++e) {
    const std::vector<uint32_t> replicas = replica_lanes(placement, ExpertIndex(e));
    for (uint32_t source = 0; source < lanes; ++source) {
      uint32_t kept = counts[source * experts + e];
      if (!rule.most_E.empty()) kept = std::min(kept, rule.most_E[e]);
      split_rows(kept, replicas, source, rule.reproducible, ExpertIndex(e), rows[source]);
    }
  }
  return rows;
}

size_t total(const std::vector<size_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), size_t{0});
}

void plan_source(std::span<const uint32_t> choices, uint32_t top_k, const Rows& rows, bool drops,
                 DispatchPlan& plan) {
  Rows next = rows;  // [lane][expert]: the next row that is sent there
  size_t row = 0;
  for (std::vector<size_t>& of_lane : next) {
    plan.sent_rows.push_back(total(of_lane));
    for (size_t& of_expert : of_lane) row += std::exchange(of_expert, row);
  }
  CHECK(row == choices.size() || (drops && row < choices.size()), "{} rows for {} choices", row,
        choices.size());
  plan.row_of_choice.assign(choices.size(), kernels::kNoRow);
  plan.token_of_row.resize(row);
  std::vector<uint32_t> lane(rows.front().size());  // [expert]: the lane that takes its next row
  std::vector<size_t> taken(rows.front().size());   // [expert]: rows that lane has already
  for (size_t i = 0; i < choices.size(); ++i) {
    const uint32_t e = choices[i];
    for (; lane[e] < rows.size() && taken[e] == rows[lane[e]][e]; taken[e] = 0) ++lane[e];
    if (lane[e] == rows.size()) continue;  // the expert is full
    ++taken[e];
    const size_t to = next[lane[e]][e]++;
    plan.row_of_choice[i] = static_cast<uint32_t>(to);
    plan.token_of_row[to] = static_cast<uint32_t>(i / top_k);
  }
}

void plan_host(const std::vector<Rows>& rows, const LayerPlacement& placement, DispatchRule rule,
               DispatchPlan& plan) {
  const size_t experts = rows.front().front().size();
  const std::vector<ExpertIndex> here = hosted_experts(placement, rule.lane);
  const auto hosted = [&](uint32_t e) {
    return static_cast<uint32_t>(std::lower_bound(here.begin(), here.end(), ExpertIndex(e)) -
                                 here.begin());
  };
  Rows begin(rows.size(), std::vector<size_t>(experts));  // [source][expert], in expert order
  size_t place = 0;
  for (uint32_t e = 0; e < experts; ++e) {
    const size_t first = place;
    for (size_t source = 0; source < rows.size(); ++source) {
      const size_t count = rows[source][rule.lane][e];
      begin[source][e] = place;
      if (rule.reproducible && count > 0) plan.products.push_back({hosted(e), place, count});
      place += count;
    }
    if (!rule.reproducible && place > first)
      plan.products.push_back({hosted(e), first, place - first});
  }
  plan.place_of_row.reserve(place);
  for (size_t source = 0; source < rows.size(); ++source) {
    plan.received_rows.push_back(total(rows[source][rule.lane]));
    for (size_t e = 0; e < experts; ++e)
      for (size_t i = 0; i < rows[source][rule.lane][e]; ++i)
        plan.place_of_row.push_back(static_cast<uint32_t>(begin[source][e] + i));
  }
}

}  // namespace

DispatchPlan plan_arrivals(std::span<const uint32_t> counts, const LayerPlacement& placement,
                           DispatchRule rule) {
  const uint32_t lanes = placement.lanes();
  CHECK(rule.lane < lanes && counts.size() % lanes == 0, "lane {} of {}, {} counts", rule.lane,
        lanes, counts.size());
  DispatchPlan plan;
  plan_host(split_all(counts, counts.size() / lanes, placement, rule), placement, rule, plan);
  return plan;
}

DispatchPlan plan_dispatch(std::span<const uint32_t> choices, uint32_t top_k,
                           std::span<const uint32_t> counts, const LayerPlacement& placement,
                           DispatchRule rule) {
  const uint32_t lanes = placement.lanes();
  CHECK(rule.lane < lanes && counts.size() % lanes == 0, "lane {} of {}, {} counts", rule.lane,
        lanes, counts.size());
  const std::vector<Rows> rows =
      split_all(counts, counts.size() / lanes, placement, rule);
  DispatchPlan plan;
  plan_source(choices, top_k, rows[rule.lane], !rule.most_E.empty(), plan);
  plan_host(rows, placement, rule, plan);
  return plan;
}

Result<std::vector<uint32_t>> gather_counts(Communicator& comm, std::span<const uint32_t> counts) {
  std::vector<uint32_t> all(counts.size() * comm.size());
  const std::vector<size_t> bytes(comm.size(), counts.size_bytes());
  RETURN_IF_ERROR(
      comm.all_gather(std::as_bytes(counts), std::as_writable_bytes(std::span(all)), bytes));
  return all;
}

}  // namespace holdfast::train
