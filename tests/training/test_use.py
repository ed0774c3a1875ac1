"""Evaluation and prediction agree with the model, and reject unsuitable input."""

import csv
from pathlib import Path

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F

from budget import assert_within_budget, truth
from pictures import write_folder
from regard.errors import BrokenImageError, DataError, OptionError
from regard.training import Prediction, evaluate, open_source, predict, read_image
from regard.training.prediction import write_csv
from training.test_confusion import brute_force_ece


class MeanLoss(nn.Module):
    def __init__(self, model, labels):
        super().__init__()
        self.model, self.labels = model, labels

    def forward(self, pixels):
        return -F.log_softmax(self.model(pixels), -1).gather(1, self.labels[:, None]).mean()


def read(run, images):
    return torch.stack([run.config.preprocessing(read_image(image)) for image in images])


def test_evaluate_agrees_with_the_model(run, folder):
    images, labels = zip(*open_source(folder).val, strict=True)
    pixels, labels = read(run, images), torch.tensor(labels)
    model = run.load_model()
    with torch.inference_mode():
        correct = model(pixels).argmax(1) == labels
    score = evaluate(run.path, batch_size=2)
    assert score.images == len(images) and score.top1 == correct.float().mean().item()
    assert score.images_per_second > 0 and score.knn is None
    assert_within_budget(torch.tensor(score.loss), truth(MeanLoss(model, labels), pixels))


def test_evaluate_again_is_the_same(run):
    assert evaluate(run) == evaluate(run, workers=1, device="cpu")


def test_evaluate_with_other_batches(run):
    one, all_at_once = (evaluate(run, batch_size=size) for size in (1, 64))
    assert one.top1 == all_at_once.top1 and one.ece == pytest.approx(all_at_once.ece, abs=1e-5)
    assert (one.confusion.counts == all_at_once.confusion.counts).all()


def test_calibration_and_confusions_agree_with_the_model(run, folder):
    images, labels = map(list, zip(*open_source(folder).val, strict=True))
    with torch.inference_mode():
        probabilities = run.load_model()(read(run, images)).softmax(-1)
    confidences, predictions = probabilities.max(-1)
    score = evaluate(run)
    assert (score.confusion.counts[:, :-1] == confusion_matrix(labels, predictions, labels=range(3))).all()
    assert score.ece == pytest.approx(
        brute_force_ece(confidences.tolist(), (predictions == torch.tensor(labels)).tolist())
    )


@pytest.mark.parametrize("neighbors", [1, 3])
def test_neighbors_agree_with_brute_force(run, folder, neighbors):
    source = open_source(folder)
    sides = [map(list, zip(*side, strict=True)) for side in (source.train, source.val)]
    (train, train_labels), (test, labels) = sides
    model = run.load_model()
    with torch.inference_mode():
        known, asked = (
            F.normalize(model.forward_head(model.forward_features(read(run, side)), pre_logits=True), dim=1)
            for side in (train, test)
        )
    nearest = (asked @ known.T).topk(neighbors).indices
    votes = torch.tensor(train_labels)[nearest].mode(dim=1).values
    assert evaluate(run, knn=neighbors).knn == (votes == torch.tensor(labels)).float().mean().item()


@pytest.mark.parametrize("knn", [0, 10**6])
def test_a_number_of_neighbors_out_of_range(run, knn):
    with pytest.raises(OptionError, match=rf"knn must be from 1 to the 1\d training images, got {knn}"):
        evaluate(run, knn=knn)


def test_neighbors_need_training_images(run, tmp_path):
    with pytest.raises(DataError, match="expected training images for knn, got none; name a folder with train/"):
        evaluate(run, write_folder(tmp_path / "more"), knn=1)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": -1}, {"device": "tpu"}, {"weights": "timm"}])
def test_evaluate_with_options_out_of_range(run, options):
    with pytest.raises(OptionError):
        evaluate(run, **options)


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


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 2), (64, 0)])
def test_predictions_keep_the_order(run, folder, tmp_path, batch_size, workers):
    images = [folder / color / f"{index}.png" for index in range(3) for color in ("red", "green", "blue")]
    images.insert(4, tmp_path / "gone.png")
    predictions = predict(run, images, batch_size=batch_size, workers=workers)
    assert [prediction.image for prediction in predictions] == images
    for image, prediction in zip(images, predictions, strict=True):
        (alone,) = predict(run, [image, images[0]])[:1]
        assert str(prediction.error) == str(alone.error)
        assert dict(prediction.classes) == pytest.approx(dict(alone.classes), abs=1e-5)


def test_predict_no_image(run):
    assert predict(run, []) == []


def test_predictions_are_written_as_csv(tmp_path):
    error = BrokenImageError({Path("bad, or not.png"): "is empty"})
    predictions = [
        Prediction(Path('a "b".png'), (("tench, Tinca tinca", 0.1 + 0.2), ("cat", 1e-9))),
        Prediction(Path("bad, or not.png"), error=error),
    ]
    write_csv(predictions, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["image"] == 'a "b".png' and first["error"] == "" and first["class_1"] == "tench, Tinca tinca"
    assert [float(first[f"probability_{rank}"]) for rank in (1, 2)] == [0.1 + 0.2, 1e-9]
    assert second["image"] == "bad, or not.png" and second["error"] == str(error) and second["class_1"] == ""


@pytest.mark.parametrize("kind", [str, Path])
def test_predict_one_file_instead_of_a_list(run, kind):
    with pytest.raises(TypeError, match=r"list of files, got 'a\.png'; pass a list: \['a\.png'\]"):
        predict(run, kind("a.png"))
