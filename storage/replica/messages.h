// What nodes say to each other about replicas: JSON bodies of requests between daemons. The bytes
// themselves go over the fabric. docs/replication.md tells the order and the fencing rule.
#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/json.h"

namespace holdfast::storage {

inline constexpr const char* kGrantTarget = "/replica/grant";
inline constexpr const char* kCommitTarget = "/replica/commit";
inline constexpr const char* kLocateTarget = "/replica/locate";
inline constexpr const char* kReleaseTarget = "/replica/release";

// From its grant on a writer ends the writes of an attempt within this, whatever holds them up: 16
// MiB a second, and a minute. A holder that lost sight of him waits twice as long.
constexpr int64_t write_limit_ms(uint64_t bytes) {
  return 60'000 + static_cast<int64_t>(bytes >> 24) * 1'000;
}

// Names one attempt of one writer to replicate one state to one holder. `session` numbers the lives
// of the writer's process and grows; `number` counts within it.
struct Ticket {
  NodeId writer;
  uint64_t session = 0;
  uint64_t number = 0;
  auto operator<=>(const Ticket&) const = default;
};
BOOST_DESCRIBE_STRUCT(Ticket, (), (writer, session, number))

struct ShardBytes {
  ShardId shard;
  uint64_t length = 0;
  uint64_t checksum = 0;  // taken at capture
};
BOOST_DESCRIBE_STRUCT(ShardBytes, (), (shard, length, checksum))

struct GrantRequest {
  Ticket ticket;
  Epoch epoch;
  uint64_t job = 0;
  StateVersion state;
  std::vector<ShardBytes> shards;
  std::vector<uint64_t> open;  // numbers of the writer's attempts that are still under way
};
BOOST_DESCRIBE_STRUCT(GrantRequest, (), (ticket, epoch, job, state, shards, open))

struct GrantedBlock {
  ShardId shard;
  uint32_t block = 0;
  uint64_t offset = 0;  // in the holder's region
};
BOOST_DESCRIBE_STRUCT(GrantedBlock, (), (shard, block, offset))

struct GrantReply {
  std::string fabric_address;
  std::vector<GrantedBlock> blocks;
  std::vector<ShardId> have;  // held already at that state with that checksum, verified just now
};
BOOST_DESCRIBE_STRUCT(GrantReply, (), (fabric_address, blocks, have))

// Every byte has been written: the writer will not write into the ticket's blocks any more.
struct CommitRequest {
  Ticket ticket;
};
BOOST_DESCRIBE_STRUCT(CommitRequest, (), (ticket))

struct CommitReply {
  std::vector<ShardId> bad;  // arrived with another checksum; everything else is published
};
BOOST_DESCRIBE_STRUCT(CommitReply, (), (bad))

// The writer gave the attempt up. `aborted`: a write was under way when its channel was closed.
struct ReleaseRequest {
  Ticket ticket;
  bool aborted = false;
};
BOOST_DESCRIBE_STRUCT(ReleaseRequest, (), (ticket, aborted))
struct ReleaseReply {
  bool known = false;
};
BOOST_DESCRIBE_STRUCT(ReleaseReply, (), (known))

struct LocateRequest {
  Epoch epoch;
  uint64_t job = 0;
  StateVersion state;
  std::vector<ShardId> shards;
};
BOOST_DESCRIBE_STRUCT(LocateRequest, (), (epoch, job, state, shards))

struct LocatedBlock {
  ShardId shard;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t checksum = 0;
};
BOOST_DESCRIBE_STRUCT(LocatedBlock, (), (shard, offset, length, checksum))

struct LocateReply {
  std::string fabric_address;
  std::vector<LocatedBlock> blocks;  // verified just now; what is not held is not named
};
BOOST_DESCRIBE_STRUCT(LocateReply, (), (fabric_address, blocks))

}  // namespace holdfast::storage
