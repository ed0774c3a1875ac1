"""Choose what `make test` leaves to `make test-all`: repetition over samples and models.

For each combination of a test's other parameters (dtype, backend, ...), four samples of every mechanism and one model
of every family stay in the broad selection; the others get the mark `exhaustive`. Image sizes of a model are
repetition, too. The choice moves on from combination to combination, so that all together cover more than four. A test is left out of `make test`
altogether by `@pytest.mark.exhaustive`, and never thinned out with `@pytest.mark.every_parameter`.
"""

from collections import defaultdict

import pytest

from regard.attention import Sample
from regard.models import MODELS
from regard.models._families import family_of

SAMPLES_PER_MECHANISM = 4
MODELS_PER_FAMILY = 1


def mark_repetition(items):
    """Mark the tests that repeat others on one more sample or model."""
    groups = defaultdict(lambda: defaultdict(list))
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("every_parameter"):
            kept, key = describe(item.callspec.params)
            if kept is not None:
                groups[item.nodeid.partition("[")[0], kept][key].append(item)
    for (_, kept), combinations in groups.items():
        for shift, repeated in enumerate(combinations.values()):
            count = len(repeated)
            chosen = {(shift + place * count // kept) % count for place in range(min(kept, count))}
            for place, item in enumerate(repeated):
                if place not in chosen:
                    item.add_marker(pytest.mark.exhaustive)


def describe(parameters):
    """Return how many tests of a combination are kept (None: all), and the combination."""
    kept, key = None, []
    is_model = any(isinstance(value, str) and value in MODELS for value in parameters.values())
    for name, value in parameters.items():
        if isinstance(value, Sample):
            kept = SAMPLES_PER_MECHANISM
        elif isinstance(value, str) and value in MODELS:
            kept = MODELS_PER_FAMILY
            key.append((name, family_of(value).__name__))
        elif not (is_model and isinstance(value, (int, tuple)) and not isinstance(value, bool)):
            key.append((name, getattr(value, "name", None) or repr(value)))
    return kept, tuple(key)
