"""Random tensors and parameters, the same in every run."""

from functools import partial

import torch


def draw(*shape, seed=0, dtype=torch.float64):
    """Draw standard normal values; `query, key, value = draw(3, *shape)` draws three tensors."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


draw_single = partial(draw, dtype=torch.float32)


def randomize(module, seed=0):
    """Draw every parameter of a module, so that no value of 0 or 1 hides a mistake.

    Tables of relative position biases are as large as the logits, so that their order matters.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        is_table = name.endswith(("rpb", "relative_position_bias_table"))
        std = 1.0 if is_table else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return module
