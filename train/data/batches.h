// Batches: micro-batch j of step k is a pure function of (seed, k, j): any worker can produce it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "conf/job_config.h"

namespace holdfast::train {

// B sequences of T tokens and their targets (the next token), sequence-major: [B*T].
struct MicroBatch {
  uint32_t sequences = 0;
  uint32_t context = 0;
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
};

// What two nodes compare to know that they train on the same text.
struct DataFingerprint {
  uint64_t tokens = 0;
  uint64_t checksum = 0;  // checksum64 of the tokens as the file has them
  bool operator==(const DataFingerprint&) const = default;
};

// Random access to a tokenised text. Thread-safe, memory-mapped.
class TokenFile {
 public:
  // Our own .tokens (docs/formats.md), llm.c's and nanoGPT's .bin, Megatron's .bin with .idx beside
  // it, told apart by their content. kDataMissing, kDataEmpty, kDataFormat.
  static Result<std::unique_ptr<TokenFile>> open(const std::filesystem::path& path);
  virtual ~TokenFile() = default;

  virtual uint64_t size() const = 0;          // tokens
  virtual uint32_t vocabulary() const = 0;    // largest token + 1 where known, else 0
  virtual uint64_t checksum() const = 0;      // of all tokens, taken when it was opened
  virtual void read(uint64_t begin, uint64_t count, int32_t* out) const = 0;
};

class Batches {
 public:
  // kDataEmpty when either part has fewer than T + 1 tokens, kDataFormat when a token that was read
  // for a batch is not below the model's vocabulary.
  static Result<Batches> open(const conf::JobConfig& job);

  Result<MicroBatch> training(Step step, MicroBatchIndex micro_batch) const;
  // The same for every evaluation: `index` of job.evaluate_micro_batches.
  Result<MicroBatch> held_out(uint32_t index) const;
  DataFingerprint fingerprint() const { return {file_->size(), file_->checksum()}; }

 private:
  Batches(std::shared_ptr<TokenFile> file, conf::JobConfig job);
  std::shared_ptr<TokenFile> file_;
  conf::JobConfig job_;
};

}  // namespace holdfast::train
