"""Numba's compiler, where its results are kept, and kernels that no stage owns."""
