"""Calibration error and confusion matrices agree with counting by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from regard.errors import OptionError
from regard.training.calibration import expected_calibration_error
from regard.training.confusion import check_picture, count, draw, reduce_blocks, shorten


def brute_force_ece(confidences, correct, bins=15):
    """Sum over bins (k / bins, (k + 1) / bins] of |accuracy - mean confidence|, weighted by the bin's images."""
    total = 0.0
    for place in range(bins):
        inside = [i for i, each in enumerate(confidences) if place / bins < each <= (place + 1) / bins]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_against_brute_force(bins):
    noise = np.random.default_rng(0)
    confidences = noise.uniform(0.1, 1, 500).astype(np.float32)
    confidences[:4] = 1.0
    correct = noise.random(500) < confidences**2
    expected = brute_force_ece(confidences.astype(float).tolist(), correct.tolist(), bins)
    assert expected > 0.05
    assert expected_calibration_error(confidences, correct, bins) == pytest.approx(expected, rel=1e-9)


def test_calibration_error_of_perfect_and_of_wrong_confidence():
    sure = np.ones(8)
    assert expected_calibration_error(sure, np.ones(8, bool)) == 0
    assert expected_calibration_error(sure, np.zeros(8, bool)) == 1


def draw_labels(classes, images=300):
    noise = np.random.default_rng(0)
    return noise.integers(0, classes, images), noise.integers(0, classes + 1, images)


def test_counts_against_scikit_learn():
    labels, predictions = draw_labels(4)
    confusion = count(labels, predictions, "abcd")
    assert (confusion.counts == confusion_matrix(labels, predictions, labels=range(5))[:4]).all()
    errors = confusion.errors()
    assert [images for *_, images in errors] == sorted((images for *_, images in errors), reverse=True)
    assert sum(images for *_, images in errors) == (labels != predictions).sum()
    assert ("a", "other", ((labels == 0) & (predictions == 4)).sum()) in errors
    assert all(name != predicted for name, predicted, _ in errors)


@pytest.mark.parametrize("classes", [2, 40, 1000])
def test_matrices_of_all_sizes_are_drawn(tmp_path, classes):
    labels, predictions = draw_labels(classes)
    file = tmp_path / "matrix.unfinished"
    draw(count(labels, predictions, [f"class {index}, of many" for index in range(classes)]), "title", file)
    image = Image.open(file)
    assert image.format == "PNG" and min(image.size) >= 500 and max(image.size) <= 2200
    assert len(image.convert("RGB").getcolors(10**7)) > 20  # more than an empty plot


def test_single_confusions_of_many_classes_survive_reduction():
    cells = np.zeros((7, 5))
    cells[6, 3] = 0.5
    assert reduce_blocks(cells, 3).tolist() == [[0, 0], [0, 0], [0, 0.5]]


def test_long_names_are_cut():
    assert shorten("a" * 30) == "a" * 23 + "…"


def test_pictures_of_an_unknown_format():
    check_picture(Path("a.PDF"))
    with pytest.raises(OptionError, match=r"expected a picture.s suffix, such as \.png, \.pdf or \.svg, got 'a\.txt'"):
        check_picture(Path("a.txt"))
