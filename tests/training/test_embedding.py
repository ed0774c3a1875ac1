"""The Parquet file of features holds what the model computes, and appears complete or not at all."""

import json
from dataclasses import asdict

import pyarrow.parquet as parquet
import pytest
import torch

from budget import assert_within_budget, truth
from pictures import write_folder
from regard.errors import BrokenImageError, DataError, MissingDependencyError, OptionError
from regard.training import Classifier, embed, embedding, predict, read_image
from regard.training.prediction import write_csv


class Features(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)


def read(file):
    table = parquet.read_table(file)
    return table["path"].to_pylist(), torch.tensor(table["features"].to_pylist())


def test_the_file_holds_the_models_features(run, folder, tmp_path):
    out = tmp_path / "out.parquet"
    result = embed(run, [folder], out, batch_size=5, workers=2)
    paths, features = read(out)
    assert paths == sorted(str(path) for path in folder.rglob("*.png"))
    assert (result.file, result.images, result.channels, result.broken) == (out, 18, 128, {})
    pixels = torch.stack([run.config.preprocessing(read_image(path)) for path in paths])
    assert_within_budget(features, truth(Features(run.load_model()), pixels))
    schema = parquet.read_schema(out)
    assert str(schema.field("features").type).startswith("fixed_size_list<") and "float" in str(schema)
    stored = {name.decode(): value.decode() for name, value in schema.metadata.items()}
    assert stored["model"] == str(run.path) and stored["weights"] == str(run.path / "weights.safetensors")
    assert json.loads(stored["preprocessing"]) == json.loads(json.dumps(asdict(run.config.preprocessing)))


def test_rows_are_written_in_groups(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "ROW_GROUP", 5)
    embed(run, [folder], tmp_path / "out.parquet", batch_size=4)
    metadata = parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [5, 5, 5, 3]
    embed(run, [folder], tmp_path / "whole.parquet", batch_size=4)
    assert torch.equal(read(tmp_path / "out.parquet")[1], read(tmp_path / "whole.parquet")[1])


def test_broken_images_are_left_out(run, folder, tmp_path):
    (folder / "green" / "3.png").write_bytes(b"no image")
    result = embed(run, [folder, tmp_path / "gone.png"], tmp_path / "out.parquet", batch_size=4)
    assert result.broken == {
        folder / "green" / "3.png": "has no known image format",
        tmp_path / "gone.png": "does not exist",
    }
    paths, features = read(tmp_path / "out.parquet")
    assert len(paths) == len(features) == result.images == 17 and str(folder / "green" / "3.png") not in paths
    last = torch.from_numpy(Classifier.open(run).features(run.config.preprocessing(read_image(paths[-1]))[None])[0])
    torch.testing.assert_close(features[-1], last)


def test_only_broken_images(run, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BrokenImageError, match="2 that cannot be read"):
        embed(run, [str(tmp_path / "*.png")], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*.parquet*")) and not list(tmp_path.glob(".*"))


def test_an_earlier_file_stays_if_the_work_stops(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    out.write_text("earlier")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(run, [folder], out)
    assert out.read_text() == "earlier" and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("place", "text"), [("", "got the folder"), ("none/out.parquet", "expected a file that can be")]
)
def test_a_place_that_cannot_be_written(folder, tmp_path, monkeypatch, place, text):
    monkeypatch.setattr(Classifier, "open", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(DataError, match=text):
        embed("nat_nano", [folder], tmp_path / place, weights="timm")


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"engine": "spark"}, {"actors": 0}, {"workers": -1}, {"device": "gpu"}]
)
def test_options_out_of_range(folder, tmp_path, options):
    with pytest.raises(OptionError):
        embed("nat_nano", [folder], tmp_path / "out.parquet", weights="timm", **options)


@pytest.mark.parametrize(("module", "extra"), [("pyarrow.parquet", "embed"), ("ray.data", "ray")])
def test_missing_packages(folder, tmp_path, monkeypatch, module, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    engine = "ray" if extra == "ray" else "local"
    with pytest.raises(MissingDependencyError, match=rf"pip install 'regard\[{extra}\]'"):
        embed("nat_nano", [folder], tmp_path / "out.parquet", weights="timm", engine=engine)


def test_names_that_are_no_utf8(run, tmp_path):
    folder = write_folder(tmp_path / "photos", count=1)
    strange = folder / "red" / "\udcff.png"
    try:
        (folder / "red" / "0.png").rename(strange)
    except OSError:
        pytest.skip("the file system allows UTF-8 only")
    embed(run, [folder], tmp_path / "out.parquet")
    assert read(tmp_path / "out.parquet")[0][-1] == str(folder / "red" / "?.png")
    write_csv(predict(run, [folder]), tmp_path / "out.csv")  # keeps the bytes
    assert b"red/\xff.png" in (tmp_path / "out.csv").read_bytes()
