# SPDX-License-Identifier: Apache-2.0
"""What live tests are made of.

caps      what this machine can do; tests that need more are skipped by name
toolchain compilers, and the kinds of ELF file they make
project   a small source tree with a fix, its build, and the program a rebuild would give
process   victims: processes that answer lines, and are always ended and reaped
tool      the suture command
"""
