"""Interfaces of other libraries on regard's mechanisms: `regard.compat.natten`."""
