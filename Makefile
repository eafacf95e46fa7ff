# Everything by one word; `make` alone lists the words.
PREFIX ?= /usr/local
MAKEFLAGS += --no-print-directory
# One build of the crate and its kernels serves cargo, CMake and the tests.
export CARGO_TARGET_DIR := $(CURDIR)/build/cargo

help:
	@echo "make setup    install the Debian packages that the C++ side needs"
	@echo "make build    build library, C++ engine, demo and tests into build/"
	@echo "make demo     write a story through flash attention and through standard MHA"
	@echo "make test     run every test"
	@echo "make test-aarch64  cross-build for aarch64 and test on an emulated CPU"
	@echo "make fuzz     random calls on the C API for MINUTES (default 60)"
	@echo "make lint     check formatting, run clippy, check dependencies and structure"
	@echo "make header   write kfa.h anew from src/capi"
	@echo "make install  install to PREFIX ($(PREFIX))"
	@echo "make clean    delete everything that was built"

setup:
	@tools/setup

configure: setup
	cmake -S . -B build -DUSE_CPM=ON

build: configure
	cmake --build build -j$$(nproc)

demo: configure
	cmake --build build -j$$(nproc) --target llama_infer
	@tools/demo

test: setup
	@tools/test

test-aarch64:
	@tools/test-aarch64

fuzz:
	@tools/fuzz $(or $(MINUTES),60)

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings
	tools/check-dependencies
	tools/count-structure

header:
	KFA_WRITE_HEADER=1 cargo test --features generate-header --test header

install: build
	cmake --install build --prefix "$(PREFIX)"

clean:
	rm -rf build build-off target

.PHONY: help setup configure build demo test test-aarch64 fuzz lint header install clean
