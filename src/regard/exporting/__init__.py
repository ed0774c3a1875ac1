"""Models as files for other runtimes: exported, verified, opened again."""

from regard.exporting.exporter import Exported, export, write_file
from regard.exporting.metadata import Metadata
from regard.exporting.opened import FORMATS, Opened, format_of, operators_library
from regard.exporting.openvino_operators import openvino_operators
from regard.exporting.program import make_program
from regard.exporting.quantize import Quantized
from regard.exporting.verify import Verification, verify

__all__ = [
    "FORMATS",
    "Exported",
    "Metadata",
    "Opened",
    "Quantized",
    "Verification",
    "export",
    "format_of",
    "make_program",
    "openvino_operators",
    "operators_library",
    "verify",
    "write_file",
]
