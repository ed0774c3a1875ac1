"""What the GPU kernels of all mechanisms share; written in Triton, which is imported with the first kernel."""
