"""The authors' networks, under random weights in their own naming, give the authors' logits."""

import json
from pathlib import Path

import pytest
import torch

from budget import assert_within_budget
from golden import weights
from regard.models import create_model

from .networks import truth_of

RECORDS = json.loads((Path(__file__).parents[1] / "golden" / "models_dev.json").read_text())


def first_logits(network, x):
    return network(x).flatten()[:64]


@pytest.mark.exhaustive  # whole networks in float64, many times
@pytest.mark.parametrize("record", RECORDS, ids=[record["name"] for record in RECORDS])
def test_logits(record):
    """The stored logits, as ours, are a float32 evaluation of the same network."""
    model = create_model(record["name"], weights=weights.state(record["keys"], record["seed"])).eval()
    x = weights.image(record["input"], record["seed"] + 1)
    expected = truth_of(model, x, first_logits, draws=4)
    with torch.no_grad():
        assert_within_budget(first_logits(model, x), expected)
    assert_within_budget(torch.tensor(record["logits"]), expected)
