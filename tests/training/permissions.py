"""Folders as a user sees them whom permissions bind."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def bound_by_permissions(folder):
    """Act as another user if root runs the tests, who may read everything; skip where that user cannot see a folder."""
    is_root = os.geteuid() == 0
    if is_root:
        try:
            os.seteuid(NOBODY)
        except OSError:
            pytest.skip("this system has no other user")
    try:
        if not os.access(Path(folder).parent, os.X_OK, effective_ids=True):
            pytest.skip("the folder for temporary files is closed to other users")
        yield
    finally:
        if is_root:
            os.seteuid(0)
