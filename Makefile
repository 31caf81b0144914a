# SPDX-License-Identifier: Apache-2.0
# The door to the house: Meson does the building, this says which rooms there are.

PREFIX ?= /usr/local
BUILD ?= build
# Debian's own, which has Debian's pytest; another python may be first in PATH.
PYTHON ?= /usr/bin/python3
MAKEFLAGS += --no-print-directory

.PHONY: help build demo check corpus bench fuzz format install clean

help:
	@echo 'make demo      see a running server lose its leak: installs what is missing, builds, shows'
	@echo 'make build     the tool and the library, in $(BUILD)/'
	@echo 'make check     all tests; ends with "N passed, N failed, N skipped"'
	@echo 'make corpus    real fixes on real servers (RECIPES="redis haproxy", CORPUS=DIR)'
	@echo 'make bench     what it costs, against the bare limits; figures in $(BUILD)/bench.json'
	@echo 'make fuzz      hostile patch files and the like, FUZZ_SECONDS=60 for each parser'
	@echo 'make format    clang-format on all C files'
	@echo 'make install   into $(PREFIX) (PREFIX=, DESTDIR=)'
	@echo 'make clean     remove what was built'

build:
	@tools/deps build
	@tools/build $(BUILD)

demo: build
	@examples/heartbeat/demo $(BUILD)

check:
	@tools/deps check
	@BUILD=$(BUILD) $(PYTHON) tests/run

corpus: build
	@BUILD=$(BUILD) $(PYTHON) tests/corpus/run $(RECIPES)

bench:
	@tools/deps bench
	@tools/build $(BUILD)
	@BUILD=$(BUILD) $(PYTHON) bench/run.py

FUZZ_SECONDS ?= 60
fuzz:
	@tools/deps fuzz
	@for f in fuzz/fuzz_*.c; do n=$${f#fuzz/fuzz_}; \
	fuzz/run $${n%.c} $(FUZZ_SECONDS) || exit 1; done

format:
	@tools/deps format
	@git ls-files '*.c' '*.h' | xargs clang-format -i

install:
	@tools/deps build
	@[ ! -f $(BUILD)/build.ninja ] || meson configure $(BUILD) --prefix $(PREFIX)
	@PREFIX=$(PREFIX) tools/build $(BUILD)
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

clean:
	rm -rf $(BUILD) $(BUILD)-san $(BUILD)-clang build-fuzz
