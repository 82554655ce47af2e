/* Built into llama.cpp's CPU library by llama_cpp.cmake. The linker sends every call of llamafile_sgemm here.
 *
 * llama.cpp multiplies by one token's row with one kernel, and by several rows with llamafile's, which adds in another
 * order and so rounds differently. Up to a number of rows, which the program sets between passes, this file refuses
 * llamafile's kernel; llama.cpp then multiplies row by row, as it does for one token, and gets the same bits. */

#include <stdbool.h>
#include <stdint.h>

struct ggml_compute_params;

__attribute__((visibility("default"))) int aded_row_by_row_until = 0;

bool __real_llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                            const void * a, int64_t lda, const void * b, int64_t ldb, void * c, int64_t ldc,
                            int a_type, int b_type, int c_type);

bool __wrap_llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                            const void * a, int64_t lda, const void * b, int64_t ldb, void * c, int64_t ldc,
                            int a_type, int b_type, int c_type);

bool __wrap_llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                            const void * a, int64_t lda, const void * b, int64_t ldb, void * c, int64_t ldc,
                            int a_type, int b_type, int c_type) {
    if (n <= aded_row_by_row_until) {
        return false;
    }
    return __real_llamafile_sgemm(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type);
}
