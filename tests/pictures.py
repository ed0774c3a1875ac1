"""Write small folders of images to train on."""

import numpy as np
import pytest
import torch
from PIL import Image

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_folder(root, count=6, classes=tuple(COLORS)):
    """Write `count` noisy images of 12x10 pixels per color, one sub-folder each."""
    noise = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.array(COLORS[name]) * noise.uniform(0.5, 1, (10, 12, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: on a busy machine, two wait for each other longer than these small models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def own_hub(tmp_path_factory):
    """Keep the cache of readable images out of the user's home."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path_factory.mktemp("hub"))
    yield
    torch.hub.set_dir(before)
