#include <fmt/format.h>

#include "base/json.h"
#include "conf/node_config.h"
#include "ctl/commands.h"
#include "ctl/printing.h"
#include "ctl/table.h"
#include "train/data/prepare.h"

namespace holdfast::ctl {

Status prepare_data(const Connection& connection, const PrepareOptions& options) {
  ASSIGN_OR_RETURN(const uint64_t max_bytes, conf::parse_bytes(options.max_size));
  train::PrepareOptions prepare;
  prepare.inputs = options.inputs;
  prepare.output = options.output;
  prepare.max_bytes = max_bytes;
  ASSIGN_OR_RETURN(const train::PrepareReport report, train::prepare_tokens(prepare));
  if (connection.json) return print_json(boost::json::value_from(report));
  fmt::print("{}: {} tokens from {} files ({} skipped as not text)\n", options.output.string(),
             report.tokens, report.files, report.skipped);
  return {};
}

}  // namespace holdfast::ctl
