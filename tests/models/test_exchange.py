"""Weights of timm's and transformers' networks give their logits here, and ours give ours there."""

import pytest

from .exchange import PAIRS, exchange

BAR = 1e-5  # of the largest logit, in float32


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_exchange(pair):
    forth, back = exchange(pair)
    assert forth <= BAR and back <= BAR
