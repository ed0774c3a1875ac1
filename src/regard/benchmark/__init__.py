"""Measuring mechanisms, kernels and models on this machine: time, memory, operations, and how they grow."""

from regard.benchmark.growth import exponent, measure_growth
from regard.benchmark.kernels import KERNEL_PEERS, Kernel, kernels_of, measure_kernels
from regard.benchmark.machine import Machine, Steal
from regard.benchmark.mechanisms import SUBJECTS, Measurement, Size, Subject, measure, measure_together, select
from regard.benchmark.memory import peak_memory
from regard.benchmark.peers import PEERS
from regard.benchmark.race import Contender, Result, race
from regard.benchmark.report import Record, as_records, compare, plot, write_csv, write_json
from regard.timing import Times, time_in_turn

__all__ = [
    "KERNEL_PEERS",
    "PEERS",
    "SUBJECTS",
    "Contender",
    "Kernel",
    "Machine",
    "Measurement",
    "Record",
    "Result",
    "Size",
    "Steal",
    "Subject",
    "Times",
    "as_records",
    "compare",
    "exponent",
    "kernels_of",
    "measure",
    "measure_growth",
    "measure_kernels",
    "measure_together",
    "peak_memory",
    "plot",
    "race",
    "select",
    "time_in_turn",
    "write_csv",
    "write_json",
]
