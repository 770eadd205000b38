#include "daemon/peers/codec.h"
#include "daemon/peers/variant_codec.h"

namespace holdfast::daemon {
namespace {

// In the order of NodeEvent.
constexpr TypeNames<13> kEventNames = {"NodeUp",
                                       "WorkerChanged",
                                       "NodeQuiesced",
                                       "WorkerRestored",
                                       "WorkerRestoreFailed",
                                       "WorkerStepDone",
                                       "WorkerReplicated",
                                       "WorkerCaptureMissed",
                                       "WorkerStopped",
                                       "WorkerStopRefused",
                                       "WorkerCommBroken",
                                       "WorkerFatal",
                                       "WorkerRunning"};

}  // namespace

boost::json::value encode_event(const NodeEvent& event) {
  return encode_variant(event, kEventNames);
}
Result<NodeEvent> decode_event(const boost::json::value& json) {
  return decode_variant<NodeEvent>(json, kEventNames);
}

}  // namespace holdfast::daemon
