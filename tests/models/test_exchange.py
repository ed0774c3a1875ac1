"""Weights of timm's and transformers' networks give their logits in regard's models, and the other way round."""

import pytest

from budget import assert_within_budget

from .exchange import PAIRS, exchange

QUICK = "deit_tiny_patch16_224-timm"


@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=() if str(pair).startswith(QUICK) else pytest.mark.exhaustive) for pair in PAIRS],
    ids=str,
)
def test_exchange(pair):
    *outputs, expected = exchange(pair)
    for output in outputs:
        assert_within_budget(output, expected)


@pytest.mark.exhaustive
def test_drawn_networks_differ():
    """Otherwise the second upstream network would show nothing."""
    pair = PAIRS[0]
    (*_, expected), (again, *_) = exchange(pair), exchange(pair, seed=5)
    with pytest.raises(AssertionError, match="budget"):
        assert_within_budget(again, expected)
