"""Larger calls of neighborhood attention: several tiles, blocks of mixed heads, gathered rows.

Each call has a grid, heads, head dim, kernel size and options. The small samples do not reach these code paths.
"""

GRIDS = [
    ((56, 57), 2, 32, (7, 7), {}),
    ((9, 130), 3, 5, (3, 31), {}),
    ((1, 300), 1, 8, (1, 65), {"stride": (1, 40)}),
    ((40, 33), 2, 17, (13, 5), {"dilation": (3, 6)}),
    ((100,), 3, 40, (49,), {"dilation": 2, "is_causal": True, "stride": 20}),
    ((7, 7), 16, 32, (7, 7), {}),
    ((5, 6, 20), 2, 16, (3, 3, 5), {"is_causal": (True, False, True)}),
    ((4, 2000), 1, 64, (3, 3), {}),
    ((6, 6), 2, 256, (3, 3), {}),
    ((24, 59), 5, 16, (13, 6), {"stride": (8, 1), "is_causal": (True, False)}),  # the last heads have separate tiles
]
