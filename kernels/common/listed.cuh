// Holds a number that the launch takes from a list against what the kernel makes of it.
#pragma once

namespace kfa {

/// The compiler's message about a mismatch names both numbers.
template <long KERNELS, long LISTED>
struct Listed {
  static_assert(KERNELS == LISTED, "the list of tiles says another number than the kernel needs");
  static constexpr bool OK = true;
};

}  // namespace kfa
