// Payload between lanes that have an accelerator each: NCCL, from device memory to device memory,
// in order with the device's stream. A communicator lasts for one view.
//
// A thread of its own guards the communicator, since the thread that works may stand still in any
// call of CUDA (freeing memory waits for the device, too). Once the device's abort word is set,
// NCCL reports an error, or the device has waited too long for other lanes, the guard aborts the
// communicator: the kernels that wait end, and so does every wait for the device. all_to_all and
// the device's finish() return why from then on: kCommAborted, kCommPeerLost or kCommTimeout; finish()
// not before nothing of the communicator runs on the device, nor can come there any more. What
// is queued behind an aborted exchange still runs, on undefined bytes; updates look at the abort
// word, in which the guard sets a bit (Cuda::kExchangeBroken) before it aborts for another reason
// than the word itself. The bit stays until the payload is destroyed. What else NCCL gives up in an abort
// takes it half a second; nobody waits for that but the next communicator of this device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/teardowns.h"
#include "train/comm/communicator.h"
#include "train/comm/payload.h"
#include "train/kernels/cuda.h"

namespace holdfast::train {

struct NcclOptions {
  int64_t setup_ms = 10'000;
  int64_t collective_ms = 30'000;  // the longest that the device waits for others in one exchange
  // Called every few milliseconds while this lane waits for others, from any thread.
  std::function<void()> on_wait = [] {};
};

class NcclPayload final : public PayloadExchange {
 public:
  struct Impl;
  explicit NcclPayload(std::unique_ptr<Impl> impl);
  ~NcclPayload() override;  // as abandon()

  // Waits on the host for the exchange before, never for its own.
  Status all_to_all(const std::byte* send, std::span<const size_t> send_bytes, std::byte* recv,
                    std::span<const size_t> recv_bytes) override;
  uint64_t sent_bytes() const override;
  // Leaves the others: what the device waits for in exchanges is given up, and ends soon after.
  void abandon();

 private:
  const std::unique_ptr<Impl> impl_;
};

struct NcclConnection {
  std::unique_ptr<NcclPayload> payload;  // nullptr on all lanes: NCCL cannot be used between them
  std::string path;                      // how payload travels and why, in words for the log
};

// Called by all ranks of `comm` together, from the thread that drives the device; the payload
// refers to neither `comm` nor to what came over it. aborts: of all communicators of this device, which it
// outlives, as it does the payload. Errors of comm's collectives; kCommSetup, kCommAborted (the device's
// abort word was set), kDeviceFailed (an earlier communicator was not given up within setup_ms).
Result<NcclConnection> connect_nccl(kernels::Cuda& cuda, Teardowns& aborts, Communicator& comm,
                                    NcclOptions options);

}  // namespace holdfast::train
