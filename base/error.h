// The one table of errors. A code is stable: it is printed ("HF-301"), documented in docs/errors.md
// and never reused. The message of an Error says what failed and where; the table says what to do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace holdfast {

enum class ErrorCode : uint16_t {
  // 1xx: what people write
  kConfigSyntax = 101,
  kConfigUnknownKey = 102,
  kConfigValue = 103,
  kConfigMissing = 104,
  kModelShape = 105,
  kUsage = 106,
  // 2xx: data
  kDataMissing = 201,
  kDataEmpty = 202,
  kDataFormat = 203,
  kDataDiffers = 204,
  // 3xx: arena
  kArenaTooSmall = 301,
  kArenaFull = 302,
  kArenaCorrupt = 303,
  kArenaForeign = 304,
  kArenaVersion = 305,
  kBlockInvalid = 306,
  kBlockMissing = 307,
  // 4xx: catalog
  kCatalogCorrupt = 401,
  kCatalogForeign = 402,
  kCatalogVersion = 403,
  kCatalogIo = 404,
  kCatalogConflict = 405,
  // 5xx: fabric and replication
  kFabricUnavailable = 501,
  kFabricLost = 502,
  kFabricTimeout = 503,
  kFabricProtocol = 504,
  kReplicaRefused = 505,
  // 6xx: collectives
  kCommAborted = 601,
  kCommPeerLost = 602,
  kCommTimeout = 603,
  kCommSetup = 604,
  // 7xx: cluster
  kClusterForeign = 701,
  kClusterVersion = 702,
  kEpochOld = 703,
  kPeerUnreachable = 704,
  kNotCoordinator = 705,
  kBadMessage = 706,
  kRestoreImpossible = 707,
  // 80x: jobs
  kJobExists = 801,
  kJobUnknown = 802,
  kJobState = 803,
  // 804 was too_few_workers, never produced
  kGradientOverflow = 805,
  kLossNotFinite = 806,
  // 82x: plans
  kPlanImpossible = 820,
  kPlanText = 821,
  kSolverMissing = 822,
  kSolverLimit = 823,
  // 85x: accelerators
  kDeviceMissing = 850,
  kDeviceFailed = 851,
  kDeviceMemory = 852,
  // 9xx: the machine, and us
  kFileIo = 901,
  kDiskFull = 902,
  kAddressInUse = 903,
  kProcess = 904,
  kTimeout = 905,
  kQueueFull = 906,
  kNotFound = 907,
  kInterrupted = 908,
  kInternal = 999,
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  // "HF-301 arena_too_small: <message>; <what to do>"
  std::string to_string() const;
};

struct ErrorRow {
  ErrorCode code;
  std::string_view name;  // stable, snake_case; used in JSON
  std::string_view hint;  // what to do, one sentence without a full stop
  int exit_code;          // of holdfastctl, see docs/errors.md
};

// All rows, ordered by code.
std::span<const ErrorRow> error_table();
const ErrorRow& error_row(ErrorCode code);
// Appends where it happened: `while reading node.toml`.
Error with_context(Error error, std::string_view context);

}  // namespace holdfast
