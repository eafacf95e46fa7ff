# Builds the crate; defines the targets KuiperFlashAttention::shared and ::static, and the functions
# for engines of the KuiperLLama family.

find_program(CARGO_EXECUTABLE cargo HINTS $ENV{CARGO_HOME}/bin $ENV{HOME}/.cargo/bin)
file(STRINGS ${PROJECT_SOURCE_DIR}/Cargo.toml needed REGEX "^rust-version = " LIMIT_COUNT 1)
string(REGEX MATCH "[0-9.]+" needed "${needed}")
set(advice "Install Rust ${needed} or later from https://rustup.rs")
if(is_top_level)
  string(APPEND advice ", or configure with -DUSE_FLASH_ATTENTION=OFF to build the engine without it")
endif()
if(NOT CARGO_EXECUTABLE)
  message(FATAL_ERROR "cargo was not found. ${advice}.")
endif()
execute_process(COMMAND ${CARGO_EXECUTABLE} --version OUTPUT_VARIABLE output)
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" KFA_CARGO_VERSION "${output}")
if(NOT KFA_CARGO_VERSION VERSION_GREATER_EQUAL needed)
  message(FATAL_ERROR "${CARGO_EXECUTABLE} is version ${KFA_CARGO_VERSION}, too old. ${advice}.")
endif()

set(KFA_INCLUDE_DIR ${PROJECT_SOURCE_DIR}/include)
set(KFA_LIBRARY_DIR ${PROJECT_BINARY_DIR}/lib)
set(KFA_CARGO_DIR ${PROJECT_BINARY_DIR}/cargo CACHE PATH
  "Where cargo builds; several build folders may share one")
set(cargo_dir ${KFA_CARGO_DIR})
set(shared_name libkuiper_flash_attention.so)
set(static_name libkuiper_flash_attention.a)
file(MAKE_DIRECTORY ${KFA_LIBRARY_DIR})
set(cargo_build ${CARGO_EXECUTABLE} build --release --lib --locked --target-dir ${cargo_dir})
if(USE_CUDA)
  list(PREPEND cargo_build ${CMAKE_COMMAND} -E env NVCC=${NVCC_EXECUTABLE})
else()
  list(APPEND cargo_build --no-default-features)
endif()

# Runs in every build, because only cargo knows what is out of date; what depends on the libraries
# is linked again only where they changed.
add_custom_target(kfa_cargo ALL
  COMMAND ${cargo_build}
  COMMAND ${CMAKE_COMMAND} -E copy_if_different ${cargo_dir}/release/${shared_name}
    ${KFA_LIBRARY_DIR}/${shared_name}.${PROJECT_VERSION}
  COMMAND ${CMAKE_COMMAND} -E create_symlink ${shared_name}.${PROJECT_VERSION}
    ${KFA_LIBRARY_DIR}/${shared_name}.${PROJECT_VERSION_MAJOR}
  COMMAND ${CMAKE_COMMAND} -E create_symlink ${shared_name}.${PROJECT_VERSION_MAJOR}
    ${KFA_LIBRARY_DIR}/${shared_name}
  COMMAND ${CMAKE_COMMAND} -E copy_if_different ${cargo_dir}/release/${static_name}
    ${KFA_LIBRARY_DIR}/${static_name}
  BYPRODUCTS ${KFA_LIBRARY_DIR}/${shared_name}.${PROJECT_VERSION}
    ${KFA_LIBRARY_DIR}/${static_name}
  WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
  COMMENT "Building ${shared_name} with cargo"
  VERBATIM)

# What Rust's standard library needs beside the static library:
# `cargo rustc --release -- --print native-static-libs`.
set(KFA_NATIVE_LIBS gcc_s util rt pthread m dl c)

# The same file defines the targets for those who find the installed package.
configure_file(${PROJECT_SOURCE_DIR}/cmake/KuiperFlashAttentionTargets.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionTargets.cmake @ONLY)
include(${PROJECT_BINARY_DIR}/cmake/KuiperFlashAttentionTargets.cmake)
add_dependencies(KuiperFlashAttention::shared kfa_cargo)
add_dependencies(KuiperFlashAttention::static kfa_cargo)
include(cmake/KuiperFlashAttentionAdopt.cmake)
