// holdfast-worker: one training process of a node. Started, watched and ended by its daemon.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "base/log.h"
#include "train/comm/gloo_communicator.h"
#include "train/worker/progress_page.h"
#include "train/worker/worker_core.h"

namespace {

int run_worker(const std::filesystem::path& state_dir, uint32_t slot) {
  using namespace holdfast;
  auto page = train::ProgressPage::open(state_dir / fmt::format("worker-{}.progress", slot));
  if (!page) {
    log::error("{}", page.error().to_string());
    return 1;
  }
  if (auto claimed = (*page)->claim(); !claimed) {
    log::error("{}", claimed.error().to_string());
    return 1;
  }
  train::WorkerOptions options;
  options.slot = slot;
  options.link.socket = state_dir / "worker.sock";
  options.link.leave_on_sigterm = true;
  train::WorkerCore core(options, {train::Trainer::create, train::make_gloo_factory},
                         (*page)->record(), [](const std::string& text) { log::info("{}", text); });
  log::info("started");
  log::info("leaves: {}", core.run());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("One training process of a Holdfast node; holdfastd starts it");
  std::string state_dir;
  uint32_t slot = 0;
  app.add_option("--state-dir", state_dir, "Where the daemon's worker.sock is")->required();
  app.add_option("--slot", slot, "Which worker of the node this is")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  holdfast::log_to_stderr(fmt::format("worker-{}", slot), "info");
  return run_worker(state_dir, slot);
}
