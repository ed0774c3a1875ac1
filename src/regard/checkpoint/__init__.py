"""Checkpoints: read and written safely, fetched once, and converted totally between namings."""

from regard.checkpoint.conversion import (
    LoadReport,
    bare,
    converted,
    detect_naming,
    fields_to_keep,
    in_naming,
    load_state_into,
    state_in,
    warn_of,
)
from regard.checkpoint.download import HUB_FILES, fetch
from regard.checkpoint.files import SUFFIXES, State, load_fields, load_state, save_state, some, unwrap
from regard.checkpoint.naming import OWN, Naming, Source

__all__ = [
    "HUB_FILES",
    "OWN",
    "SUFFIXES",
    "LoadReport",
    "Naming",
    "Source",
    "State",
    "bare",
    "converted",
    "detect_naming",
    "fetch",
    "fields_to_keep",
    "in_naming",
    "load_fields",
    "load_state",
    "load_state_into",
    "save_state",
    "some",
    "state_in",
    "unwrap",
    "warn_of",
]
