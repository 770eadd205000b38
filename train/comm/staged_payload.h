// Payload between lanes through host memory: device to pinned memory, over any Communicator, and up again.
// What several workers on one accelerator use, for trying recovery on few devices; and a lane that is
// alone, for which it is a copy on the device.
#pragma once

#include "train/comm/payload.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

class StagedPayload : public PayloadExchange {
 public:
  explicit StagedPayload(kernels::Cuda& cuda) : cuda_(cuda) {}
  // What is exchanged from now on goes through `comm`.
  PayloadExchange& over(Communicator& comm) {
    comm_ = &comm;
    return *this;
  }

  Status all_to_all(const std::byte* send, std::span<const size_t> send_bytes, std::byte* recv,
                    std::span<const size_t> recv_bytes) override {
    const size_t sent = total(send_bytes), received = total(recv_bytes);
    if (comm_->size() == 1) {
      copy(cuda_, send, sent, recv);
      return cuda_.check();
    }
    send_.resize(sent);  // nothing is under way from there: the last exchange waited for it
    download(cuda_, send, sent, send_.data());
    RETURN_IF_ERROR(cuda_.finish());  // and what was uploaded from recv_ before, which may go now
    recv_.resize(received);
    RETURN_IF_ERROR(comm_->all_to_all(send_.span(), send_bytes, recv_.span(), recv_bytes));
    upload(cuda_, recv_.data(), received, recv);
    return cuda_.check();
  }

 private:
  kernels::Cuda& cuda_;
  Communicator* comm_ = nullptr;
  PinnedBuffer<std::byte> send_, recv_;
};

}  // namespace holdfast::train
