// Reads the master weights of one state out of the nodes' arenas, through the control socket of one
// of them. Every byte was verified by the node that holds it, and its range again here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/control/api.h"
#include "daemon/control/client.h"
#include "train/model/parameter_layout.h"

namespace holdfast::ctl {

class StateReader {
 public:
  // `key`: the job's, from GET /v1/jobs/{name}. The layout outlives the reader.
  StateReader(daemon::ControlClient client, std::string key, const StateVersion& state,
              const train::ParameterLayout& layout);
  ~StateReader();  // nodes need not keep the state any longer
  StateReader(const StateReader&) = delete;
  StateReader& operator=(const StateReader&) = delete;

  // Asks every node that is up what it holds, and to keep it. kBlockMissing when no node holds a
  // shard.
  Status locate();
  // Every group's flat vector, one after another, in pieces of at most kMaxShardRangeBytes. The
  // errors of `take`; kBlockMissing, kBlockInvalid and those of the nodes when a shard cannot be had
  // from any of its holders.
  Status read(const std::function<Status(std::span<const float>)>& take);

 private:
  std::string target(const std::string& part, const NodeId& node) const;
  Status read_shard(ShardId shard, const std::function<Status(std::span<const float>)>& take);
  Result<std::vector<float>> read_range(ShardId shard, const NodeId& node, uint64_t offset,
                                        uint64_t length) const;

  const daemon::ControlClient client_;
  const std::string key_;
  const StateVersion state_;
  const train::ParameterLayout& layout_;
  std::vector<NodeId> asked_;
  std::map<ShardId, std::vector<NodeId>> holders_;  // who is asked first comes first
  std::set<NodeId> silent_;  // did not answer once: asked only for what nobody else holds
};

}  // namespace holdfast::ctl
