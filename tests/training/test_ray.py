"""Ray gives the result of one machine, also if an actor ends in the middle."""

import os
import signal
import time

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from pictures import write_folder
from regard.training import Classifier, embed, predict
from regard.training.inference import Inference, infer

ray = pytest.importorskip("ray", reason="Ray takes hundreds of MB: pip install 'regard[ray]'")
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(__file__)), prepend=os.pathsep)  # noqa: PTH120
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        yield
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def photos(tmp_path):
    folder = write_folder(tmp_path / "photos", count=20)
    (folder / "green" / "3.png").write_bytes(b"no image")
    return folder


def test_predictions_are_those_of_one_machine(run, photos, tmp_path):
    images = [photos, tmp_path / "gone.png"]
    alone, shared = (predict(run, images, batch_size=7, engine=engine, device="cpu") for engine in ("local", "ray"))
    for one, other in zip(alone, shared, strict=True):
        assert one.image == other.image and str(one.error) == str(other.error)
        assert dict(one.classes) == pytest.approx(dict(other.classes), abs=1e-5)


def test_features_are_those_of_one_machine(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    tables = []
    for engine in ("local", "ray"):
        result = embed(run, ["photos"], tmp_path / f"{engine}.parquet", batch_size=7, engine=engine, device="cpu")
        assert result.images == 59 and list(map(str, result.broken)) == ["photos/green/3.png"]
        tables.append(parquet.read_table(result.file))
    alone, shared = tables
    assert alone["path"].to_pylist() == shared["path"].to_pylist() and alone.schema == shared.schema
    np.testing.assert_allclose(*(np.array(table["features"].to_pylist()) for table in tables), rtol=1e-4, atol=1e-5)


class Slow(torch.nn.Module):
    """Take a while, and leave a file for each call, whose name starts with the number of the process."""

    def __init__(self, model, folder):
        super().__init__()
        self.model, self.folder = model, folder

    def forward(self, pixels):
        time.sleep(0.2)
        (self.folder / f"{os.getpid()} {time.monotonic_ns()}").touch()
        return self.model(pixels)


def test_an_actor_that_is_killed_costs_no_row(run, photos, tmp_path):
    (tmp_path / "actors").mkdir()
    classifier = Classifier.open(run)
    expected = [each.classes for each in predict(classifier, [photos], device="cpu")]
    slow = Classifier(**{**vars(classifier), "model": Slow(classifier.model, tmp_path / "actors")})
    images = sorted(photos.rglob("*.png"))
    answers = infer(slow, images, "probabilities", Inference(batch_size=1, engine="ray", actors=2, device="cpu"))
    rows = [next(answers)]
    before = [int(path.name.split()[0]) for path in (tmp_path / "actors").iterdir()]
    assert 0 < len(before) < 50  # much is left to do
    os.kill(before[0], signal.SIGKILL)
    rows += answers
    after = [int(path.name.split()[0]) for path in (tmp_path / "actors").iterdir()]
    assert len(rows) == len(images) == 60 and len(after) >= 59
    assert after.count(before[0]) <= before.count(before[0]) + 5 < 59  # another actor did the rest
    for row, classes in zip(rows, expected, strict=True):
        if classes:
            assert dict(zip(classifier.classes, row, strict=True)) == pytest.approx(dict(classes), abs=1e-5)


def test_more_actors_than_processors(run, photos):
    assert len(predict(run, [photos], engine="ray", actors=3, device="cpu")) == 60


def test_a_cluster_of_its_own_leaves_nothing_behind(run, photos):
    ray.shutdown()  # that of the other tests
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for _ in range(2):
        assert len(predict(run, [photos], engine="ray", actors=1, device="cpu")) == 60
        assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
