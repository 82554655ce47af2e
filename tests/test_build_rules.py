"""llama.cpp is built so that it runs on processors with AMX, whatever the compiler and its user's flags."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
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
