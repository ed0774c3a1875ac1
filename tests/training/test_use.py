"""Evaluation and prediction agree with the model, and reject unsuitable input."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from budget import assert_within_budget, truth
from pictures import write_folder
from regard.errors import DataError, OptionError
from regard.training import evaluate, open_source, predict, read_image


class MeanLoss(nn.Module):
    def __init__(self, model, labels):
        super().__init__()
        self.model, self.labels = model, labels

    def forward(self, pixels):
        return -F.log_softmax(self.model(pixels), -1).gather(1, self.labels[:, None]).mean()


def read(run, images):
    return torch.stack([run.config.preprocessing(read_image(image)) for image in images])


def test_evaluate_agrees_with_the_model(run, folder):
    images, labels = zip(*open_source(folder).test, strict=True)
    pixels, labels = read(run, images), torch.tensor(labels)
    model = run.load_model()
    with torch.inference_mode():
        correct = model(pixels).argmax(1) == labels
    score = evaluate(run.path)
    assert score.images == len(images) and score.top1 == correct.float().mean().item()
    assert_within_budget(torch.tensor(score.loss), truth(MeanLoss(model, labels), pixels))


def test_evaluate_again_is_the_same(run):
    assert evaluate(run) == evaluate(run)


def test_evaluate_on_all_of_another_folder(run, tmp_path):
    assert evaluate(run, write_folder(tmp_path / "more", count=2)).images == 6


def test_evaluate_on_its_own_folder_keeps_to_the_test_images(run, folder):
    assert evaluate(run, folder) == evaluate(run)


def test_evaluate_on_other_classes(run, tmp_path):
    folder = write_folder(tmp_path / "more", classes=("blue", "green"))
    with pytest.raises(DataError, match=r"in the data the 3 classes of the run, got 2: missing 'red', unknown none"):
        evaluate(run, folder)


def test_evaluate_with_an_unreadable_image(run, tmp_path):
    folder = write_folder(tmp_path / "more", count=2)
    (folder / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/0\.png"):
        evaluate(run, folder)


def test_predict_agrees_with_the_model(run, folder):
    images = [folder / "red" / "0.png", folder / "blue" / "1.png"]
    probabilities = nn.Sequential(run.load_model(), nn.Softmax(-1))
    for image, prediction in zip(images, predict(run.path, images), strict=True):
        assert prediction.image == image and prediction.error is None
        predicted = dict(prediction.classes)
        assert list(predicted.values()) == sorted(predicted.values(), reverse=True)
        in_order = torch.tensor([[predicted[name] for name in run.config.classes]])
        assert_within_budget(in_order, truth(probabilities, read(run, [image])))


def test_predict_the_top_classes(run, folder):
    image = folder / "red" / "0.png"
    best, every = predict(run, [image], top=2)[0], predict(run, [image])[0]
    assert [name for name, _ in best.classes] == [name for name, _ in every.classes[:2]]


def test_predict_all_classes(run, folder):
    (prediction,) = predict(run, [folder / "red" / "0.png"])
    assert {name for name, _ in prediction.classes} == set(run.config.classes)
    total = sum(probability for _, probability in prediction.classes)
    assert abs(total - 1) <= 4 * torch.finfo(torch.float32).eps


def test_predict_the_good_ones_among_bad_ones(run, folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    first, bad, last = predict(run, [folder / "red" / "0.png", tmp_path / "bad.png", folder / "blue" / "0.png"])
    assert first.classes and last.classes and first.error is last.error is None
    assert bad.classes == () and isinstance(bad.error, DataError) and "bad.png" in str(bad.error)


def test_predict_no_class(run):
    with pytest.raises(OptionError, match="top must be at least 1, got 0"):
        predict(run, [], top=0)


@pytest.mark.parametrize("kind", [str, Path])
def test_predict_one_file_instead_of_a_list(run, kind):
    with pytest.raises(TypeError, match=r"list of files, got 'a\.png'; pass a list: \['a\.png'\]"):
        predict(run, kind("a.png"))
