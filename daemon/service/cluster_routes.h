// What the control API answers for the whole cluster; served where the coordinator runs, asked for
// by every daemon. docs/control-api.md describes paths and bodies.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "daemon/http/messages.h"
#include "daemon/service/coordinator_host.h"

namespace holdfast::daemon {

// The JSON body or the error; called once.
using ControlAnswer = std::function<void(Result<std::string>)>;

class ClusterRoutes {
 public:
  explicit ClusterRoutes(CoordinatorHost& host) : host_(host) {}

  // kUsage for paths, methods and numbers that are none.
  void handle(const HttpRequest& request, ControlAnswer answer);

 private:
  Result<std::string> read(const HttpRequest& request) const;
  Result<std::string> read_job(const JobId& job, const std::string& part,
                               const HttpRequest& request) const;
  void submit(const HttpRequest& request, ControlAnswer answer);
  void what_if(const HttpRequest& request, ControlAnswer answer);
  std::string status() const;
  std::string nodes() const;
  api::JobSummary summary(const JobRecord& job) const;

  CoordinatorHost& host_;
};

// The number in the query, `otherwise` when it is absent; kUsage when it is none.
Result<uint64_t> query_number(const HttpRequest& request, std::string_view name,
                              uint64_t otherwise);
// "node-1,node-2" -> names, in order; kUsage when one is empty or not a node's name.
Result<std::vector<NodeId>> node_names(std::string_view text);
tl::unexpected<Error> unknown_path(const HttpRequest& request);

}  // namespace holdfast::daemon
