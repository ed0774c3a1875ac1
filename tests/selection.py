"""Choose what `make test` leaves to `make test-rest`: repetition over samples and models, and what takes long.

For each combination of a test's other parameters (dtype, backend, ...), two samples of every mechanism and one model
of every family stay in the broad selection. The others get the mark `exhaustive`. Image sizes of a model also count
as repetition. The choice moves on from combination to combination, so that all together cover more samples and sizes.

`--share 1/4` runs one of four parts of the exhaustive tests. A test's name decides which part it is in, so that the
parts together are all of them.

`@pytest.mark.one_parameter` keeps one case of a slow test, or one of each mechanism. `@pytest.mark.exhaustive` leaves
a test out of `make test`.
"""

from collections import defaultdict
from zlib import crc32

import pytest

from regard.attention import Sample
from regard.models import MODELS
from regard.models._families import family_of

SAMPLES_PER_MECHANISM = 2
MODELS_PER_FAMILY = 1


def mark_repetition(items):
    """Mark the tests that repeat others on one more sample, model or parameter."""
    groups = defaultdict(lambda: defaultdict(list))
    for item in items:
        if hasattr(item, "callspec"):
            kept, key = describe(item)
            if kept is not None:
                groups[item.nodeid.partition("[")[0], kept][key].append(item)
    for (name, kept), combinations in groups.items():
        for shift, repeated in enumerate(combinations.values(), start=crc32(name.encode()) if kept == 1 else 0):
            count = len(repeated)
            chosen = {(shift + place * count // kept) % count for place in range(min(kept, count))}
            for place, item in enumerate(repeated):
                if place not in chosen:
                    item.add_marker(pytest.mark.exhaustive)


def describe(item):
    """Return how many tests of a combination are kept (None: all), and the combination.

    A model is its name, or an object with the name of a model and perhaps of a naming.
    """
    parameters = item.callspec.params
    kept, key = None, []
    names = {parameter: getattr(value, "name", value) for parameter, value in parameters.items()}
    if item.get_closest_marker("one_parameter"):
        return 1, names.get("mechanism")
    has_model = any(isinstance(name, str) and name in MODELS for name in names.values())
    for parameter, value in parameters.items():
        name = names[parameter]
        if isinstance(value, Sample):
            kept = SAMPLES_PER_MECHANISM
        elif isinstance(name, str) and name in MODELS:
            kept = MODELS_PER_FAMILY
            key.append((parameter, family_of(name).__name__, getattr(value, "naming", None)))
        elif not (has_model and isinstance(value, (int, tuple)) and not isinstance(value, bool)):
            key.append((parameter, name if isinstance(name, str) else repr(value)))
    return kept, tuple(key)


def share(text):
    """Return the place and the number of parts that "1/4" names.

    >>> share("1/4")
    (1, 4)
    """
    place, _, count = text.partition("/")
    if not (place.isdecimal() and count.isdecimal() and int(place) < int(count)):
        raise ValueError(f"expected a share such as 0/4, 1/4, 2/4 or 3/4, got {text!r}")
    return int(place), int(count)


def belongs(name, part):
    """Return whether a test of this name is in a part."""
    place, count = part
    return crc32(name.encode()) % count == place
