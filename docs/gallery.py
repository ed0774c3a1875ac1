"""The pictures of docs/guides/gallery.md: what the mechanisms compute, on photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from panels import MARKS, Cell, grid, groups, lines, mark, mask, photo, weights
from photographs import GRID, ByHand, Subject, as_input, neighborhood, photograph, shifted_window, softmax, window
from torch import Tensor
from torch.nn.functional import avg_pool2d

import regard
from regard import explain
from regard.attention import neighborhood_keys, window_tokens
from regard.explain import AttentionMap, Tokens, neighborhood_index, reversed_index, swin_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Subjects = Mapping[str, Subject]
FAMILIES = {
    "ViT": "deit_tiny_patch16_224",
    "CaiT": "cait_xxs24_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "NAT": "nat_mini",
    "DiNAT": "dinat_mini",
    "SwiftFormer": "swiftformer_xs",
    "MobileViTv2": "mobilevitv2_050",
}
"""Families whose receptive fields are drawn, and a model of each."""


def tokens_of(attention: AttentionMap, subject: Subject) -> Tokens:
    """Return the tokens of a layer on the subject's image."""
    return Tokens.of(attention.key_grid, (subject.inputs.shape[2], subject.inputs.shape[3]))


def row(attention: AttentionMap, subject: Subject, cell: Cell) -> Tensor:
    """Return a query's weights on the grid, `[nh, h, w]`; the cell is given on a grid of GRID x GRID."""
    tokens = tokens_of(attention, subject)
    return tokens.on_grid(attention.of_query(position(tokens, cell)))[0]


def position(tokens: Tokens, cell: Cell) -> int:
    """Return the index of a token that is given on a grid of GRID x GRID."""
    place = scaled(tokens, cell)
    return tokens.prefix + place[0] * tokens.grid[1] + place[1]


def scaled(tokens: Tokens, cell: Cell) -> Cell:
    """Return a cell of a grid of GRID x GRID on the grid of a layer."""
    return cell[0] * tokens.grid[0] // GRID, cell[1] * tokens.grid[1] // GRID


def queries(attention: AttentionMap, subject: Subject, cells: Mapping[str, Cell], title: str) -> Figure:
    """Draw a photograph with queries, and a panel with the mean weights of each."""
    figure, axes = grid(1, 1 + len(cells), f"{title} ({subject.weights})")
    tokens = tokens_of(attention, subject)
    photo(axes[0], subject.shown, tokens.grid, "three queries")
    for axis, color, (name, cell) in zip(axes[1:], MARKS, cells.items(), strict=False):
        index, place = position(tokens, cell), scaled(tokens, cell)
        seen = None if attention.keys is None else mask(attention.keys[index], tokens.grid)
        weights(axis, subject.shown, row(attention, subject, cell).mean(0), name, seen)
        mark(axis, place, color)
        mark(axes[0], place, color)
    return figure


def draw_softmax(found: Subjects) -> Figure:
    """Draw that every query has weights of its own, on all keys."""
    subject = found["softmax"]
    cells = {"query on the sky": (2, 11), "query on the roof": (7, 8), "query on the trees": (12, 2)}
    return queries(subject.maps()[-1], subject, cells, "Softmax attention: every query sees every key")


def draw_talking_heads(found: Subjects) -> Figure:
    """Draw the softmax of each head, and the heads after the second mix."""
    subject, cell = found["talking_heads"], (7, 8)
    before, after = (subject.maps(mixed=mixed)[-1] for mixed in (False, True))
    heads = ["color", "brightness", "nearby"] if isinstance(subject.model, ByHand) else ["0", "1", "2"]
    mixes = [": color + nearby", ": color − nearby", ": brightness − nearby"]
    figure, axes = grid(2, 4, f"Talking-heads attention: one query before and after the mix ({subject.weights})")
    for line, (attention, stage) in enumerate(((before, "softmax"), (after, "mixed"))):
        tokens = tokens_of(attention, subject)
        place = scaled(tokens, cell)
        first = axes[4 * line]
        photo(first, subject.shown, tokens.grid, "query" if line == 0 else "blue weights are negative")
        mark(first, place)
        for head, axis in enumerate(axes[4 * line + 1 : 4 * line + 4]):
            if isinstance(subject.model, ByHand):
                name = f"softmax of head {head}: {heads[head]}" if line == 0 else f"mixed head {head}{mixes[head]}"
            else:
                name = f"{stage} head {head}"
            weights(axis, subject.shown, row(attention, subject, cell)[head], name)
            mark(axis, place)
    return figure


def draw_window(found: Subjects) -> Figure:
    """Draw windows, shifted windows with their mask, and the weights of one query in both layers."""
    subject, cell, shift, side = found["window"], (8, 6), 3, 7
    figure, axes = grid(2, 3, f"Window attention, 7 x 7 windows on 14 x 14 tokens ({subject.weights})")
    image, cells = subject.shown, (GRID, GRID)
    for axis, moved, title in ((axes[0], 0, "windows"), (axes[3], shift, "shifted by 3: borders cut windows")):
        places = (torch.arange(GRID) - moved).div(side, rounding_mode="floor") + 1
        groups(axis, image, places[:, None] * 3 + places, title)
        lines(axis, [moved, moved + side], [moved, moved + side])
        mark(axis, cell)
    rolled = window_tokens(side, cells, shift_size=shift)
    corner: Cell = (1, 12)
    index = corner[0] * GRID + corner[1]
    together = next(tokens for tokens in rolled.flatten(0, -2) if index in tokens)
    tile = (torch.arange(GRID) - shift).div(side, rounding_mode="floor")
    same = (tile[:, None] == tile[corner[0]]) & (tile == tile[corner[1]])
    state = torch.full(cells, -1)
    state[mask(together, cells)] = 3
    state[same] = 2
    groups(axes[5], image, state, "the mask hides red from green")
    mark(axes[5], corner)
    for axis, attention, title in zip(
        (axes[1], axes[4]), subject.maps()[-2:], ("weights of a query", "its weights in the shifted layer"), strict=True
    ):
        tokens = tokens_of(attention, subject)
        seen = mask(attention.keys[position(tokens, cell)], tokens.grid)
        visible = row(attention, subject, cell).mean(0)
        weights(axis, image, visible, title, seen & (visible > 0))
        mark(axis, scaled(tokens, cell))
    network = ByHand([window, shifted_window], ["uniform"])
    at = ((cell[1] + 0.5) * 16, (cell[0] + 0.5) * 16)
    reached = explain.rollout(network, as_input(image), point=at)[0]
    groups(axes[2], image, torch.where(reached > 0, 0, -1), "reached through both layers: all", alpha=0.0)
    mark(axes[2], cell)
    return figure


def draw_neighborhood(found: Subjects) -> Figure:
    """Draw the neighborhoods of a query inside, at a border and in a corner."""
    subject = found["neighborhood"]
    cells = {"query inside": (7, 7), "at a border: shifted inward": (7, 13), "in a corner": (0, 0)}
    title = "Neighborhood attention: every query sees equally many keys"
    return queries(subject.maps()[-1], subject, cells, title)


def draw_neighborhood_options(found: Subjects) -> Figure:
    """Draw which keys a query sees with dilation, a stride and a causal axis."""
    image, cell, cells = photograph("flower"), (6, 7), (GRID, GRID)
    options = {
        "kernel 5": {},
        "dilation 2": {"dilation": 2},
        "dilation 2, neighbor's keys": {"dilation": 2},
        "stride 3: nine queries share keys": {"stride": 3},
        "causal rows": {"is_causal": (True, False)},
    }
    figure, axes = grid(1, len(options), "Neighborhood attention: which keys a query sees, by option", 2.2)
    for axis, (title, option) in zip(axes, options.items(), strict=True):
        query = (cell[0], cell[1] + 1) if "neighbor" in title else cell
        keys = neighborhood_keys(5, cells, **option)
        seen = mask(keys[query], cells)
        if "is_causal" in option:
            seen &= torch.arange(GRID)[:, None] <= query[0]
        shown = torch.where(seen, 0, -1)
        groups(axis, image, shown, title, alpha=0.0)
        mark(axis, query)
        if "stride" in option:
            mark(axis, (cell[0] // 3 * 3, cell[1] // 3 * 3), MARKS[1], 3, 3)
    return figure


def draw_additive(found: Subjects) -> Figure:
    """Draw both poolings of additive attention."""
    subject = found["additive"]
    figure, axes = grid(1, 3, f"Additive attention: two contexts for all queries ({subject.weights})", 2.6)
    photo(axes[0], subject.shown, (GRID, GRID), "photograph")
    with explain.record(subject.model) as calls:
        subject.model(subject.inputs)
    names = ("query", "key", "query_weight", "key_weight", "query_bias", "key_bias", "scale")
    both = regard.additive_weights(**{name: calls[-1].arguments[name] for name in names})
    for axis, values, title in zip(axes[1:], both, ("alpha: the global query", "beta: the global key"), strict=True):
        bar = weights(axis, subject.shown, values[0, ..., 0].detach(), title)
        figure.colorbar(bar, ax=axis, fraction=0.046, pad=0.03)
    return figure


def draw_efficient_additive(found: Subjects) -> Figure:
    """Draw the signed weights of efficient additive attention, and its other normalizers."""
    subject = found["efficient_additive"]
    with explain.record(subject.model) as calls, torch.no_grad():
        subject.model(subject.inputs)
    call = min(calls, key=lambda one: abs(one.arguments["query"].shape[1] - GRID))
    query, weight = call.arguments["query"], call.arguments["weight"]
    title = f"Efficient additive attention: one context for all queries, by token_norm ({subject.weights})"
    figure, axes = grid(1, 4, title, 2.6)
    photo(axes[0], subject.shown, query.shape[1:3], "photograph")
    titles = {"l2": "l2: signed", "softmax": "softmax: positive", "ones": "ones: all equal"}
    for axis, (norm, title) in zip(axes[1:], titles.items(), strict=True):
        values = regard.efficient_additive_weights(query, weight, token_norm=norm)[0].detach()
        bar = weights(axis, subject.shown, values, title)
        figure.colorbar(bar, ax=axis, fraction=0.046, pad=0.03)
    return figure


def draw_separable(found: Subjects) -> Figure:
    """Draw that every place in a patch has a softmax of its own."""
    subject = found["separable"]
    attention = subject.maps()[-1]
    tokens = tokens_of(attention, subject)
    figure, axes = grid(1, 4, f"Separable attention, patches of 2 x 2 tokens ({subject.weights})")
    photo(axes[0], subject.shown, tokens.grid, "photograph")
    weights(axes[1], subject.shown, tokens.on_grid(attention.of_tokens())[0, 0], "weights of all tokens")
    for axis, cell in zip(axes[2:], ((6, 6), (7, 7)), strict=True):
        index = cell[0] * tokens.grid[1] + cell[1]
        seen = mask(attention.keys[index], tokens.grid)
        values = tokens.on_grid(attention.of_query(index))[0, 0]
        weights(axis, subject.shown, values, f"keys of query {cell}", seen)
        mark(axis, cell)
    return figure


def draw_bias(found: Subjects) -> Figure:
    """Draw the table of relative biases, and which entries the keys of two queries read, for Swin and NAT."""
    kernel, cells = 3, (6, 6)
    places = {"a query inside": (3, 3), "a query at the upper border": (0, 3)}
    index = {
        "Swin: query − key": window_entries(kernel, cells),
        "NAT: key − query": neighborhood_entries(neighborhood_index(kernel, cells), kernel, cells),
        "widely copied, wrong": neighborhood_entries(reversed_index(kernel, cells), kernel, cells),
    }
    figure, axes = grid(3, 3, "Relative biases: which entry of the table each key reads", 2.6)
    side = 2 * kernel - 1
    for line, (name, entries) in enumerate(index.items()):
        table = {(entry // side, entry % side): entry for entry in range(side * side)}
        sign = -1 if name.startswith("Swin") else 1
        entry_grid(axes[3 * line], (side, side), table, sign, "the table of 5 x 5 entries" if line == 0 else "")
        axes[3 * line].set_ylabel(name, fontsize=10)
        for axis, (title, query) in zip(axes[3 * line + 1 : 3 * line + 3], places.items(), strict=True):
            entry_grid(axis, cells, entries(query), sign, title if line == 0 else "")
            mark(axis, query)
    return figure


Entries = Callable[[Cell], Mapping[Cell, int]]
"""Returns the entry that each key of a query reads, by the key's cell."""


def window_entries(size: int, cells: Cell) -> Entries:
    """Return the entries of a window's keys, from Swin's index."""
    index, windows = swin_index((size, size)), window_tokens(size, cells)

    def entries(query: Cell) -> Mapping[Cell, int]:
        number = query[0] * cells[1] + query[1]
        tokens = next(one for one in windows.flatten(0, -2).tolist() if number in one)
        read = index[tokens.index(number)].tolist()
        return {divmod(token, cells[1]): entry for token, entry in zip(tokens, read, strict=True)}

    return entries


def neighborhood_entries(index: Tensor, kernel: int, cells: Cell) -> Entries:
    """Return the entries of a query's neighbors, from an index `[*cells, K]`."""
    keys = neighborhood_keys(kernel, cells)
    return lambda query: {
        divmod(key, cells[1]): entry for key, entry in zip(keys[query].tolist(), index[query].tolist(), strict=True)
    }


def entry_grid(axes: Axes, cells: Cell, entries: Mapping[Cell, int], sign: int, title: str) -> None:
    """Draw entries of a table of 5 x 5: the color is the direction and the distance that the entry stands for."""
    side, middle = 5, 2
    picture = torch.full((*cells, 3), 0.93)
    for (line, column), entry in entries.items():
        row, place = divmod(entry, side)
        down, right = sign * (row - middle), sign * (place - middle)
        hue = (math.atan2(down, right) / (2 * math.pi)) % 1
        picture[line, column] = torch.tensor(hsv_to_rgb((hue, 0.3 * max(abs(down), abs(right)), 1)))
        axes.text(column + 0.5, line + 0.5, f"{row},{place}", ha="center", va="center", fontsize=8)
    axes.imshow(picture.numpy(), extent=(0, cells[1], cells[0], 0), interpolation="nearest")
    axes.set_title(title, fontsize=9)


def draw_reach(found: Subjects) -> Figure:
    """Draw what can reach one token through one to four layers of local attention."""
    near, far = partial(neighborhood, size=5), partial(neighborhood, size=3, dilation=4)
    stacks = {
        "neighborhood 5": [near] * 4,
        "neighborhood 3,\ndilation 1 and 4": [partial(neighborhood, size=3), far] * 2,
        "window 7,\nnot shifted": [window] * 4,
        "window 7,\nevery other shifted": [window, shifted_window] * 2,
    }
    image, side, cell = photograph("china"), 2 * GRID, (15, 12)
    figure, axes = grid(4, 4, "Reach: the tokens that can have changed the framed one, of 28 x 28", 1.75)
    at = ((cell[1] + 0.5) * 8, (cell[0] + 0.5) * 8)
    for line, (name, layers) in enumerate(stacks.items()):
        for count in range(1, 5):
            axis = axes[4 * line + count - 1]
            network = ByHand(layers[:count], ["uniform"], side)
            reached = explain.rollout(network, as_input(image), point=at)[0] > 0
            groups(axis, image, torch.where(reached, 0, -1), "", alpha=0.0)
            mark(axis, cell)
            axis.set_title(f"{count} layer{'s' if count > 1 else ''}: {int(reached.sum())} tokens", fontsize=8)
        axes[4 * line].set_ylabel(name, fontsize=8)
    return figure


def draw_receptive_fields(found: Subjects) -> Figure:
    """Draw how strongly the pixels change the features at the center, for a model per family."""
    figure, axes = grid(2, 4, "Effective receptive field: gradients of the features at the marked point")
    trained = {subject.weights.split("_")[0]: subject for subject in found.values()}
    photo(axes[0], photograph("china"), (GRID, GRID), "the point")
    axes[0].plot(7, 7, "+", color=MARKS[1], markersize=12, markeredgewidth=2.5)
    for axis, (family, name) in zip(axes[1:], FAMILIES.items(), strict=True):
        torch.manual_seed(0)
        subject = trained.get(name.split("_")[0])
        if subject is None:
            model, inputs, note = regard.create_model(name).eval(), torch.randn(2, 3, 224, 224), "random weights"
        else:
            model, inputs, note = subject.model, subject.inputs, "trained"
        field = explain.receptive_field(model, inputs).mean(0)
        smooth = avg_pool2d(field[None], 4)[0]
        shown = axis.imshow((smooth / smooth.max()).clamp_min(1e-4).log10(), cmap="inferno", vmin=-4, vmax=0)
        axis.set_title(f"{family}, {note}", fontsize=9)
    bar = figure.colorbar(shown, ax=axes, shrink=0.5, label="gradient relative to its maximum")
    bar.set_ticks(range(-4, 1), labels=["≤ 0.0001", "0.001", "0.01", "0.1", "1"])
    return figure


def draw_sheet(found: Subjects) -> Figure:
    """Draw one query in every layer and head."""
    layers = {
        "softmax": softmax,
        "window 7": window,
        "window 7, shifted": shifted_window,
        "neighborhood 5": neighborhood,
        "neighborhood 3,\ndilation 4": partial(neighborhood, size=3, dilation=4),
    }
    heads, cell = ["similar color", "similar brightness", "nearby"], (7, 8)
    subject = Subject.by_hand(ByHand(list(layers.values()), heads))
    figure, axes = grid(len(layers), len(heads), "One query in every layer and head (weights by hand)", 1.9)
    for line, (name, attention) in enumerate(zip(layers, subject.maps(), strict=True)):
        tokens = tokens_of(attention, subject)
        values = row(attention, subject, cell)
        index = position(tokens, cell)
        seen = None if attention.keys is None else mask(attention.keys[index], tokens.grid)
        for head, axis in enumerate(axes[len(heads) * line : len(heads) * (line + 1)]):
            weights(axis, subject.shown, values[head], heads[head] if line == 0 else "", seen)
            mark(axis, scaled(tokens, cell))
        axes[len(heads) * line].set_ylabel(name, fontsize=9)
    return figure


PICTURES: Mapping[str, Callable[[Subjects], Figure]] = {
    "softmax": draw_softmax,
    "talking-heads": draw_talking_heads,
    "window": draw_window,
    "neighborhood": draw_neighborhood,
    "neighborhood-options": draw_neighborhood_options,
    "additive": draw_additive,
    "efficient-additive": draw_efficient_additive,
    "separable": draw_separable,
    "bias": draw_bias,
    "reach": draw_reach,
    "receptive-fields": draw_receptive_fields,
    "sheet": draw_sheet,
}
"""The gallery, by the names of the files."""
