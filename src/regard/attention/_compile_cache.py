"""The cache of `torch.compile` and the schemas of our operators.

The key of a cached program names the operators of its forward graph, but neither their schemas nor what autograd saves
for the backward pass. After an upgrade of regard that changes those, a program that the earlier version compiled would
call the new operators with the old arguments.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch.compiler


def separate_compile_cache(schema: str) -> None:
    """Make an operator's schema part of the key of all programs that `torch.compile` caches in this process."""
    config: Any = getattr(torch.compiler, "config", None)
    if hasattr(config, "cache_key_tag"):  # PyTorch 2.7 and newer
        config.cache_key_tag += f"{zlib.crc32(schema.encode()):08x}"
