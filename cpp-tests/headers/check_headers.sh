#!/bin/sh
# Compiles every public header alone and included twice: .h at the top as C11 and C++17, all others
# (.hpp, adapter/) as C++17. Adapter headers need the host engine's.
#
# usage: check_headers.sh INCLUDE_DIR HOST_INCLUDE_DIR      (CC and CXX name the compilers)
set -eu
include=$(cd "$1" && pwd) host=$(cd "$2" && pwd)
flags="-Wall -Wextra -Werror -Wpedantic -fsyntax-only"
checked=0

# compile HEADER COMMAND...: once and twice, with what the command's options add.
compile() {
  header=$1
  shift
  for times in 1 2; do
    { i=0; while [ $i -lt $times ]; do echo "#include \"$header\""; i=$((i + 1)); done
      echo 'int checked_header(void); int checked_header(void) { return 0; }'; } |
      "$@" $flags -I"$include" - || { echo "FAILED: $header included $times time(s) by: $*" >&2; exit 1; }
    checked=$((checked + 1))
  done
}

cd "$include"
for header in $(find kuiper_flash_attention -name '*.h' -o -name '*.hpp' | sort); do
  case $header in
    kuiper_flash_attention/adapter/*)
      compile "${header#kuiper_flash_attention/adapter/}" "${CXX:-c++}" -x c++ -std=c++17 \
        -I"$host" -I"$include/kuiper_flash_attention/adapter" ;;
    *.hpp)
      compile "$header" "${CXX:-c++}" -x c++ -std=c++17 ;;
    *)
      compile "$header" "${CC:-cc}" -x c -std=c11
      compile "$header" "${CXX:-c++}" -x c++ -std=c++17 ;;
  esac
done

# kfa.h twice in two languages, kfa.hpp twice, the adapter's header twice.
[ "$checked" -ge 8 ] || { echo "FAILED: only $checked compilations, where are the headers?" >&2; exit 1; }
echo "$checked compilations, all clean"
