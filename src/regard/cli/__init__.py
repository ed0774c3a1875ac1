"""The command line: one file per command."""

from regard.cli.app import app, main

__all__ = ["app", "main"]
