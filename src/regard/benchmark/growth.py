"""How a mechanism's time grows with the number of tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from regard.benchmark.mechanisms import Size, Subject
from regard.benchmark.race import Contender, on_device
from regard.errors import OptionError
from regard.timing import time_in_turn


def measure_growth(subject: Subject, sizes: Sequence[Size], seconds: float) -> float:
    """Measure the exponent of a mechanism's forward pass.

    All sizes are measured in turn and every round is fitted, so that a machine that slows down changes nothing: the
    exponent is the median over the rounds. Of many sizes, the smaller ones are left out, since calls cost time of their
    own.

    Args:
        subject: the mechanism.
        sizes: of at least two numbers of tokens; of sizes with equal numbers, the last one is measured.
        seconds: roughly, in all; there are at least five rounds.
    """
    distinct = {size.tokens: size for size in sizes}
    used = [distinct[tokens] for tokens in sorted(distinct)[-max(2, (len(distinct) + 1) // 2) :]]
    calls = {}
    for size in used:
        module, x = size.place(subject.build)
        calls[str(size.tokens)] = on_device(Contender("regard", partial(module, x)).forward, size.device)
    times = time_in_turn(calls, seconds)
    rounds = zip(*(one.seconds for one in times.values()), strict=True)
    return statistics.median(exponent(dict(zip(map(int, times), one, strict=True))) for one in rounds)


def exponent(seconds: Mapping[int, float]) -> float:
    """Fit p of time ~ tokens^p: the slope in double logarithms.

    Args:
        seconds: of a call, by the number of tokens.

    Example: twice the tokens take four times as long.
        >>> exponent({10: 1.0, 20: 4.0, 40: 16.0})
        2.0
    """
    if len(seconds) < 2:
        raise OptionError(f"expected at least two sizes to fit an exponent, got {len(seconds)}")
    xs, ys = [math.log(tokens) for tokens in seconds], [math.log(one) for one in seconds.values()]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return round(covariance / sum((x - x_mean) ** 2 for x in xs), 6)
