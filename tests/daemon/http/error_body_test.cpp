#include "daemon/http/error_body.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

TEST(ErrorBody, EveryCodeComesBackWithItsMessage) {
  for (const ErrorRow& row : error_table()) {
    const Error error{row.code, "job \"tiny\": line\nbreak, \xC3\xA4"};
    const int status = http_status(row.code);
    EXPECT_GE(status, 400) << row.name;
    EXPECT_LT(status, 600) << row.name;
    const Error back = decode_error_body(status, encode_error_body(error), "test");
    EXPECT_EQ(back.code, error.code) << row.name;
    EXPECT_EQ(back.message, error.message) << row.name;
  }
}

TEST(ErrorBody, HasTheDocumentedForm) {
  EXPECT_EQ(encode_error_body({ErrorCode::kJobExists, "tiny exists"}),
            R"({"error":{"code":"HF-801","name":"job_exists","message":"tiny exists"}})");
  EXPECT_EQ(http_status(ErrorCode::kJobExists), 409);
  EXPECT_EQ(http_status(ErrorCode::kJobUnknown), 404);
  EXPECT_EQ(http_status(ErrorCode::kUsage), 400);
}

TEST(ErrorBody, AnythingElseIsABadMessageThatShowsIt) {
  for (const char* body :
       {"", "<html>", "{}", R"({"error":{"code":"HF-1","name":"x","message":"y"}})",
        R"({"error":{"code":"801","name":"x","message":"y"}})", R"({"error":"gone"})"}) {
    const Error error = decode_error_body(502, body, "GET /v1/status");
    EXPECT_EQ(error.code, ErrorCode::kBadMessage) << body;
    EXPECT_NE(error.message.find("GET /v1/status"), std::string::npos);
    EXPECT_NE(error.message.find("502"), std::string::npos);
  }
}

}  // namespace
}  // namespace holdfast::daemon
