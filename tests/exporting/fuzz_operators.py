"""Run wrong nodes of the domain "regard": each runs with outputs of the right shape, or is an error of ONNX Runtime.

    python tests/exporting/fuzz_operators.py LIBRARY COUNT [FIRST]

Prints how many ran, and how many were errors. The number of the current node is written to stderr, so that the last
line names the node of a crash. A node that takes a minute ends the process.
"""

import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from exporting.one_node import Node, packed, session

INTEGERS = (-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 5, 64, 2**16, 2**30, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)
REALS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e30, 1e-45)
LENGTHS = (0, 0, 1, 2, 3, 7, 17, 257, 300)
EMPTY_LENGTHS = (1, 2**20, 2**31, 2**40)
DAMAGE = {"length": 8, "rank": 3, "empty": 3, "values": 2, "absent": 2, "count": 1, "dtype": 1, "outputs": 1}
"""How inputs are changed, and how often."""
DTYPES = (np.float64, np.float16, np.int64, np.int32, np.bool_)


def right_node(draw: random.Random) -> Node:
    """Draw a node that is right."""
    makers = (neighborhood, neighborhood, window, talking_heads, additive, efficient_additive, separable)
    node = draw.choice(makers)(draw)
    is_packable = node.attributes.get("packed") == 0 and node.inputs[1].shape == node.inputs[2].shape
    return packed(node) if is_packable and draw.random() < 0.3 else node


def heads_of(draw, grid):
    heads, dim, value_dim = draw.randint(1, 3), draw.randint(1, 9), draw.randint(1, 9)
    value_dim = draw.choice((dim, value_dim))
    shape = (draw.randint(0, 2), *grid, heads)
    return [real(*shape, dim), real(*shape, dim), real(*shape, value_dim)], heads


def neighborhood(draw):
    axes = draw.randint(1, 3)
    kernel, dilation = [draw.randint(1, 4) for _ in range(axes)], [draw.randint(1, 2) for _ in range(axes)]
    grid = [size * step + draw.randint(0, 4) for size, step in zip(kernel, dilation, strict=True)]
    inputs, heads = heads_of(draw, grid)
    inputs.append(real(heads, *(2 * size - 1 for size in kernel)) if draw.random() < 0.5 else None)
    attributes = {
        "kernel_size": kernel,
        "dilation": dilation,
        "stride": [draw.randint(1, size) for size in kernel],
        "is_causal": [draw.randint(0, 1) for _ in kernel],
        "scale": draw.random(),
        "packed": 0,
    }
    return Node("NeighborhoodAttention", inputs, attributes)


def window(draw):
    sizes = [draw.randint(1, 4) for _ in range(draw.randint(1, 3))]
    inputs, heads = heads_of(draw, [size * draw.randint(1, 3) for size in sizes])
    inputs.append(real(heads, *(2 * size - 1 for size in sizes)) if draw.random() < 0.5 else None)
    shifts = [draw.randrange(size) for size in sizes]
    attributes = {"window_size": sizes, "shift_size": shifts, "scale": draw.random(), "packed": 0}
    return Node("WindowAttention", inputs, attributes)


def talking_heads(draw):
    batch, queries, keys, dim, value_dim = draw.randint(0, 2), *(draw.randint(1, 9) for _ in range(4))
    first, middle, last = (draw.randint(1, 4) for _ in range(3))
    inputs = [real(batch, queries, first, dim), real(batch, keys, first, dim), real(batch, keys, last, value_dim)]
    inputs += [real(middle, first), real(last, middle), real(last) if draw.random() < 0.5 else None]
    return Node("TalkingHeadsAttention", inputs, {"scale": draw.random()})


def additive(draw):
    heads, dim = draw.randint(1, 3), draw.randint(1, 9)
    shape = (draw.randint(0, 2), *(draw.randint(1, 5) for _ in range(draw.randint(1, 3))), heads, dim)
    weights = [real(heads, heads * dim), real(heads, heads * dim)]
    return Node("AdditiveAttention", [real(*shape), real(*shape), *weights], {"scale": draw.random()})


def efficient_additive(draw):
    shape = (draw.randint(0, 2), *(draw.randint(1, 5) for _ in range(draw.randint(1, 3))), draw.randint(1, 9))
    attributes = {"token_norm": draw.randrange(3), "scale": draw.random()}
    return Node("EfficientAdditiveAttention", [real(*shape), real(*shape), real(shape[-1])], attributes, 2)


def separable(draw):
    patch = [draw.randint(1, 3) for _ in range(draw.randint(1, 3))]
    keys, values = ([size * draw.randint(1, 3) for size in patch] for _ in range(2))
    values = draw.choice((keys, values))
    batch, channels = draw.randint(0, 2), draw.randint(1, 9)
    inputs = [real(batch, *keys, 1), real(batch, *keys, channels), real(batch, *values, channels)]
    return Node("SeparableAttention", inputs, {"patch_size": patch, "packed": 0})


def real(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def damage(node: Node, draw: random.Random) -> None:
    """Change one thing of a node."""
    given = [place for place, one in enumerate(node.inputs) if one is not None]
    (how,) = draw.choices(list(DAMAGE), list(DAMAGE.values()))
    if node.attributes and draw.random() < 0.4:
        damage_attribute(node, draw)
    elif how == "outputs":
        node.outputs = draw.randint(0, 3)
    elif how == "count":
        node.inputs = node.inputs[: draw.randint(0, 3)] if draw.random() < 0.5 else [*node.inputs, real(2)]
    elif given:
        place = draw.choice(given)
        node.inputs[place] = damaged(node.inputs[place], how, draw)


def damaged(array, how, draw):
    shape = list(array.shape)
    if how == "absent":
        return None
    if how == "rank":
        return draw.choice((array[None], array[..., None], array.reshape(-1), np.array(3, np.float32)))
    if how == "dtype":
        return array.astype(draw.choice(DTYPES))
    if how == "empty":
        shape = [draw.choice(EMPTY_LENGTHS) if draw.random() < 0.3 else length for length in shape] or [0]
        shape[draw.randrange(len(shape))] = 0
        sizes = [length for length in shape if length]
        return np.zeros(shape if np.prod(sizes, dtype=float) < 2**60 else [0] * len(shape), np.float32)
    if how == "values":
        return np.full_like(array, draw.choice(REALS[:3])) if array.dtype == np.float32 else array
    if shape:
        axis = draw.randrange(len(shape))
        shape[axis] = draw.choice(LENGTHS)
    return np.zeros(shape, np.float32) if np.prod(shape, dtype=float) < 2**24 else array


def damage_attribute(node: Node, draw: random.Random) -> None:
    name = draw.choice(list(node.attributes))
    value = node.attributes[name]
    if draw.random() < 0.15:
        del node.attributes[name]
    elif draw.random() < 0.15:
        node.attributes[name] = draw.choice((1.5, "text", [1.0, 2.0], 3, [1, 2]))  # often of another type
    elif isinstance(value, float):
        node.attributes[name] = draw.choice(REALS)
    elif isinstance(value, int):
        node.attributes[name] = draw.choice(INTEGERS)
    elif isinstance(value, list) and value and draw.random() < 0.75:
        changed = list(value)
        changed[draw.randrange(len(changed))] = draw.choice(INTEGERS)
        node.attributes[name] = changed
    elif isinstance(value, list):
        node.attributes[name] = draw.choice(([1] * 4, [1] * 1000, value[:-1] or [1, 1], [*value, 1]))


def output_shape(node: Node) -> tuple[int, ...]:
    """Return the shape that the outputs of a node must have."""
    query, *others = node.inputs
    if node.name == "SeparableAttention":
        is_packed = bool(node.attributes["packed"])
        return (*query.shape[:-1], query.shape[-1] // 2) if is_packed else others[1].shape
    if node.name == "TalkingHeadsAttention":
        return (*query.shape[:2], *others[1].shape[2:])
    if node.name in ("NeighborhoodAttention", "WindowAttention"):
        is_packed = bool(node.attributes["packed"])
        return (*query.shape[:-3], *query.shape[-2:]) if is_packed else (*query.shape[:-1], others[1].shape[-1])
    return query.shape


def main(library: str, count: int, first: int = 0) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    counts = {"ran": 0, "errors at load time": 0, "errors at run time": 0}
    for number in range(first, first + count):
        print(number, file=sys.stderr, flush=True)
        draw = random.Random(number)
        node = right_node(draw)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            damage(node, draw)
        signal.alarm(60)
        try:
            one = session(node.model(), draw.randint(1, 2), library)
        except Exception as error:
            check_error(error)
            counts["errors at load time"] += 1
            continue
        try:
            results = one.run(None, node.feeds())
        except Exception as error:
            check_error(error)
            counts["errors at run time"] += 1
            continue
        assert all(result.shape == output_shape(node) for result in results), node
        counts["ran"] += 1
    for name, number in counts.items():
        print(f"{name}: {number}")


def check_error(error: Exception) -> None:
    assert type(error).__module__ == "onnxruntime.capi.onnxruntime_pybind11_state", repr(error)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
