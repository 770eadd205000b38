#include "train/data/batches.h"

#include <fmt/format.h>

#include <algorithm>

namespace holdfast::train {
namespace {

// Counter-based: no state, so any worker makes any batch (splitmix64's finaliser over the inputs).
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

__extension__ using Product = unsigned __int128;

uint64_t draw(uint64_t seed, uint64_t step, uint64_t micro_batch, uint64_t sequence,
              uint64_t below) {
  const uint64_t bits = mix(mix(mix(mix(seed) ^ step) ^ micro_batch) ^ sequence);
  return static_cast<uint64_t>((static_cast<Product>(bits) * below) >> 64);
}

struct Part {
  uint64_t begin = 0;
  uint64_t tokens = 0;
};

Part training_part(const TokenFile& file, const conf::JobConfig& job) {
  const auto held_out =
      static_cast<uint64_t>(static_cast<double>(file.size()) * job.data.held_out_fraction);
  return {0, file.size() - std::min(held_out, file.size())};
}

Part held_out_part(const TokenFile& file, const conf::JobConfig& job) {
  const Part training = training_part(file, job);
  return {training.tokens, file.size() - training.tokens};
}

// `starts(sequence)`: where each sequence begins. Reads T + 1 tokens: inputs and the next of each.
template <class Starts>
Result<MicroBatch> make_batch(const TokenFile& file, const conf::JobConfig& job, Starts starts) {
  const uint32_t context = job.model.context;
  MicroBatch batch{job.micro_batch_sequences, context, {}, {}};
  batch.tokens.resize(size_t{batch.sequences} * context);
  batch.targets.resize(batch.tokens.size());
  std::vector<int32_t> text(context + 1);
  for (uint32_t s = 0; s < batch.sequences; ++s) {
    const uint64_t start = starts(s);
    file.read(start, context + 1, text.data());
    for (uint32_t t = 0; t <= context; ++t)
      if (text[t] < 0 || static_cast<uint32_t>(text[t]) >= job.model.vocabulary)
        return fail(ErrorCode::kDataFormat,
                    fmt::format("{}: token {} is {}, the model's vocabulary has {}", job.data.path,
                                start + t, text[t], job.model.vocabulary));
    std::copy(text.begin(), text.end() - 1, batch.tokens.begin() + s * context);
    std::copy(text.begin() + 1, text.end(), batch.targets.begin() + s * context);
  }
  return batch;
}

}  // namespace

Batches::Batches(std::shared_ptr<TokenFile> file, conf::JobConfig job)
    : file_(std::move(file)), job_(std::move(job)) {}

Result<Batches> Batches::open(const conf::JobConfig& job) {
  ASSIGN_OR_RETURN(std::shared_ptr<TokenFile> file, TokenFile::open(job.data.path));
  const uint64_t least = job.model.context + 1;
  const uint64_t training = training_part(*file, job).tokens;
  const uint64_t held_out = held_out_part(*file, job).tokens;
  if (training < least || held_out < least)
    return fail(ErrorCode::kDataEmpty,
                fmt::format("{}: {} tokens, of which {} are for training and {} held out; each part "
                            "needs model.context + 1 = {}",
                            job.data.path, file->size(), training, held_out, least));
  if (file->vocabulary() > job.model.vocabulary)
    return fail(ErrorCode::kDataFormat,
                fmt::format("{}: has tokens up to {}, the model's vocabulary has {}", job.data.path,
                            file->vocabulary() - 1, job.model.vocabulary));
  return Batches(std::move(file), job);
}

Result<MicroBatch> Batches::training(Step step, MicroBatchIndex micro_batch) const {
  const Part part = training_part(*file_, job_);
  return make_batch(*file_, job_, [&](uint32_t s) {
    return part.begin + draw(job_.data.seed, step.value, micro_batch.value, s,
                             part.tokens - job_.model.context);
  });
}

Result<MicroBatch> Batches::held_out(uint32_t index) const {
  // Evenly spaced over the part, so that a small evaluation sees all of it.
  const Part part = held_out_part(*file_, job_);
  const uint64_t sequences = uint64_t{job_.evaluate_micro_batches} * job_.micro_batch_sequences;
  const uint64_t room = part.tokens - job_.model.context - 1;
  return make_batch(*file_, job_, [&](uint32_t s) {
    const uint64_t at = uint64_t{index} * job_.micro_batch_sequences + s;
    return part.begin + (sequences > 1 ? room * at / (sequences - 1) : 0);
  });
}

}  // namespace holdfast::train
