# What `cmake --install` puts where: programs, the service with its account and folders, and a node.toml
# to begin with. The unit names /usr/bin, hence the prefix /usr of the presets.
include(GNUInstallDirs)

foreach(program holdfastd holdfast-worker holdfastctl)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT holdfast)
  endif()
endforeach()
install(FILES systemd/holdfastd.service DESTINATION lib/systemd/system COMPONENT holdfast)
install(FILES systemd/holdfast.sysusers.conf DESTINATION lib/sysusers.d RENAME holdfast.conf
        COMPONENT holdfast)
install(FILES systemd/holdfast.tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME holdfast.conf
        COMPONENT holdfast)
install(FILES README.md conf/node.toml DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT holdfast)
install(DIRECTORY docs conf/jobs DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT holdfast)
# A node.toml that a person has written is never overwritten.
install(CODE "
  if(NOT EXISTS \"\$ENV{DESTDIR}${CMAKE_INSTALL_FULL_SYSCONFDIR}/holdfast/node.toml\")
    file(INSTALL \"${CMAKE_SOURCE_DIR}/conf/node.toml\"
         DESTINATION \"${CMAKE_INSTALL_FULL_SYSCONFDIR}/holdfast\")
  endif()" COMPONENT holdfast)
