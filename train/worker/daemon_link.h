// The worker's end of the worker link: a thread of its own that stays connected to the daemon, says
// Hello on every new connection, passes on what arrives and sends what waits in the outbox. The
// daemon may be gone for any time; training goes on meanwhile. docs/wire.md has the rules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "train/worker/messages.h"

namespace holdfast::train {

struct DaemonLinkOptions {
  std::filesystem::path socket;
  int64_t first_backoff_ms = 50;  // doubles up to max_backoff_ms, starts anew with every Hello read
  int64_t max_backoff_ms = 1'000;
  int64_t daemon_gone_ms = 60'000;  // so long without connection, and not running: on_leave
  int64_t flush_ms = 1'000;
  bool leave_on_sigterm = false;
};

// Called on the link's thread.
struct DaemonLinkHandlers {
  std::function<Hello()> hello;
  std::function<void(const ToWorker&)> on_message;
  std::function<void(std::string why)> on_leave;
  std::function<void(const std::string& text)> on_note;  // for the log
};

class DaemonLink {
 public:
  DaemonLink(DaemonLinkOptions options, DaemonLinkHandlers handlers);
  ~DaemonLink();
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;

  void start();
  // No handler is called any more. Idempotent; not from a handler.
  void stop();
  // Any thread; messages leave in the order of the calls. Never waits.
  void send(FromWorker message);
  // Returns when all that was said has left for the kernel, or after flush_ms; at once where there is
  // no connection. Once, not from a handler.
  void flush();

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train
