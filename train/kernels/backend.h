// What a backend is to the code above the kernels: a device, the types that it computes in, and where
// their memory lies. The model, the optimizer and the step are templates over it and call the operations
// of ops.h by their plain names, so that the device, their first argument, says whose are meant.
#pragma once

#include "train/kernels/experts.h"
#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"
#include "train/tensor/buffer.h"

namespace holdfast::train {

// float in training on the CPU; double for finite-difference checks.
template <class T>
struct CpuBackend {
  using Device = kernels::Cpu;
  using Value = T;     // weights and activations
  using Stat = T;      // norms, probabilities, gates, losses of rows
  using Gradient = T;  // of weights
  template <class E>
  using Room = Buffer<E>;  // where the device computes
  template <class E>
  using HostRoom = Buffer<E>;  // where the host reads, and the device copies to by itself
  using Rotary = kernels::RotaryTable<T>;
  using Reader = kernels::CpuReader;
  using Moment = kernels::CpuMoment;
  using ExpertRows = kernels::ExpertRowsCpu;
  using ExpertGradients = kernels::ExpertGradients<T>&;
  // The host may read and write Room as soon as an operation has returned.
  static constexpr bool kHostMemory = true;
};

}  // namespace holdfast::train
