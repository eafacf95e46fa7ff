# The option USE_CUDA: the library's CUDA kernels and, where the C++ engine is built, its device half
# in the language CUDA. nvcc is looked for in CUDACXX, CUDA_HOME, PATH, then where tools/setup-cuda
# installs it.
if(DEFINED ENV{CUDACXX})
  set(NVCC_EXECUTABLE $ENV{CUDACXX} CACHE FILEPATH "The CUDA compiler")
endif()
file(GLOB wheels ${PROJECT_SOURCE_DIR}/.venv/lib/python*/site-packages/nvidia/cu13/bin)
find_program(NVCC_EXECUTABLE nvcc HINTS $ENV{CUDA_HOME}/bin PATHS ${wheels})

set(nvcc_found OFF)
if(NVCC_EXECUTABLE)
  set(nvcc_found ON)
endif()
# Attention on CUDA comes with the library: the engine has none of its own. In another project the
# option of this name, if it has one, counts for the library, too.
if(is_top_level)
  include(CMakeDependentOption)
  cmake_dependent_option(USE_CUDA "Build for CUDA devices, too" ${nvcc_found} USE_FLASH_ATTENTION
    OFF)
elseif(NOT DEFINED USE_CUDA)
  set(USE_CUDA ${nvcc_found})
endif()

set(summary_cuda "off (USE_CUDA)")
if(NOT build_library)
  set(summary_cuda "off: it is part of USE_FLASH_ATTENTION")
elseif(NOT nvcc_found)
  set(summary_cuda
    "off: no nvcc in CUDACXX, CUDA_HOME, PATH or .venv, where tools/setup-cuda installs one")
  if(USE_CUDA)
    message(FATAL_ERROR "USE_CUDA is ON, but nvcc is not in CUDACXX, CUDA_HOME, PATH or .venv, "
      "where tools/setup-cuda installs it. No GPU is needed to build.")
  endif()
endif()
if(USE_CUDA)
  set(summary_cuda "on (${NVCC_EXECUTABLE})")
endif()
if(USE_CUDA AND KFA_BUILD_TESTS)
  set(CMAKE_CUDA_COMPILER ${NVCC_EXECUTABLE})
  # Machine code for 8.x and 9.0, and what later devices compile at load time.
  set(CMAKE_CUDA_ARCHITECTURES 80 90-real CACHE STRING "Architectures of the engine's kernels")
  # The wheels keep the libraries where nvcc does not look.
  get_filename_component(toolkit ${NVCC_EXECUTABLE} DIRECTORY)
  get_filename_component(toolkit ${toolkit} DIRECTORY)
  string(APPEND CMAKE_CUDA_FLAGS " -L${toolkit}/lib")
  enable_language(CUDA)
  set(summary_cuda "on (nvcc ${CMAKE_CUDA_COMPILER_VERSION})")
endif()
