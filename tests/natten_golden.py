"""Outputs and gradients of NATTEN 0.17.5's CPU operators in float32, and the calls that they belong to."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from budget import assert_within_budget, truth
from golden.weights import image

GOLDEN = Path(__file__).parent / "golden"
OPERATORS = json.loads((GOLDEN / "natten_ops_dev.json").read_text())


def assert_natten_values(attention, record):
    """Hold NATTEN's values and those of `attention`, both in float32, to the budget of `attention`."""
    shape = [record["batch"], *record["grid"], record["heads"], record["head_dim"]]
    query, key, value, grad = (image(shape, record["seed"] + i) for i in range(4))
    tensors = {"query": query, "key": key, "value": value}
    if record["bias"]:
        table = [record["heads"], *(2 * kernel - 1 for kernel in record["kernel_size"])]
        tensors["bias"] = image(table, record["seed"] + 4)
    options = {name: record[name] for name in ("kernel_size", "dilation", "is_causal")}

    def results(grad, **tensors):
        inputs = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        out = attention(**inputs, **options)
        return out.detach(), *torch.autograd.grad(out, list(inputs.values()), grad)

    expected = truth(results, grad, **tensors)
    stored = load_file(GOLDEN / "natten_ops_dev.safetensors")
    parts = ("out", "dq", "dk", "dv", "dbias")[: len(expected.exact)]
    assert_within_budget([stored[f"{record['name']}.{part}"] for part in parts], expected)
    assert_within_budget(results(grad, **tensors), expected)
