# Libraries from the distribution. Each is named once here; folders link the target.
include(CheckCXXSourceCompiles)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(OpenSSL REQUIRED)
if(HOLDFAST_TESTS)
  find_package(GTest REQUIRED)
endif()

# holdfast_external(TARGET HEADER header LIBS names...): a library without a CMake package.
function(holdfast_external target)
  cmake_parse_arguments(ARG "" "HEADER" "LIBS" ${ARGN})
  find_path(${target}_include ${ARG_HEADER})
  if(NOT ${target}_include)
    message(FATAL_ERROR "${ARG_HEADER} was not found: run ./test.sh or ./quickstart.sh once, they "
                        "install the packages that Holdfast needs")
  endif()
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_include})
  foreach(lib IN LISTS ARG_LIBS)
    find_library(${target}_${lib} ${lib})
    if(NOT ${target}_${lib})
      message(FATAL_ERROR "lib${lib} was not found: run ./test.sh or ./quickstart.sh once, they "
                          "install the packages that Holdfast needs")
    endif()
    target_link_libraries(${target} INTERFACE ${${target}_${lib}})
  endforeach()
endfunction()

holdfast_external(ext_expected HEADER tl/expected.hpp)
holdfast_external(ext_xxhash HEADER xxhash.h LIBS xxhash)
# Not every build of it can choose the widest vector unit of the processor at run time.
set(CMAKE_REQUIRED_LIBRARIES ${ext_xxhash_xxhash})
check_cxx_source_compiles("#include <xxh_x86dispatch.h>
int main() { return static_cast<int>(XXH3_64bits_dispatch(\"\", 0)); }" HOLDFAST_XXHASH_DISPATCH)
unset(CMAKE_REQUIRED_LIBRARIES)
if(HOLDFAST_XXHASH_DISPATCH)
  target_compile_definitions(ext_xxhash INTERFACE HOLDFAST_XXHASH_DISPATCH)
endif()
holdfast_external(ext_toml HEADER toml++/toml.h)
holdfast_external(ext_cli11 HEADER CLI/CLI.hpp)
holdfast_external(ext_gloo HEADER gloo/context.h LIBS gloo)
holdfast_external(ext_fabric HEADER rdma/fabric.h LIBS fabric)
holdfast_external(ext_rocksdb HEADER rocksdb/db.h LIBS rocksdb)
holdfast_external(ext_openblas HEADER cblas.h LIBS openblas)

# Optional, for `holdfastctl plan --solver exact`. Bundles go without it: they would have to carry it.
option(HOLDFAST_CBC "Link the exact planner with COIN-OR CBC where it is installed" ON)
if(HOLDFAST_CBC AND NOT HOLDFAST_CUDA)
  find_path(HOLDFAST_CBC_INCLUDE coin/Cbc_C_Interface.h)
  find_library(HOLDFAST_CBC_LIBRARY CbcSolver)
  if(HOLDFAST_CBC_INCLUDE AND HOLDFAST_CBC_LIBRARY)
    add_library(ext_cbc INTERFACE)
    # The interface includes its neighbours by their bare names.
    target_include_directories(ext_cbc SYSTEM INTERFACE "${HOLDFAST_CBC_INCLUDE}"
                               "${HOLDFAST_CBC_INCLUDE}/coin")
    target_link_libraries(ext_cbc INTERFACE "${HOLDFAST_CBC_LIBRARY}")
  endif()
endif()
