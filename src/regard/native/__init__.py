"""The native core: compiled kernels behind a C interface, and the C++ headers that they share."""
