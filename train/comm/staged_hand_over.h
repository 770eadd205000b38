// Hand-overs between stages through host memory: down to pinned memory, over the view's communicator, and up
// again. For workers that share accelerators, and where NCCL is missing; each waits for the device.
#pragma once

#include "train/comm/hand_over.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

class StagedHandOver final : public PayloadHandOver {
 public:
  explicit StagedHandOver(kernels::Cuda& cuda) : cuda_(cuda) {}
  // What is handed over from now on goes through `view`.
  PayloadHandOver& over(HandOvers& view) {
    view_ = &view;
    return *this;
  }

  Status send(uint32_t to, const std::byte* from, size_t bytes) override {
    send_.resize(bytes);
    download(cuda_, from, bytes, send_.data());
    RETURN_IF_ERROR(cuda_.finish());
    return view_->send(to, {send_.data(), send_.data() + bytes});
  }
  Result<const std::byte*> receive(uint32_t from, size_t bytes) override {
    uploaded_.wait();
    recv_.resize(bytes);
    RETURN_IF_ERROR(view_->receive(from, recv_.span()));
    at_device_.resize(bytes);
    upload(cuda_, recv_.data(), bytes, at_device_.data());
    uploaded_.record(cuda_);
    RETURN_IF_ERROR(cuda_.check());
    return at_device_.data();
  }
  Status flush() override { return view_->flush(); }
  Status flush_older() override { return view_->flush_older(); }

 private:
  kernels::Cuda& cuda_;
  HandOvers* view_ = nullptr;
  PinnedBuffer<std::byte> send_, recv_;
  kernels::CudaMoment uploaded_;  // from recv_
  DeviceBuffer<std::byte> at_device_;
};

}  // namespace holdfast::train
