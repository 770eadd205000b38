// Choosing a libfabric provider and opening what all endpoints share: the domain, the registered
// region, the event queue and the listening endpoint. Nothing here blocks for long or has a thread.
#pragma once

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_rma.h>

#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "storage/fabric/fabric.h"

namespace holdfast::storage {

struct FidCloser {
  template <class T>
  void operator()(T* object) const {
    fi_close(&object->fid);
  }
};
template <class T>
using Fid = std::unique_ptr<T, FidCloser>;

struct InfoFree {
  void operator()(fi_info* info) const { fi_freeinfo(info); }
};
using Info = std::unique_ptr<fi_info, InfoFree>;

// Members are closed in reverse order, as libfabric wants it.
struct Provider {
  Info info;
  Fid<fid_fabric> fabric;
  Fid<fid_eq> events;  // with a descriptor to wait on
  Fid<fid_domain> domain;
  Fid<fid_mr> region;
  Fid<fid_pep> listener;
  std::string name;
  std::string host;  // where it listens, as a number: peers need not look it up
  uint16_t port = 0;
  uint64_t remote_base = 0;  // what peers call offset 0 of the region
};

// kFabricUnavailable with the providers that were found, kAddressInUse.
Result<Provider> open_provider(const FabricOptions& options, std::span<std::byte> region);

// `info` of an endpoint that will connect there. `host` is a number: no name is looked up, which
// could take longer than any limit. kFabricLost when it is none.
Result<Info> info_towards(const fi_info& own, const std::string& host, uint16_t port);

// The descriptor that an object opened with FI_WAIT_FD is waited for with; not inherited by exec.
Result<int> wait_descriptor(fid& object, const char* what);

Error fabric_error(ErrorCode code, const char* what, int64_t status);

}  // namespace holdfast::storage
