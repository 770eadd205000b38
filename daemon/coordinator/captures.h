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
  };
  // A version that was abandoned may be named again; the attempt tells answers to the two apart.
  struct Named {
    Version version;
    uint64_t attempt = 0;
    bool operator==(const Named&) const = default;
  };
  // Attempts are numbered from `first_attempt` on; an earlier process of this epoch used lower ones.
  Captures(Limits limits, uint64_t first_attempt)
      : limits_(limits), next_attempt_(first_attempt) {}

  // A new view with this many lanes: everything under way is over.
  void open(uint32_t lanes, uint32_t every);
  void close() { open(0, every_); }

  // The next version to capture when `newest` was made, at most `last`; nullopt: not now.
  std::optional<Named> name(Version newest, Version last);
  // One that is wanted whatever is under way (base of the view, the step of a planned change).
  Named name_now(Version version);

  // True when this was the last lane: the version is safe, older captures under way are dropped into
  // `abandoned`. False also for an answer to an earlier attempt.
  bool replicated(uint32_t lane, const Named& named, std::vector<Version>& abandoned);
  // True when that attempt was under way: abandon the version everywhere. `too_late`: an owner had
  // overwritten the version before it heard of it; later ones are named further ahead. Whatever else
  // keeps failing is tried less and less often.
  bool missed(const Named& named, bool too_late);
  // Those that were made `limit_ms` ago or earlier; `newest` was made by now.
  std::vector<Named> late(int64_t now_ms, Version newest, int64_t limit_ms);

  std::vector<Named> under_way() const;
  bool is_under_way(Version version) const { return pending_.contains(version); }
  bool is_under_way(const Named& named) const {
    const auto it = pending_.find(named.version);
    return it != pending_.end() && it->second.attempt == named.attempt;
  }
  // The newest version that any owner of this view may have been told to capture.
  const std::optional<Version>& newest_named() const { return newest_named_; }

 private:
  struct Pending {
    uint64_t attempt = 0;
    int64_t made_ms = -1;  // -1: not made yet
    std::set<uint32_t> lanes;
  };
  std::map<Version, Pending>::iterator find(const Named& named);

  const Limits limits_;
  uint64_t next_attempt_;
  uint32_t lanes_ = 0;
  uint32_t every_ = 1;
  uint64_t lead_ = 1;       // versions ahead: grows when workers were told too late
  uint32_t in_time_ = 0;    // safe versions since the lead changed
  uint32_t in_a_row_ = 0;   // missed since the last safe version, and not for coming too late
  std::map<Version, Pending> pending_;
  std::optional<Version> newest_named_;
};

}  // namespace holdfast::daemon
