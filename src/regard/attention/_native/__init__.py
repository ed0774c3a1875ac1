"""The native core: compiled kernels behind a C interface, and what their C++ shares."""
