"""Evaluation and prediction agree with the model itself, and refuse what does not fit."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pictures import write_folder
from regard.errors import DataError, OptionError
from regard.training import evaluate, open_source, predict, read_image


def direct(run, images):
    pixels = torch.stack([run.config.preprocessing(read_image(image)) for image in images])
    with torch.inference_mode():
        return run.load_model()(pixels)


def test_evaluate_agrees_with_the_model(run, folder):
    images, labels = zip(*open_source(folder).test, strict=True)
    labels = torch.tensor(labels)
    logits = direct(run, images)
    score = evaluate(run.path)
    assert score.images == len(images) and score.top1 == (logits.argmax(1) == labels).float().mean().item()
    rounding = 8 * torch.finfo(torch.float32).eps * logits.abs().max().item()
    assert abs(score.loss - F.cross_entropy(logits, labels).item()) <= rounding


def test_evaluate_again_is_the_same(run):
    assert evaluate(run) == evaluate(run)


def test_evaluate_on_all_of_another_folder(run, tmp_path):
    assert evaluate(run, write_folder(tmp_path / "more", count=2)).images == 6


def test_evaluate_on_its_own_folder_keeps_to_the_test_images(run, folder):
    assert evaluate(run, folder) == evaluate(run)


def test_evaluate_on_other_classes(run, tmp_path):
    folder = write_folder(tmp_path / "more", classes=("blue", "green"))
    with pytest.raises(DataError, match=r"in the data the same classes as the run's.*missing 'red', unknown none"):
        evaluate(run, folder)


def test_evaluate_with_an_unreadable_image(run, tmp_path):
    folder = write_folder(tmp_path / "more", count=2)
    (folder / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/0\.png"):
        evaluate(run, folder)


def test_predict_agrees_with_the_model(run, folder):
    images = [folder / "red" / "0.png", folder / "blue" / "1.png"]
    predictions = predict(run.path, images, top=2)
    for image, prediction in zip(images, predictions, strict=True):
        best = direct(run, [image]).softmax(-1)[0].topk(2)
        assert prediction.image == image and prediction.error is None
        assert [name for name, _ in prediction.classes] == [run.config.classes[index] for index in best.indices]
        assert [probability for _, probability in prediction.classes] == best.values.tolist()


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
