"""How a mechanism's time grows with the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

from regard.errors import OptionError


def exponent(seconds: Mapping[int, float]) -> float:
    """Fit p of time ~ tokens^p: the slope in double logarithms.

    The small half of the sizes is left out where there are more than three, since calls cost time of their own.

    Args:
        seconds: of a call, by the number of tokens.

    Example: twice the tokens take four times as long.
        >>> exponent({10: 1.0, 20: 4.0, 40: 16.0})
        2.0
    """
    tokens = sorted(seconds)
    used = tokens[len(tokens) // 2 - 1 :] if len(tokens) > 3 else tokens
    if len(used) < 2:
        raise OptionError(f"expected at least two sizes to fit an exponent, got {len(used)}")
    xs, ys = [math.log(one) for one in used], [math.log(seconds[one]) for one in used]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return round(covariance / sum((x - x_mean) ** 2 for x in xs), 6)
