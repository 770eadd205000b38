// A trainer for the backend that its job asks for.
#include <fmt/format.h>

#include <utility>

#include "train/data/batches.h"
#include "train/kernels/backends.h"
#include "train/step/lane_trainer.h"
#include "train/step/out_of_memory.h"

namespace holdfast::train {
namespace {

template <class B>
Result<std::unique_ptr<Trainer>> ready(std::unique_ptr<LaneTrainer<B>> trainer) {
  RETURN_IF_ERROR(trainer->reserve());
  return trainer;
}

#ifdef HOLDFAST_CUDA
Result<std::unique_ptr<kernels::Cuda>> open_device(const TrainerPlace& place) {
  ASSIGN_OR_RETURN(const uint32_t count, kernels::Cuda::count());
  ASSIGN_OR_RETURN(auto device, kernels::Cuda::open(place.device % count));
  RETURN_IF_ERROR(device->register_host(place.arena.data(), place.arena.size()));
  return device;
}
#endif

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const conf::JobConfig& job,
                                                 const TrainerPlace& place, AbortWord& abort,
                                                 ProgressFn progress) try {
  RETURN_IF_ERROR(conf::validate(job));
  ASSIGN_OR_RETURN(Batches opened, Batches::open(job));
  const auto batches = std::make_shared<Batches>(std::move(opened));
  BatchSource source{[batches](Step step, MicroBatchIndex j) { return batches->training(step, j); },
                     [batches](uint32_t index) { return batches->held_out(index); },
                     batches->fingerprint()};
  if (job.backend == "cpu")
    return ready(std::make_unique<LaneTrainer<CpuBackend<float>>>(
        std::make_unique<kernels::Cpu>(), job, std::move(source), abort, std::move(progress)));
#ifdef HOLDFAST_CUDA
  ASSIGN_OR_RETURN(auto device, open_device(place));
  return ready(std::make_unique<LaneTrainer<CudaBackend>>(std::move(device), job,
                                                          std::move(source), abort,
                                                          std::move(progress)));
#else
  (void)place;
  return fail(ErrorCode::kDeviceMissing,
              fmt::format("backend = \"{}\": this build computes on CPUs only; build with `cmake "
                          "--preset cuda`",
                          job.backend));
#endif
} catch (const std::bad_alloc& error) {
  return out_of_memory(error);
}

}  // namespace holdfast::train
