#include "train/step/step_cause.h"

#include <gtest/gtest.h>

namespace holdfast::train {
namespace {

struct Case {
  ErrorCode met, idle, told;
};

TEST(StepCause, IsWhatBrokeNotWhatFollowed) {
  using enum ErrorCode;
  const Case table[] = {
      // A device that broke matters most.
      {kCommAborted, kDeviceFailed, kDeviceFailed},
      {kLossNotFinite, kDeviceFailed, kDeviceFailed},
      {kDataMissing, kDeviceFailed, kDeviceFailed},
      // Undefined bytes of an exchange that was broken off are no reason to give the job up.
      {kLossNotFinite, kCommPeerLost, kCommPeerLost},
      {kLossNotFinite, kCommAborted, kCommAborted},
      {kGradientOverflow, kCommTimeout, kCommTimeout},
      // One exchange broke, and another was given up or waited in vain for it.
      {kCommAborted, kCommPeerLost, kCommPeerLost},
      {kCommTimeout, kCommPeerLost, kCommPeerLost},
      {kCommTimeout, kCommAborted, kCommTimeout},
      {kCommAborted, kCommAborted, kCommAborted},
      {kCommPeerLost, kCommTimeout, kCommPeerLost},
      {kDataMissing, kCommPeerLost, kDataMissing},
  };
  for (const Case& c : table)
    EXPECT_EQ(cause_of({c.met, "met"}, {c.idle, "idle"}).code, c.told)
        << error_row(c.met).name << " met, " << error_row(c.idle).name << " when idle";
}

}  // namespace
}  // namespace holdfast::train
