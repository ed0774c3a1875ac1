"""Measuring the mechanisms on this machine: time, memory, operations, and how they grow."""

from regard.benchmark.ceilings import Machine
from regard.benchmark.mechanisms import SUBJECTS, Measurement, Size, Subject, exponent, measure, select
from regard.benchmark.memory import peak_memory
from regard.benchmark.report import as_records, compare, plot, write_csv, write_json
from regard.timing import Times, time_in_turn

__all__ = [
    "SUBJECTS",
    "Machine",
    "Measurement",
    "Size",
    "Subject",
    "Times",
    "as_records",
    "compare",
    "exponent",
    "measure",
    "peak_memory",
    "plot",
    "select",
    "time_in_turn",
    "write_csv",
    "write_json",
]
