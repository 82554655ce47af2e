"""llama.cpp is built so that it runs on processors with AMX, whatever the compiler and its user's flags."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aded_local

RULES = Path(aded_local.__file__).parent / "llama" / "llama_cpp.cmake"

PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(probe)
option(LLAVA_BUILD "images" ON)
set(LLAMA_BUILD_COMMON ON CACHE BOOL "" FORCE)
get_directory_property(options COMPILE_OPTIONS)
message(STATUS "options=${options}")
message(STATUS "flags=${CMAKE_CXX_FLAGS}")
message(STATUS "compiler=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
message(STATUS "common=${LLAMA_BUILD_COMMON} images=${LLAVA_BUILD}")
"""

TILES = """
#include <immintrin.h>
struct Tiles { unsigned char palette, start, reserved[14]; unsigned short columns[16]; unsigned char rows[16]; };
void configure() {
    Tiles tiles = {};
    tiles.palette = 1;
    tiles.columns[3] = 0x1234;
    _tile_loadconfig(&tiles);
}
"""
"""The stores behind the first eight bytes are what a mistaken declaration makes look dead."""


def configured(folder: Path, *arguments: str) -> dict[str, str]:
    """What CMake settles for a project that is configured with the rules."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake here")
    (folder / "CMakeLists.txt").write_text(PROJECT)
    command = [cmake, "-S", folder, "-B", folder / "build", f"-DCMAKE_PROJECT_INCLUDE={RULES}", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("CMAKE_ARGS", "CXXFLAGS")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if done.returncode:
        pytest.skip("cmake finds no compiler here")
    lines = [line.removeprefix("-- ") for line in done.stdout.splitlines() if "=" in line]
    return dict(line.split("=", 1) for line in lines)


def test_gnu_compilers_before_14_keep_stores_that_look_dead(tmp_path: Path) -> None:
    found = configured(tmp_path)
    name, version = found["compiler"].split()
    affected = name == "GNU" and int(version.split(".")[0]) < 14
    assert ("-fno-dse" in found["options"]) is affected


def test_a_users_own_flags_stay(tmp_path: Path) -> None:
    assert configured(tmp_path, "-DCMAKE_CXX_FLAGS=-O1 -g")["flags"] == "-O1 -g"


def test_what_nothing_here_loads_is_not_built_unless_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    (tmp_path / "images").mkdir()
    assert configured(tmp_path / "default")["common"] == "OFF images=OFF"
    assert configured(tmp_path / "images", "-DLLAVA_BUILD=ON")["common"] == "ON images=ON"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX is an x86 thing")
def test_with_the_flag_all_of_a_tile_configuration_is_stored(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    source = tmp_path / "tiles.cpp"
    source.write_text(TILES)
    command = [compiler, "-O3", "-march=sapphirerapids", "-fno-dse", "-S", "-o", "-", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip("this compiler does not know AMX")
    assert "ldtilecfg" in done.stdout
    assert str(0x1234) in done.stdout


SWITCHED = """
cmake_minimum_required(VERSION 3.21)
project(outer C)
add_subdirectory(inner)
"""
INNER = """
project(inner C)
add_library(ggml-cpu SHARED caller.c kernel.c)
"""
CALLER = """
#include <stdbool.h>
#include <stdint.h>
bool llamafile_sgemm(const void *, int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t, void *,
                     int64_t, int, int, int);
bool multiplied(int64_t n) { return llamafile_sgemm(0, 1, n, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0); }
"""
KERNEL = """
#include <stdbool.h>
#include <stdint.h>
bool llamafile_sgemm(const void *p, int64_t m, int64_t n, int64_t k, const void *a, int64_t s, const void *b, int64_t t,
                     void *c, int64_t u, int d, int e, int f) { return n > 1; }
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the switch is for Linux's linkers")
def test_the_switch_refuses_the_kernel_for_few_rows_and_only_when_it_is_set(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake here")
    inner, build = tmp_path / "inner", tmp_path / "build"
    inner.mkdir()
    (tmp_path / "CMakeLists.txt").write_text(SWITCHED)
    (inner / "CMakeLists.txt").write_text(INNER)
    (inner / "caller.c").write_text(CALLER)
    (inner / "kernel.c").write_text(KERNEL)
    configure = [cmake, "-S", tmp_path, "-B", build, f"-DCMAKE_PROJECT_INCLUDE={RULES}"]
    if subprocess.run(configure, capture_output=True, timeout=60).returncode:
        pytest.skip("cmake finds no compiler here")
    done = subprocess.run([cmake, "--build", build], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [library] = build.rglob("libggml-cpu.so")
    loaded = ctypes.CDLL(str(library))
    loaded.multiplied.argtypes, loaded.multiplied.restype = [ctypes.c_int64], ctypes.c_bool
    until = ctypes.c_int.in_dll(loaded, "aded_row_by_row_until")
    assert [loaded.multiplied(n) for n in (1, 2, 16, 17)] == [False, True, True, True]
    until.value = 16
    assert [loaded.multiplied(n) for n in (1, 2, 16, 17)] == [False, False, False, True]
