"""The parts of `freeze`: compile, compute in bfloat16, measure, report."""
