# How our own code is compiled, and the two functions every folder's CMakeLists.txt uses.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

option(HOLDFAST_TESTS "Build the tests" ON)
option(HOLDFAST_BENCH "Build the benchmarks" ON)
set(HOLDFAST_SANITIZE "" CACHE STRING "Sanitizers to compile with: address,undefined or thread")

find_program(HOLDFAST_CCACHE ccache)
if(HOLDFAST_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${HOLDFAST_CCACHE}")
endif()
find_program(HOLDFAST_LLD ld.lld)
if(HOLDFAST_LLD)
  add_link_options(-fuse-ld=lld)
endif()

add_library(holdfast_flags INTERFACE)
target_include_directories(holdfast_flags INTERFACE "${CMAKE_SOURCE_DIR}")
set(holdfast_cxx_flags -Wall -Wextra -Wpedantic -Werror -fno-omit-frame-pointer)
# g++ at -O2 and with sanitizers takes Boost.JSON's result<T> for uninitialized; ASan and UBSan look
# for the real thing.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND holdfast_cxx_flags -Wno-maybe-uninitialized)
endif()
# One arithmetic everywhere: results must not depend on whether the compiler fused a product and a sum.
# Device code does fuse: it has one compiler.
list(APPEND holdfast_cxx_flags -ffp-contract=off)
target_compile_options(holdfast_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${holdfast_cxx_flags}>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-fno-omit-frame-pointer,-ffp-contract=off>")
if(HOLDFAST_SANITIZE)
  add_compile_options(-fsanitize=${HOLDFAST_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HOLDFAST_SANITIZE})
  if(HOLDFAST_SANITIZE MATCHES thread AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-tsan)
  endif()
endif()

# holdfast_library(NAME SOURCES a.cpp b.cpp [DEPS other libraries])
# Creates holdfast_NAME. DEPS are public: what a header includes, its users get too.
function(holdfast_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(holdfast_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(holdfast_${name} PUBLIC holdfast_flags ${ARG_DEPS})
endfunction()

# holdfast_program(NAME SOURCES a.cpp [DEPS ...]): an executable called NAME in build/<preset>/bin.
function(holdfast_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE holdfast_flags ${ARG_DEPS})
endfunction()

# holdfast_test(NAME SOURCES a_test.cpp [DEPS ...] [LABELS unit] [TIMEOUT 60])
# One GoogleTest program, one CTest entry (a whole program a test keeps the suite fast). With the label
# `cuda` it is one for accelerators: "Skipped", not "Passed", where there are none (tests/cuda_main.cpp).
function(holdfast_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(HOLDFAST_SANITIZE)  # programs take ten times as long
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 3")
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set(main GTest::gtest_main)
  if("cuda" IN_LIST ARG_LABELS)
    set(main holdfast_cuda_test_main)
  endif()
  target_link_libraries(${name} PRIVATE holdfast_flags ${ARG_DEPS} GTest::gtest GTest::gmock ${main})
  add_test(NAME ${name} COMMAND ${name})
  set(environment OPENBLAS_NUM_THREADS=1 IPATH_NO_BACKTRACE=1)
  if(HOLDFAST_SANITIZE MATCHES thread)
    list(APPEND environment "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp")
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                       ENVIRONMENT "${environment}")
  if("cuda" IN_LIST ARG_LABELS)
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
  endif()
endfunction()
