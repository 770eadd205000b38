// Which versions are being captured, and what is safe (section 8 of DESIGN.md). Pure. The coordinator
// names a version; every owner captures it and replicates it to its holders, or it is abandoned
// everywhere.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/ids.h"

namespace holdfast::daemon {

class Captures {
 public:
  struct Limits {
    uint32_t under_way = 2;  // the arena has room for these, the safe version and no more
    uint64_t most_lead = 16;
    int64_t timeout_ms = 60'000;
  };
  explicit Captures(Limits limits) : limits_(limits) {}

  // A new view with this many lanes: everything under way is over.
  void open(uint32_t lanes, uint32_t every);
  void close() { open(0, every_); }

  // The next version to capture when `newest` was made, at most `last`; nullopt: not now.
  std::optional<Version> name(int64_t now_ms, Version newest, Version last);
  // One that is wanted whatever is under way (base of the view, the step of a planned change).
  void name_now(int64_t now_ms, Version version);

  // True when this was the last lane: the version is safe, older captures under way are dropped into
  // `abandoned`.
  bool replicated(uint32_t lane, Version version, std::vector<Version>& abandoned);
  // True when it was under way: abandon it everywhere.
  bool missed(Version version);
  std::vector<Version> timed_out(int64_t now_ms) const;

  const std::optional<Version>& safe() const { return safe_; }  // of this view
  std::vector<Version> under_way() const;
  bool is_under_way(Version version) const { return pending_.contains(version); }

 private:
  struct Pending {
    int64_t named_ms = 0;
    std::set<uint32_t> lanes;
  };
  const Limits limits_;
  uint32_t lanes_ = 0;
  uint32_t every_ = 1;
  uint64_t lead_ = 1;  // versions ahead: grows when workers were told too late
  std::map<Version, Pending> pending_;
  std::optional<Version> newest_named_;
  std::optional<Version> safe_;
};

}  // namespace holdfast::daemon
