"""Leave out programs and plugins: to import them is to start Triton, or its interpreter."""

collect_ignore = ["interpreter.py", "resources.py"]
