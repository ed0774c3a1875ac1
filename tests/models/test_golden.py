"""The authors' networks, under random weights in their own naming, give the authors' logits."""

import json
from pathlib import Path

import pytest
import torch

from budget import assert_within_budget
from golden import weights
from regard.models import create_model

RECORDS = json.loads((Path(__file__).parents[1] / "golden" / "models_dev.json").read_text())


@pytest.mark.parametrize("record", RECORDS, ids=[record["name"] for record in RECORDS])
def test_logits(record):
    """The stored float32 logits are one more float32 evaluation of our float64 network."""
    model = create_model(record["name"], weights=weights.state(record["keys"], record["seed"])).eval()
    x = weights.image(record["input"], record["seed"] + 1)
    with torch.no_grad():
        plain = model(x).flatten()[:64]
        exact = model.double()(x.double()).flatten()[:64]
    assert_within_budget(torch.tensor(record["logits"]), plain=plain, exact=exact)
