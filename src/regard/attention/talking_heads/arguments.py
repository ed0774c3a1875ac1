"""Check the arguments of talking-heads attention and normalize them for the reference and the kernels."""

from __future__ import annotations

from torch import Tensor

from regard.attention import checks
from regard.attention.talking_heads.op import OPERATOR
from regard.attention.talking_heads.reference import Arguments


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    logits_mix: Tensor,
    weights_mix: Tensor,
    *,
    logits_bias: Tensor | None = None,
    weights_bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Arguments, list[str]]:
    """Check the arguments of `talking_heads_attention`; return them, and why no kernel serves them.

    For the weights alone, `value` is None, and `key` stands in its place.
    """
    tensors = {"query": query, "key": key, "value": value, "logits_mix": logits_mix, "weights_mix": weights_mix}
    checks.check_tensors({**tensors, "logits_bias": logits_bias, "weights_bias": weights_bias})
    checks.check_query_key(query, key)
    checks.check_shape("logits_mix", logits_mix, (None, query.shape[-2]), "is [softmax heads, query's heads]")
    checks.check_shape("weights_mix", weights_mix, (None, logits_mix.shape[0]), "is [value's heads, softmax heads]")
    heads, value_heads = logits_mix.shape[0], weights_mix.shape[0]
    if value is not None:
        expected = (*key.shape[:-2], value_heads, None)
        checks.check_shape("value", value, expected, "must have key's batch and grid, and weights_mix's heads")
    if logits_bias is not None:
        checks.check_shape("logits_bias", logits_bias, (heads,), "is [softmax heads]")
    if weights_bias is not None:
        checks.check_shape("weights_bias", weights_bias, (value_heads,), "is [value's heads]")
    checks.check_probability("dropout_p", dropout_p)
    value = key if value is None else value
    scale = checks.scale_of(query, scale)
    arguments = Arguments(query, key, value, logits_mix, weights_mix, logits_bias, weights_bias, scale, dropout_p)
    return arguments, OPERATOR.reasons(arguments)
