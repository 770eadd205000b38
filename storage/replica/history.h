// Which states belong to the history that training is in now, and which to lines that were left.
// Pure; used by the coordinator to pick a base and by arenas to decide which blocks may go.
#pragma once

#include <span>

#include "base/ids.h"

namespace holdfast::storage {

// A view, as far as history goes: it started from `base` and made every version above it.
struct ViewBase {
  Epoch epoch;
  StateVersion base;
  bool operator==(const ViewBase&) const = default;
};

// True if `state` is not on the line that leads to the newest view of `history` (any order).
//
// The rule of the design: (v, made) is void if v exceeds the base of any view later than made, for
// that view threw v away and computed it anew. With a complete history this already settles every
// state that was ever made: two states of one version v come from two views a < b, and b could make
// v only because its base is below v. A base itself is never void by its own view.
//
// A history may start late (a cluster that lost its catalog begins anew, old views are pruned), and
// then the views between two lines are missing. So every view is taken at its word about the line
// that it continued, which is the line of its base (b, m):
//   a state made before the view: void if v > b; if v == b, void unless made == m; if v < b, void
//   if
//     made is later than m (the line had version b by the time of m, and grows only upwards);
//   a state made in the view itself: void if v <= b, as the view made only what is above b (a view
//     may call its own base made by itself: then v == b is that base and is not void);
//   a state made later than the view: the view does not speak about it.
// A state made later than every known view is never void: it knows more than we do.
// Version 0 is never void: it is computed from the job's seed, the same on every line.
bool is_void(const StateVersion& state, std::span<const ViewBase> history);

}  // namespace holdfast::storage
