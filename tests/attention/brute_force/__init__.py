"""Every mechanism once more, written from its paper in plain loops; knows nothing of regard."""

from .neighborhood import neighborhood

BRUTE_FORCE = {"neighborhood": neighborhood}
