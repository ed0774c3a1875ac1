"""A model with a checkpoint is evaluated like that of a run, and ImageNet's classes are found by their names."""

import numpy as np
import pytest
import timm
import torch
from timm.data import ImageNetInfo

from pictures import write_folder
from regard.errors import CheckpointError, DataError, OptionError, UnsupportedError
from regard.models import Preprocessing, create_model, save_weights
from regard.training import Classifier, Run, embed, evaluate, predict, read_image
from regard.training.imagenet import class_aliases, class_names

TIMM_ONLY = "resnet10t"


def weights_of(folder, num_classes=1000, seed=0, name="nat_nano"):
    torch.manual_seed(seed)
    model = create_model(name, num_classes=num_classes)
    with torch.no_grad():
        model.head.weight.mul_(50)  # so that predictions differ
    save_weights(model, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.fixture
def weights(tmp_path):
    return weights_of(tmp_path)


def test_names_of_imagenet():
    names, aliases, info = class_names(1000), class_aliases(1000), ImageNetInfo()
    assert len(set(names)) == 1000
    for index, synset in enumerate(info.label_names()):
        assert aliases[synset] == index and info.index_to_description(index) in names[index]
        assert aliases[names[index].casefold()] == index
    assert aliases["great white shark"] == aliases["man-eater"] == 2
    assert "panther" not in aliases  # both a jaguar and a leopard
    assert len(class_names(21841)) == 21841 and class_names(17) is None and class_aliases(17) == {}


def test_published_names_are_imagenets(weights, tmp_path):
    folder = write_folder(tmp_path / "data")
    classifier = Classifier.open("nat_nano", weights)
    assert classifier.classes == class_names(1000) and classifier.weights == str(weights)
    (prediction,) = predict(classifier, [folder / "red" / "0.png"], top=1)
    with torch.inference_mode():
        pixels = Preprocessing(8)(read_image(folder / "red" / "0.png"))[None]
        best = create_model("nat_nano", weights=weights).eval()(pixels).argmax().item()
    assert prediction.classes[0][0] == class_names(1000)[best]


@pytest.mark.parametrize(
    "names", [("n01440764", "n01443537", "n01484850"), ("tench", "goldfish, Carassius auratus", "Great_White_Shark")]
)
def test_a_part_of_imagenet(weights, tmp_path, names):
    folder = write_folder(tmp_path / "data", count=4)
    for color, name in zip(("blue", "green", "red"), names, strict=True):
        (folder / color).rename(folder / name)
    classifier = Classifier.open("nat_nano", weights)
    score = evaluate(classifier, folder, batch_size=5)
    order = sorted(range(3), key=names.__getitem__)  # that of the folders
    with torch.inference_mode():
        logits = torch.cat(
            [
                classifier.logits(
                    torch.stack([Preprocessing(8)(read_image(folder / name / f"{i}.png")) for i in range(4)])
                )
                for name in sorted(names)
            ]
        )
    labels = torch.tensor(order).repeat_interleave(4)
    assert score.images == 12 and score.top1 == (logits.argmax(1) == labels).float().mean().item()
    assert score.top5 == (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    assert score.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert [each.name.split(",")[0] for each in score.classes] == ["tench", "goldfish", "great white shark"]
    assert score.confusion.counts.sum() == 12 and score.confusion.counts.shape == (3, 4)
    assert score.confusion.classes == tuple(class_names(1000)[index] for index in order)
    for row, label in enumerate(order):
        inside = [(logits[labels == label].argmax(1) == column).sum().item() for column in order]
        assert score.confusion.counts[row].tolist() == [*inside, 4 - sum(inside)]


def test_classes_that_imagenet_lacks(weights, tmp_path):
    folder = write_folder(tmp_path / "data")
    (folder / "blue").rename(folder / "tensh")
    (folder / "green").rename(folder / "goldfish")
    with pytest.raises(DataError, match=r"got 2 that it lacks: 'red' .*'tensh' \(nearest: .*\btench\b"):
        evaluate("nat_nano", folder, weights=weights)


def test_two_folders_of_one_class(weights, tmp_path):
    folder = write_folder(tmp_path / "data")
    for color, name in (("blue", "tench"), ("green", "n01440764"), ("red", "goldfish")):
        (folder / color).rename(folder / name)
    with pytest.raises(DataError, match=r"one folder per class, got several for 'tench, Tinca tinca'"):
        evaluate("nat_nano", folder, weights=weights)


def test_a_checkpoint_without_names_takes_the_order_of_the_folders(tmp_path):
    weights, folder = weights_of(tmp_path, num_classes=3), write_folder(tmp_path / "data")
    classifier = Classifier.open("nat_nano", weights)
    assert classifier.classes == ("0", "1", "2")
    named = Classifier.open("nat_nano", weights, classes=["blue", "green", "red"])
    assert evaluate(classifier, folder).top1 == evaluate(named, folder).top1
    turned = Classifier.open("nat_nano", weights, classes=["red", "blue", "green"])
    assert turned.find(["blue", "green", "red"]) == (1, 2, 0)
    with pytest.raises(
        DataError, match=r"3 classes in the data, since nat_nano has as many without names, got 2; .*--classes"
    ):
        evaluate(classifier, write_folder(tmp_path / "two", classes=("blue", "red")))


def test_a_wrong_number_of_names(tmp_path):
    with pytest.raises(OptionError, match="expected 3 different names for the classes of nat_nano, got 2"):
        Classifier.open("nat_nano", weights_of(tmp_path, num_classes=3), classes=["a", "b"])


def test_a_model_that_only_timm_has(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(TIMM_ONLY, num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    folder = write_folder(tmp_path / "data", count=2)
    classifier = Classifier.open(TIMM_ONLY, tmp_path / "net.pth")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = read_image(folder / "red" / "0.png").resize((300, 280))
    assert classifier.preprocessing(image).shape == transform(image).shape
    assert (classifier.preprocessing(image) - transform(image)).abs().max() < 0.05  # one 8-bit step
    pixels = torch.stack([classifier.preprocessing(read_image(folder / "red" / f"{index}.png")) for index in range(2)])
    with torch.inference_mode():
        assert torch.equal(classifier.logits(pixels), model(pixels))
        assert np.array_equal(
            classifier.features(pixels), model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()
        )
    assert evaluate(classifier, folder).images == 6


def test_models_without_a_classifier_embed_only(tmp_path):
    weights, folder = weights_of(tmp_path), write_folder(tmp_path / "data")
    model = create_model("nat_nano", weights=weights, num_classes=0)
    save_weights(model, tmp_path / "bare.safetensors")
    classifier = Classifier.open("nat_nano", tmp_path / "bare.safetensors")
    assert embed(classifier, [folder], tmp_path / "out.parquet").images == 18
    for use in (lambda: predict(classifier, [folder]), lambda: evaluate(classifier, folder)):
        with pytest.raises(UnsupportedError, match="expected a model with a classifier, got nat_nano"):
            use()


def test_what_cannot_be_opened(weights, run, tmp_path, monkeypatch):
    refused = {
        ("nat_mimi", weights): (OptionError, "unknown model 'nat_mimi'; did you mean 'nat_mini'"),
        ("nat_mimi", None): (OptionError, "unknown run or model 'nat_mimi'; did you mean 'nat_mini'"),
        ("nat_mini", None): (OptionError, r"expected weights of nat_mini, got none; add --weights .*official"),
        ("nat_mini", "timn"): (OptionError, "unknown weights of nat_mini 'timn'"),
        ("swiftformer_xs", weights): (CheckpointError, "a Nat checkpoint"),
        (TIMM_ONLY, weights): (CheckpointError, "Nat checkpoint"),
        (TIMM_ONLY, "hf"): (OptionError, f"unknown weights of {TIMM_ONLY} 'hf'"),
        (run.path, weights): (OptionError, "a run has its own weights"),
        (tmp_path / "none", None): (DataError, "expected the folder of a training run"),
    }
    for (model, source), (kind, text) in refused.items():
        with pytest.raises(kind, match=text):
            Classifier.open(model, source)


def test_timms_weights_cannot_be_downloaded(monkeypatch):

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match="expected timm's weights of resnet10t, got OSError: no route to host"):
        Classifier.open(TIMM_ONLY, "timm")


def test_data_are_needed_for_a_model(weights):
    with pytest.raises(OptionError, match="expected data to evaluate nat_nano on, got none; add --data"):
        evaluate("nat_nano", weights=weights)


def test_missing_data_are_found_before_the_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(Classifier, "open", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(DataError, match="which does not exist"):
        evaluate("nat_nano", tmp_path / "none", weights="timm")
    with pytest.raises(DataError, match="expected images"):
        predict("nat_nano", [str(tmp_path / "*.png")], weights="timm")


def test_a_run_is_opened_by_object_or_by_folder(run):
    by_folder, by_object = Classifier.open(run.path), Classifier.open(Run.open(run.path))
    assert by_folder.classes == by_object.classes == run.config.classes
    assert by_folder.weights == str(run.path / "weights.safetensors")
