# Targets that pack programs into a tarball for machines with accelerators, under build/<preset>/bundle:
#   bundle          everything: daemon, worker, command line, benchmarks, tests of accelerators
#   bundle-kernels  the tests and benchmarks of kernels alone
# Included last: it takes the programs that holdfast_bundled() has named.
set(bundle_licences LICENSE=${CMAKE_SOURCE_DIR}/LICENSE)
foreach(pair HOLDFAST_CUTLASS_ROOT=CUTLASS HOLDFAST_CUDNN_FRONTEND_ROOT=cudnn-frontend)
  string(REPLACE "=" ";" pair "${pair}")
  list(GET pair 0 root)
  list(GET pair 1 label)
  # In a folder of the package's metadata in a wheel, beside include/ in a source tree.
  set(found "")
  foreach(up . .. ../..)
    file(GLOB more "${${root}}/${up}/*.dist-info/licenses/*")
    list(APPEND found ${more})
  endforeach()
  if(NOT found)
    file(GLOB found "${${root}}/LICENSE*" "${${root}}/NOTICE*")
  endif()
  if(NOT found)
    message(FATAL_ERROR "No licence of ${label} beside ${${root}}: a bundle must carry it")
  endif()
  foreach(file IN LISTS found)
    cmake_path(GET file FILENAME name)
    string(APPEND bundle_licences ",${label}-${name}=${file}")
  endforeach()
endforeach()

function(holdfast_bundle_target target name)
  set(files "")
  foreach(program IN LISTS ARGN)
    list(APPEND files "$<TARGET_FILE:${program}>")
  endforeach()
  add_custom_target(${target}
    COMMAND "${CMAKE_SOURCE_DIR}/cmake/bundle.sh" ${name} "${CMAKE_BINARY_DIR}/bundle"
            "${bundle_licences}" ${files}
    DEPENDS ${ARGN} VERBATIM)
endfunction()

get_property(kernel_programs GLOBAL PROPERTY holdfast_bundled)
holdfast_bundle_target(bundle-kernels holdfast-kernels ${kernel_programs})
set(all_programs ${kernel_programs})
foreach(program holdfastd holdfast-worker holdfastctl cluster_bench replication_bench)
  if(TARGET ${program})
    list(APPEND all_programs ${program})
  endif()
endforeach()
holdfast_bundle_target(bundle holdfast ${all_programs})
