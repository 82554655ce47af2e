# Read by CMake while it builds llama.cpp for llama-cpp-python: CMAKE_ARGS="-DCMAKE_PROJECT_INCLUDE=<this file>".
# A file instead of flags: it adds to whatever CMAKE_ARGS and CXXFLAGS a user has, and replaces none of them.

# GCC before 12.4, 13.3 and 14 declares that _tile_loadconfig reads 8 of the 64 bytes it reads (amxtileintrin.h), so it
# removes the stores of llama.cpp's tile shapes (ggml-cpu/amx/mmq.cpp) as dead, and a processor with AMX meets an illegal
# instruction. The compiler decides, not the processor at hand: wheels are cached, and disks move between machines.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fno-dse>)
endif()

# llama.cpp's helper library and its image reader serve other programs, and take half of the build. These variables
# stand in front of the cache entries that llama-cpp-python forces (CMP0126); who asks for images on purpose gets them.
if(NOT DEFINED CACHE{LLAVA_BUILD})
    set(LLAVA_BUILD OFF)
    set(LLAMA_BUILD_COMMON OFF)
endif()

# A switch between llama.cpp's kernel for several rows and the one for a single row (row_by_row.c), so that batches round
# as one token does. Linkers for Linux can put a function before another; without the switch everything else works.
# This file is read once for each project() of llama.cpp, and the target exists when the outermost folder is done.
function(aded_add_row_by_row)
    if(TARGET ggml-cpu)
        target_sources(ggml-cpu PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/row_by_row.c")
        target_link_options(ggml-cpu PRIVATE LINKER:--wrap=llamafile_sgemm)
    endif()
endfunction()
get_property(ADED_HAS_ROW_BY_ROW GLOBAL PROPERTY ADED_HAS_ROW_BY_ROW)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT ADED_HAS_ROW_BY_ROW AND NOT CMAKE_VERSION VERSION_LESS 3.19)
    set_property(GLOBAL PROPERTY ADED_HAS_ROW_BY_ROW TRUE)
    cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL aded_add_row_by_row)
endif()
