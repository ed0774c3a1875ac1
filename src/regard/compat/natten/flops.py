"""`natten.flops`, as far as the NAT repository needs it."""

from __future__ import annotations

from typing import TypeVar

Counter = TypeVar("Counter")

__all__ = ["add_natten_handle"]


def add_natten_handle(flop_ctr: Counter) -> Counter:
    """Return fvcore's counter as it is: it traces, and in a trace our attention is products that it knows.

    Example:
        >>> add_natten_handle("a counter")
        'a counter'
    """
    return flop_ctr
