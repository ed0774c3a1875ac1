"""Timing that a noisy machine spoils as little as it can."""

import statistics
import time

ROUNDS = 15


def medians(*calls, rounds=ROUNDS):
    """Median seconds of each call; the calls take turns, so that a noisy machine treats them alike.

    Each turn begins with a call that is not timed: the one before has left the caches full of its own data.
    """
    seconds = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, seconds, strict=True):
            call()
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in seconds]
