// The planner's search: many styles of drafting, the best one altered at random, and then the same
// with less memory. Everything is counted, nothing is timed, so it is deterministic.
#pragma once

#include <cstdint>
#include <random>

#include "train/schedule/bounds.h"
#include "train/schedule/draft.h"

namespace holdfast::train {

class StyleSearch {
 public:
  StyleSearch(const Problem& problem, bool is_coupled, Barrier barrier, const Bounds& bounds,
              uint32_t most_tries);

  Draft run();
  uint32_t tries() const { return tries_; }

 private:
  struct Score {
    double first = 0;  // what the policy aims at
    double second = 0;
    uint64_t held = 0;  // sum of limits
    bool better_than(const Score& other) const;
    bool no_worse_than(const Score& other) const { return !other.better_than(*this); }
  };

  bool may_try() const { return tries_ < most_tries_; }
  bool at_bound() const;
  // Drafts it; keeps it when it is better, or no worse when `sideways`.
  void consider(const Style& style, bool sideways);
  void try_families();
  void alter_at_random();
  void save_memory();
  Style family(uint32_t limits, uint32_t backlog, bool wait, bool forward_first,
               double spare) const;
  void alter(StageStyle& style, uint32_t stage, uint32_t what, uint32_t how) const;
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }

  const Problem& problem_;
  const bool coupled_;
  const Barrier barrier_;
  const Bounds bounds_;
  const uint32_t most_tries_;
  std::vector<double> slack_;  // by stage: time that its work leaves of the period's bound
  std::mt19937 random_;        // of a fixed seed
  uint32_t tries_ = 0;
  Style best_style_;
  Score best_score_;
  Draft best_;
};

}  // namespace holdfast::train
