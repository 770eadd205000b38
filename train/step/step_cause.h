// Why a step failed, where several errors were seen.
#pragma once

#include "base/result.h"

namespace holdfast::train {

// `met`: where the step ended. `idle`: what the device and the exchanges say once nothing runs on it any more;
// an exchange that was broken off leaves undefined bytes, and what was computed of them says nothing.
inline const Error& cause_of(const Error& met, const Error& idle) {
  if (idle.code == ErrorCode::kDeviceFailed) return idle;
  if (met.code == ErrorCode::kLossNotFinite || met.code == ErrorCode::kGradientOverflow) return idle;
  // That all exchanges were given up, or that nobody came, follows from what broke one of them.
  const bool follows = met.code == ErrorCode::kCommAborted || met.code == ErrorCode::kCommTimeout;
  return follows && idle.code != ErrorCode::kCommAborted ? idle : met;
}

}  // namespace holdfast::train
