"""The command line: one file per verb."""

from regard.cli.app import app, main

__all__ = ["app", "main"]
