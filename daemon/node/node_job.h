// The job that this node works for, with what is derived from its configuration once.
#pragma once

#include <cstdint>
#include <string>

#include "conf/job_config.h"
#include "train/model/parameter_layout.h"
#include "train/worker/messages.h"

namespace holdfast::daemon {

struct NodeJob {
  NodeJob(const conf::JobConfig& job, Epoch submitted)
      : config(job),
        submitted_in(submitted),
        layout(job.model, job.slices()),
        key(train::job_key(job, submitted)),
        hash(train::job_hash(job, submitted)) {}

  conf::JobConfig config;
  Epoch submitted_in;
  train::ParameterLayout layout;
  std::string key;
  uint64_t hash;

  uint64_t shard_bytes(uint32_t flat) const {
    return layout.shard_bytes(ShardId::unflat(flat, layout.slices()));
  }
};

}  // namespace holdfast::daemon
