# `cmake --install`: headers, libraries, CMake package, pkg-config file. The tree may be moved.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/KuiperFlashAttention)
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

configure_package_config_file(cmake/KuiperFlashAttentionConfig.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
# A version with another major number has another ABI, and another soname.
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionConfigVersion.cmake
  COMPATIBILITY SameMajorVersion)

file(RELATIVE_PATH prefix_from_pc /prefix/${pkgconfig_dir} /prefix)
string(REGEX REPLACE "/$" "" prefix_from_pc ${prefix_from_pc})
list(TRANSFORM KFA_NATIVE_LIBS PREPEND "-l" OUTPUT_VARIABLE native_options)
list(JOIN native_options " " native_options)
configure_file(cmake/kuiper_flash_attention.pc.in
  ${PROJECT_BINARY_DIR}/cmake/kuiper_flash_attention.pc @ONLY)

install(DIRECTORY include/kuiper_flash_attention DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES
  ${KFA_LIBRARY_DIR}/${static_name}
  ${KFA_LIBRARY_DIR}/${shared_name}
  ${KFA_LIBRARY_DIR}/${shared_name}.${PROJECT_VERSION_MAJOR}
  ${KFA_LIBRARY_DIR}/${shared_name}.${PROJECT_VERSION}
  DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionConfig.cmake
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionConfigVersion.cmake
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionTargets.cmake
  cmake/KuiperFlashAttentionAdopt.cmake
  DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/cmake/kuiper_flash_attention.pc DESTINATION ${pkgconfig_dir})
