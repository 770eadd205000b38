#include <cstdio>

#include "ctl/commands.h"
#include "ctl/printing.h"
#include "ctl/what_if/report.h"

namespace holdfast::ctl {

// More than a daemon gives the coordinator to answer.
constexpr int64_t kQuestionTimeoutMs = 30'000;

Status show_what_if(const Connection& connection, const WhatIfArguments& arguments) {
  ASSIGN_OR_RETURN(const boost::json::value body,
                   get(connection, "/v1/what-if?fail=" + arguments.fail, kQuestionTimeoutMs));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto answer, from_json<daemon::WhatIf>(body, "what-if"));
  std::fputs(what_if_table(answer).c_str(), stdout);
  return {};
}

}  // namespace holdfast::ctl
