"""`torch.export` serves dynamic batches and image sizes."""

from typing import NamedTuple

import pytest
import torch
from torch.export import Dim, export

from budget import assert_within_budget

from .networks import SMALL, images, small, truth_of


class Sizes(NamedTuple):
    """The image sides that one exported program serves: `step * n` for n from `smallest` on, and why not others."""

    step: int
    smallest: int
    reason: str


PATCHES = "patches must fill the images of ViT and CaiT"
DIMENSIONS = "torch.export fixes a dimension of 1, so that the last grid needs at least two rows and columns"
ROUNDING = "torch.export cannot decide inequalities of sizes that are rounded up several times"
SERVED = {
    "swiftformer_nano": Sizes(1, 5, DIMENSIONS),
    "nat_nano": Sizes(1, 5, DIMENSIONS),
    "dinat_s_tiny": Sizes(8, 2, ROUNDING),
    "nat_isotropic_small": Sizes(1, 8, DIMENSIONS),
    "swin_tiny_patch4_window7_224": Sizes(8, 2, ROUNDING),
    "deit_tiny_distilled_patch16_224": Sizes(4, 2, PATCHES),
    "cait_xxs24_224": Sizes(4, 2, PATCHES),
    "mobilevitv2_050": Sizes(32, 2, ROUNDING),
}
LARGEST = 640
QUICK = "deit_tiny_distilled_patch16_224"


def exported(name):
    step, smallest, _ = SERVED[name]
    model = small(name).eval()
    height, width = (Dim(axis, min=smallest, max=LARGEST // step) for axis in ("height", "width"))
    shapes = {0: Dim("batch", min=1, max=64), 2: step * height, 3: step * width}
    example = images(step * (smallest + 3), step * (smallest + 4), batch=3)
    with torch.no_grad():
        return model, export(model, (example,), dynamic_shapes=(shapes,))


def test_every_family_is_exported():
    assert list(SERVED) == list(SMALL)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.exhaustive) for name in SMALL]
)
def test_dynamic_batch_and_size(name):
    """Sizes below and above the example's, smaller and larger than the window or the position embedding."""
    step, smallest, _ = SERVED[name]
    model, program = exported(name)
    for batch, height, width in ((1, 0, 5), (5, 7, 1)):
        x = images(step * (smallest + height), step * (smallest + width), batch=batch)
        with torch.no_grad():
            assert_within_budget(program.module()(x), truth_of(model, x))
