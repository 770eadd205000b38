# The accelerator's side: nvcc, headers of CUTLASS and of cuDNN's front end, and the function that a
# folder with *_cuda.cu files uses. CUDA's libraries are loaded at run time; only the runtime is linked,
# statically.
option(HOLDFAST_CUDA "Build the kernels for NVIDIA accelerators (needs nvcc 13, headers of cuDNN and NCCL)"
       OFF)
set(HOLDFAST_CUTLASS_ROOT "" CACHE PATH "CUTLASS 4.2: a folder with include/; fetched when empty")
set(HOLDFAST_CUDNN_FRONTEND_ROOT "" CACHE PATH
    "cuDNN front end 1.32: a folder with include/; fetched when empty")
if(NOT HOLDFAST_CUDA)
  return()
endif()

if(HOLDFAST_SANITIZE)
  message(FATAL_ERROR "HOLDFAST_CUDA and HOLDFAST_SANITIZE do not go together")
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # 90 also as PTX, for what comes after
endif()
if(NOT CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
endif()
if(HOLDFAST_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${HOLDFAST_CCACHE}")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # which CMake 3.25 does not know of nvcc
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
  message(FATAL_ERROR "nvcc 13 is needed, ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
find_package(CUDAToolkit 13 REQUIRED)
find_path(HOLDFAST_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_path(HOLDFAST_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)

# train/kernels/backends.h: what is compiled for each backend is compiled for this one, too.
target_compile_definitions(holdfast_flags INTERFACE HOLDFAST_CUDA)

# Programs find the libraries of a bundle beside themselves.
add_link_options("LINKER:--disable-new-dtags")
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)

# holdfast_wheel(VARIABLE package version folder): headers that come as a Python package.
# VARIABLE names its root; when empty, it is downloaded into the build tree and set.
function(holdfast_wheel variable package version folder)
  if(${variable})
    return()
  endif()
  set(target "${CMAKE_BINARY_DIR}/external/${package}-${version}")
  if(NOT EXISTS "${target}/done")
    message(STATUS "Fetching ${package} ${version}")
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(wheels "${CMAKE_BINARY_DIR}/external/wheels-${package}")
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps
              --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64
              --platform manylinux_2_27_x86_64 --dest "${wheels}" "${package}==${version}"
      RESULT_VARIABLE failed)
    file(GLOB wheel "${wheels}/*.whl")
    if(failed OR NOT wheel)
      message(FATAL_ERROR "${package} ${version} could not be fetched; give its folder as "
                          "-D${variable}=... instead")
    endif()
    file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${target}"
         PATTERNS "${folder}/*" "*.dist-info/licenses/*")
    file(REMOVE_RECURSE "${wheels}")
    file(TOUCH "${target}/done")
  endif()
  cmake_path(GET folder PARENT_PATH parent)
  set(${variable} "${target}/${parent}" PARENT_SCOPE)
endfunction()

# holdfast_header_version(header major minor patch wanted): stops on another version than wanted.
function(holdfast_header_version header major minor patch wanted)
  if(NOT EXISTS "${header}")
    message(FATAL_ERROR "${header} was not found")
  endif()
  set(version "")
  foreach(macro ${major} ${minor} ${patch})
    file(STRINGS "${header}" line REGEX "^#define ${macro} +[0-9]+")
    string(REGEX MATCH "[0-9]+ *$" number "${line}")
    string(STRIP "${number}" number)
    list(APPEND version "${number}")
  endforeach()
  list(JOIN version "." version)
  if(NOT version VERSION_EQUAL wanted)
    message(FATAL_ERROR "${header} is of version ${version}, ${wanted} is needed")
  endif()
endfunction()

holdfast_wheel(HOLDFAST_CUTLASS_ROOT nvidia-cutlass 4.2.0.0 cutlass_library/source/include)
holdfast_header_version("${HOLDFAST_CUTLASS_ROOT}/include/cutlass/version.h"
                        CUTLASS_MAJOR CUTLASS_MINOR CUTLASS_PATCH 4.2.0)
holdfast_wheel(HOLDFAST_CUDNN_FRONTEND_ROOT nvidia-cudnn-frontend 1.32.0 include)
holdfast_header_version("${HOLDFAST_CUDNN_FRONTEND_ROOT}/include/cudnn_frontend_version.h"
                        CUDNN_FRONTEND_MAJOR_VERSION CUDNN_FRONTEND_MINOR_VERSION
                        CUDNN_FRONTEND_PATCH_VERSION 1.32.0)

add_library(ext_cuda INTERFACE)
target_include_directories(ext_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS}
                           "${HOLDFAST_CUDNN_INCLUDE}")
target_link_libraries(ext_cuda INTERFACE CUDA::cudart_static ${CMAKE_DL_LIBS})
add_library(ext_cutlass INTERFACE)
target_include_directories(ext_cutlass SYSTEM INTERFACE "${HOLDFAST_CUTLASS_ROOT}/include")
add_library(ext_cudnn_frontend INTERFACE)
target_include_directories(ext_cudnn_frontend SYSTEM INTERFACE
                           "${HOLDFAST_CUDNN_FRONTEND_ROOT}/include")
target_compile_definitions(ext_cudnn_frontend INTERFACE NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING)

# holdfast_bundled(program...): goes into the tarballs of HoldfastBundle.cmake.
function(holdfast_bundled)
  set_property(GLOBAL APPEND PROPERTY holdfast_bundled ${ARGN})
endfunction()

# holdfast_cuda_library(NAME [OBJECT] SOURCES a_cuda.cu [DEPS other libraries] [ARCHITECTURES 90a-real])
function(holdfast_cuda_library name)
  cmake_parse_arguments(ARG "OBJECT" "" "SOURCES;DEPS;ARCHITECTURES" ${ARGN})
  if(ARG_OBJECT)
    add_library(holdfast_${name} OBJECT ${ARG_SOURCES})
  else()
    add_library(holdfast_${name} STATIC ${ARG_SOURCES})
  endif()
  target_link_libraries(holdfast_${name} PUBLIC holdfast_flags ext_cuda ${ARG_DEPS})
  if(ARG_ARCHITECTURES)
    set_target_properties(holdfast_${name} PROPERTIES CUDA_ARCHITECTURES "${ARG_ARCHITECTURES}")
  endif()
endfunction()
