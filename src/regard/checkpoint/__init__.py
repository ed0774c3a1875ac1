"""Checkpoints: read and written safely, downloaded once, and converted between namings without losing a tensor."""

from regard.checkpoint.conversion import (
    LoadReport,
    convert_state,
    detect_namings,
    export_state,
    fields_to_store,
    join,
    load_state_into,
    rename_tensors,
    unwrap_model,
    warn_of_requirements,
)
from regard.checkpoint.download import HUB_FILES, fetch
from regard.checkpoint.files import SUFFIXES, State, load_fields, load_state, save_state, shorten, unwrap
from regard.checkpoint.naming import OWN, Convertible, Naming, Source, declarations

__all__ = [
    "HUB_FILES",
    "OWN",
    "SUFFIXES",
    "Convertible",
    "LoadReport",
    "Naming",
    "Source",
    "State",
    "convert_state",
    "declarations",
    "detect_namings",
    "export_state",
    "fetch",
    "fields_to_store",
    "join",
    "load_fields",
    "load_state",
    "load_state_into",
    "rename_tensors",
    "save_state",
    "shorten",
    "unwrap",
    "unwrap_model",
    "warn_of_requirements",
]
