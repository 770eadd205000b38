// Hand-overs between neighbouring stages whose members have an accelerator each: NCCL, one communicator
// for every pair of stages and direction, on streams beside the device's own.
//
// NCCL buffers nothing, and one of its kernels that waits for the other side keeps multiprocessors from what
// computes, and every call of CUDA that waits for the device from returning. So both sides agree first, over
// the host: the receiver says that it has come to the hand-over, the sender, once its device has made
// the bytes, that they go; then both enqueue their part. A sender does its side on a thread of its own, in the
// order of its sends, which is that of the plan; what is to be sent is copied first. Receiving waits on the
// host for the sender's word, while the device goes on with what it has been given.
//
// Waits, aborts and errors are those of nccl_payload.h; what breaks one communicator of a process ends all.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "train/comm/hand_over.h"
#include "train/comm/nccl_payload.h"

namespace holdfast::train {

class NcclHandOver final : public PayloadHandOver {
 public:
  struct Impl;
  explicit NcclHandOver(std::unique_ptr<Impl> impl);
  ~NcclHandOver() override;  // as abandon()

  Status send(uint32_t to, const std::byte* from, size_t bytes) override;
  Result<const std::byte*> receive(uint32_t from, size_t bytes) override;
  Status flush() override;
  Status flush_older() override;
  // Leaves the others: what waits for them is given up, and ends soon after.
  void abandon();

 private:
  const std::unique_ptr<Impl> impl_;
};

struct HandOverConnection {
  std::unique_ptr<NcclHandOver> hand_over;  // nullptr on all members: NCCL cannot be used between them
  std::string path;                         // how payload travels and why, in words for the log
};

// Called by all members of `view` together, from the thread that drives the device; first: of every
// stage, of two at least, the member that is its lane 0. The hand-over may outlive `view`, and then only
// returns errors. aborts: as of connect_nccl. Errors of view's collectives; kCommSetup, kCommAborted (the
// device's abort word was set), kDeviceFailed.
Result<HandOverConnection> connect_stages(kernels::Cuda& cuda, Teardowns& aborts,
                                          ViewCommunicator& view,
                                          const std::vector<uint32_t>& first, NcclOptions options);

}  // namespace holdfast::train
