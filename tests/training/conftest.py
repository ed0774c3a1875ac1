import pytest

from pictures import one_thread, own_hub, write_folder  # noqa: F401
from regard.training import TrainConfig, train


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data")


@pytest.fixture
def config(tmp_path, folder):
    """The fields of a training run that takes a moment."""
    return {
        "model": "nat_nano",
        "data": folder,
        "out": tmp_path / "run",
        "epochs": 2,
        "batch_size": 4,
        "warmup_epochs": 1,
        "image_size": 8,
        "workers": 0,
        "device": "cpu",
    }


@pytest.fixture
def run(config):
    return train(TrainConfig(**config))
