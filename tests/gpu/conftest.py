"""Do not collect programs and plugins: importing them starts Triton or its interpreter."""

collect_ignore_glob = ["interpreter*.py", "resources.py"]
