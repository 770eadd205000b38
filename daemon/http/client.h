// One persistent HTTP/1.1 connection to one TCP peer, on the daemon's event loop. Requests go out
// in the order they came, one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/http/messages.h"

namespace boost::asio {
class io_context;
}

namespace holdfast::daemon {

struct HttpClientOptions {
  size_t max_queued = 1'024;  // requests; one more fails with kQueueFull
  uint64_t max_body_bytes = kMaxHttpBodyBytes;
};

class HttpClient {
 public:
  // kTimeout: not answered in time; one that was already sent takes its connection down with it.
  // kPeerUnreachable: the connection could not be made, or broke: the request may or may not have
  // been carried out, and so says every request that was queued behind it. Any status is a success
  // here.
  using Callback = std::function<void(Result<HttpResponse>)>;

  // Connects at the first request, and again at the next one after the connection was lost.
  HttpClient(boost::asio::io_context& io, std::string address, HttpClientOptions options = {});
  // Forgets what is queued; nothing is called back any more.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // The callback is never called from within; it may destroy the client.
  void request(HttpCall call, Callback callback);
  // Told when an established connection is lost, idle or not, after the requests it failed.
  void on_closed(std::function<void(Error)> callback);

  bool connected() const;
  size_t queued() const;  // the one being answered included
  // Closes the connection; requests fail with kPeerUnreachable and `why`. on_closed is not told.
  void close(const std::string& why);

 private:
  class Connection;
  std::shared_ptr<Connection> connection_;
};

}  // namespace holdfast::daemon
