"""Small networks of every family, upstream networks under drawn weights, and how outputs are held to one another."""

import copy
from functools import partial

import pytest
import torch

from budget import assert_definition, truth
from golden import weights
from regard.attention import set_backend
from regard.layers import interpolate_position
from regard.models import FAMILIES, MODELS, Backbone, Cait, Vit, create_model
from regard.models._meta import on_meta

# a model of every family, and the fields that make it small
SMALL = {
    "swiftformer_nano": {},
    "nat_nano": {},
    "dinat_s_tiny": {
        "embed_dim": 16,
        "depths": (2, 2, 2),
        "num_heads": (1, 2, 4),
        "kernel_size": 3,
        "dilations": (2, 1, 1),
        "patch_size": 2,
    },
    "nat_isotropic_small": {
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "kernel_size": 3,
        "dilation": 2,
        "patch_size": 4,
    },
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 16,
        "depths": (2, 2, 2),
        "num_heads": (1, 2, 4),
        "window_size": 3,
        "img_size": 24,
        "patch_size": 2,
    },
    "deit_tiny_distilled_patch16_224": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 16, "patch_size": 4},
    "cait_xxs24_224": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 16, "patch_size": 4},
    "mobilevitv2_050": {"depths": (1, 1, 1)},
}
PYRAMIDS = ["swiftformer_nano", "nat_nano"]
TOKENS = ("deit", "cait")
SIZES = [(16, 16), (33, 33), (64, 64), (16, 40)]

# every model; `make test` runs one of each family
FIRST = [next(iter(family.variants)) for family in FAMILIES]
EVERY = [pytest.param(name, marks=() if name in FIRST else pytest.mark.exhaustive) for name in MODELS]


def sizes():
    """All families and sizes, except sizes that the patches of ViT and CaiT do not fill."""
    return [
        pytest.param(name, size, marks=pytest.mark.exhaustive if size == (64, 64) else ())
        for name in SMALL
        for size in SIZES
        if not (name.startswith(TOKENS) and size[0] % 4)
    ]


def build_on_meta(name, **options):
    with on_meta():
        return create_model(name, **options)


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 10} | SMALL[name] | options)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def draw(network, seed):
    """Give a network random weights that make every branch count; integer buffers stay."""
    drawn = weights.state(weights.describe(network.state_dict()), seed)
    own = {name: tensor for name, tensor in network.state_dict().items() if not tensor.is_floating_point()}
    network.load_state_dict(drawn | own)
    return network.eval()


def logits(network, x):
    """The logits of a network of regard, timm or transformers."""
    out = network(x)
    return out if isinstance(out, torch.Tensor) else out.logits


def intermediates(network, x):
    """The outputs of all stages of a network of regard or timm."""
    return tuple(network.forward_intermediates(x, intermediates_only=True))


def everything(network, x):
    """The logits and the outputs of all stages."""
    return (network(x), *intermediates(network, x))


def in_double(network):
    """A copy of a network in float64, which computes the definitions of its attention."""
    network = copy.deepcopy(network).double()
    if isinstance(network, Backbone):
        set_backend(network, "reference")
    return network


def at_size(model, height, width):
    """A copy of a ViT or CaiT whose position embedding is already interpolated for images of another size."""
    model = copy.deepcopy(model)
    grid = (height // model.config.patch_size, width // model.config.patch_size)
    prefix = getattr(model, "num_prefix_tokens", 0)
    with torch.no_grad():
        position = interpolate_position(model.pos_embed, model.grid, grid, num_prefix_tokens=prefix)
    model.pos_embed, model.grid = torch.nn.Parameter(position), grid
    return model


def truth_of(network, x, call=logits, draws=8):
    """The outputs of a network in float64, and their budget in the dtype of `x`.

    Position embeddings are interpolated beforehand, since a budget has no model of that operation.
    """
    network = at_size(network, *x.shape[2:]) if isinstance(network, Vit | Cait) else network
    with torch.no_grad():
        return truth(partial(call, in_double(network)), x, draws=draws)


def assert_same(ours, upstream, x, call=logits):
    """Hold a network to an upstream one, both in float64."""
    with torch.no_grad():
        exact = call(in_double(upstream), x.double())
        assert_definition(partial(call, in_double(ours)), x.double(), exact=exact)
