// holdfastd: the daemon of one node.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "conf/node_config.h"
#include "daemon/service/node.h"

int main(int argc, char** argv) {
  CLI::App app("Holdfast node daemon: hosts training processes and keeps their snapshots");
  std::string file = "/etc/holdfast/node.toml";
  app.add_option("--config", file, "The node's configuration")->capture_default_str();
  app.set_version_flag("--version", HOLDFAST_RELEASE);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  // A library below the fabric prints stack traces into the log of whoever is signalled.
  setenv("IPATH_NO_BACKTRACE", "1", 1);
  holdfast::log_to_stderr("holdfastd", "info");
  auto config = holdfast::conf::load_node(file);
  if (!config) {
    holdfast::log::error("{}", config.error().to_string());
    return holdfast::error_row(config.error().code).exit_code;
  }
  holdfast::log_to_stderr("holdfastd", config->log_level);
  holdfast::SystemClock clock;
  auto node = holdfast::daemon::Node::create(*config, clock);
  holdfast::Status ended;
  if (node) {
    ended = (*node)->run();
  } else {
    ended = tl::unexpected(node.error());
  }
  if (ended) return 0;
  holdfast::log::error("{}", ended.error().to_string());
  return holdfast::error_row(ended.error().code).exit_code;
}
