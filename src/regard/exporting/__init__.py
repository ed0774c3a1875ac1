"""Models as files for other runtimes: exported, verified, opened again."""

from regard.exporting.exporter import Exported, export
from regard.exporting.metadata import Metadata
from regard.exporting.opened import FORMATS, Opened, format_of, operators_library
from regard.exporting.verify import Verification, verify

__all__ = [
    "FORMATS",
    "Exported",
    "Metadata",
    "Opened",
    "Verification",
    "export",
    "format_of",
    "operators_library",
    "verify",
]
