# What the C++ engine and its tests need: Eigen3::Eigen, kfa_sentencepiece and GTest::gtest_main.
# The system's packages first; then, with USE_CPM, pinned archives.

# Unpacks an archive below the build folder and returns the folder it holds; or stops with advice.
# An archive that is there already is used, so that a machine without a network can be served.
function(kfa_fetch name debian_packages url sha256 source_dir)
  set(advice "Run `make setup` or, on Debian, `apt-get install ${debian_packages}`")
  if(NOT USE_CPM)
    message(FATAL_ERROR "${name} was not found. ${advice}, or configure with "
      "-DUSE_CPM=ON to let CMake fetch it.")
  endif()
  set(dir ${PROJECT_BINARY_DIR}/third-party/${name})
  set(archive ${dir}.tar.gz)
  if(NOT EXISTS ${archive})
    message(STATUS "${name} was not found; fetching ${url}")
    file(DOWNLOAD ${url} ${archive} STATUS status INACTIVITY_TIMEOUT 30)
    list(GET status 0 code)
    if(NOT code EQUAL 0)
      file(REMOVE ${archive})
      list(GET status 1 reason)
      message(FATAL_ERROR "${name} was not found, and USE_CPM=ON could not fetch ${url}: "
        "${reason}. ${advice}, or give this machine a network and configure again.")
    endif()
  endif()
  file(SHA256 ${archive} actual)
  if(NOT actual STREQUAL sha256)
    message(FATAL_ERROR "${archive} has SHA-256 ${actual}; expected ${sha256} (${url}). "
      "Delete it and configure again.")
  endif()
  if(NOT EXISTS ${dir})
    file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${dir})
  endif()
  file(GLOB inside LIST_DIRECTORIES true ${dir}/*)
  set(${source_dir} ${inside} PARENT_SCOPE)
endfunction()

find_package(Eigen3 3.3 QUIET NO_MODULE)
if(Eigen3_FOUND)
  set(summary_packages "Eigen ${Eigen3_VERSION}")
else()
  kfa_fetch(Eigen libeigen3-dev
    https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
    8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72 source)
  add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
  target_include_directories(Eigen3::Eigen INTERFACE ${source})
  set(summary_packages "Eigen 3.4.0 (fetched)")
endif()

add_library(kfa_sentencepiece INTERFACE)
find_package(PkgConfig QUIET)
if(PKG_CONFIG_FOUND)
  pkg_check_modules(SENTENCEPIECE QUIET IMPORTED_TARGET sentencepiece)
endif()
if(SENTENCEPIECE_FOUND)
  target_link_libraries(kfa_sentencepiece INTERFACE PkgConfig::SENTENCEPIECE)
  string(APPEND summary_packages ", SentencePiece ${SENTENCEPIECE_VERSION}")
else()
  kfa_fetch(SentencePiece "libsentencepiece-dev pkg-config"
    https://github.com/google/sentencepiece/archive/refs/tags/v0.2.0.tar.gz
    9970f0a0afee1648890293321665e5b2efa04eaec9f1671fcf8048f456f5bb86 source)
  set(SPM_ENABLE_SHARED OFF CACHE INTERNAL "")
  set(SPM_ENABLE_TCMALLOC OFF CACHE INTERNAL "")
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5)  # its own minimum is older than CMake 4 accepts
  add_subdirectory(${source} ${PROJECT_BINARY_DIR}/third-party/sentencepiece EXCLUDE_FROM_ALL)
  unset(CMAKE_POLICY_VERSION_MINIMUM)
  target_compile_options(sentencepiece-static PRIVATE -w)  # its warnings are not ours to read
  target_include_directories(kfa_sentencepiece SYSTEM INTERFACE ${source}/src)
  target_link_libraries(kfa_sentencepiece INTERFACE sentencepiece-static)
  string(APPEND summary_packages ", SentencePiece 0.2.0 (fetched)")
endif()

if(BUILD_TESTING AND USE_FLASH_ATTENTION)
  find_package(GTest QUIET)
  if(GTest_FOUND)
    string(APPEND summary_packages ", GoogleTest ${GTest_VERSION}")
  else()
    kfa_fetch(GTest libgtest-dev
      https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
      8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7 source)
    add_subdirectory(${source} ${PROJECT_BINARY_DIR}/third-party/googletest EXCLUDE_FROM_ALL)
    string(APPEND summary_packages ", GoogleTest 1.14.0 (fetched)")
  endif()
endif()
