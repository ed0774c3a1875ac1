"""NATTEN's interface on regard's neighborhood attention: its current functions and the ones it removed.

Use it by its own name, `from regard.compat.natten import na2d`, or call `install()` before code that imports `natten`.
"""

from regard.compat.natten import _switches
from regard.compat.natten._finder import __version__, install
from regard.compat.natten._switches import *  # noqa: F403 -- lists its names
from regard.compat.natten.functional import (
    na1d,
    na1d_av,
    na1d_qk,
    na1d_qk_with_bias,
    na2d,
    na2d_av,
    na2d_qk,
    na2d_qk_with_bias,
    na3d,
    na3d_av,
    na3d_qk,
    na3d_qk_with_bias,
    natten1dav,
    natten1dqk,
    natten1dqkrpb,
    natten2dav,
    natten2dqk,
    natten2dqkrpb,
    natten3dav,
    natten3dqk,
    natten3dqkrpb,
)
from regard.compat.natten.modules import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D

__all__ = [
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "__version__",
    "install",
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na1d_qk_with_bias",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na2d_qk_with_bias",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "na3d_qk_with_bias",
    "natten1dav",
    "natten1dqk",
    "natten1dqkrpb",
    "natten2dav",
    "natten2dqk",
    "natten2dqkrpb",
    "natten3dav",
    "natten3dqk",
    "natten3dqkrpb",
]
__all__ += _switches.__all__
