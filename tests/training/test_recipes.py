"""Recipes: each gives a valid config, says where its values come from, and combines with files and options."""

import json

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from regard.cli import app
from regard.errors import DataError, OptionError
from regard.models import MODELS
from regard.training import RECIPES, Run, TrainConfig, resolve
from regard.training.augmentation import augmentation
from regard.training.config import FIELDS, PLACES
from regard.training.recipes import recipe_settings
from regard.training.setup import Preprocessing

PLACE = {"model": "nat_nano", "data": "digits", "out": "runs/a"}
MADE_FOR = {
    "swiftformer_in1k": "swiftformer_l1",
    "mobilevitv2_in1k": "mobilevitv2_200",
    "nat_in1k": "nat_tiny",
    "cait_in1k": "cait_s24_224",
    "swin_in1k": "swin_tiny_patch4_window7_224",
    "deit_in1k": "deit_small_patch16_224",
}
IMAGES_PER_STEP = {"swiftformer_in1k": 2048}
DEIT_TEACHER = "regnety_160-a5fe301d.pth"


def call(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def settings_shown(*arguments):
    """The lines of the first table that --show-recipe prints, as setting: (value, origin)."""
    table, _, _ = call("train", "--show-recipe", *arguments).stdout.partition("\n\n")
    rows = [line.split("\t") for line in table.splitlines()]
    assert rows[0] == ["setting", "value", "from"]
    return {name: (value, origin) for name, value, origin in rows[1:]}


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_resolve(name):
    recipe = RECIPES[name]
    found = resolve(name, **PLACE)
    assert recipe.purpose and set(recipe.settings) <= set(FIELDS) - set(PLACES)
    assert found.config.recipe == name
    assert set(found.origins) == set(FIELDS)
    for field, origin in found.origins.items():
        expected = "option" if field in PLACE else name if field in recipe.settings else "default"
        assert origin == expected, field
    for field, value in recipe.settings.items():
        assert getattr(found.config, field) == value


@pytest.mark.parametrize("name", RECIPES)
def test_values_of_recipes_have_the_type_of_the_field(name):
    """`1` for a float would be shown, stored and compared as another value than `1.0`."""
    defaults = TrainConfig(**PLACE)
    for field, value in RECIPES[name].settings.items():
        default = getattr(defaults, field)
        assert default is None or type(value) is type(default), field


@pytest.mark.parametrize("name", MADE_FOR)
def test_published_recipes(name):
    config = resolve(name, **{**PLACE, "model": MADE_FOR[name]}).config
    assert 8 * config.batch_size * config.accumulate == IMAGES_PER_STEP.get(name, 1024)
    assert "arXiv" in RECIPES[name].source and config.warmup_epochs < config.epochs
    assert config.image_size in (None, MODELS[config.model].image_size)
    assert config.last_lr == config.min_lr


@pytest.mark.parametrize("name", MADE_FOR)
def test_augmentation_of_recipes(name):
    for options in ({}, {"auto_augment": ""}):  # as SwiftFormer-XS is trained
        transform = augmentation(Preprocessing(32), resolve(name, **PLACE, **options).config)
        image = transform(Image.new("RGB", (48, 40), "orange"))
        assert image.shape == (3, 32, 32) and torch.isfinite(image).all()
        assert ("RandAugment" in repr(transform)) == (not options)
        assert ("ColorJitter" in repr(transform)) == bool(options)


def test_teacher_of_swiftformer():
    """timm's default weights of the name without a tag are those of another training."""
    teacher = RECIPES["swiftformer_in1k"].settings["teacher"]
    assert timm.is_model(teacher)
    assert timm.get_pretrained_cfg(teacher).url.endswith(DEIT_TEACHER)
    assert teacher in RECIPES["deit_in1k"].purpose


def test_options_win_over_file_over_recipe_over_default(toml):
    path = toml('recipe = "finetune"\nlr = 5e-4\nepochs = 7\ndata = "photos"\n')
    found = resolve(path, model="nat_mini", out="run", epochs=9)
    values = {name: (getattr(found.config, name), found.origins[name]) for name in FIELDS}
    assert values["epochs"] == (9, "option")
    assert values["lr"] == (5e-4, "mine.toml")
    assert values["data"] == ("photos", "mine.toml")
    assert values["layer_decay"] == (0.75, "finetune")
    assert values["seed"] == (0, "default")
    assert found.config.recipe == str(path)
    assert RECIPES["finetune"].settings["epochs"] == 20  # not changed by either


def test_a_file_without_a_recipe(toml):
    found = resolve(toml("lr = 0.5\n[overrides]\nembed_dim = 8\n"), **PLACE)
    assert (found.config.lr, found.config.overrides) == (0.5, {"embed_dim": 8})
    assert found.origins["lr"] == found.origins["overrides"] == "mine.toml"


def test_files_of_files(toml, tmp_path):
    base = tmp_path / "base.toml"
    base.write_text('recipe = "digits"\nlr = 0.1\nseed = 3\n')
    found = resolve(toml(f'recipe = "{base}"\nlr = 0.2\n'), **PLACE)
    origins = {name: found.origins[name] for name in ("lr", "seed", "epochs")}
    assert origins == {"lr": "mine.toml", "seed": "base.toml", "epochs": "digits"}


def test_no_recipe():
    found = resolve(**PLACE)
    assert found.config == TrainConfig(**PLACE) and found.config.recipe is None
    assert set(found.origins.values()) == {"default", "option"}


def test_unknown_names(toml):
    with pytest.raises(OptionError, match=r"in option, got 'epoch' \(did you mean 'epochs'\?\), 'zzz';"):
        resolve("finetune", **PLACE, epoch=3, zzz=1)
    path = toml("weight_decoy = 0.1\n")
    with pytest.raises(OptionError, match=rf"in {path}, got 'weight_decoy' \(did you mean 'weight_decay'\?\)"):
        resolve(path, **PLACE)
    with pytest.raises(OptionError, match="swin_in1k"):
        resolve("swin_in1", **PLACE)
    with pytest.raises(OptionError, match="finetune"):
        resolve(toml('recipe = "finetun"\n'), **PLACE)


def test_wrong_values(toml, tmp_path):
    with pytest.raises(OptionError, match="none for data, out; give them"):
        resolve("digits", model="nat_nano")
    with pytest.raises(OptionError, match="epochs must be"):
        resolve(toml('epochs = "many"\n'), **PLACE)
    with pytest.raises(DataError, match=r"expected a TOML file with settings in .*mine\.toml"):
        resolve(toml("epochs = \n"), **PLACE)
    with pytest.raises(DataError, match=r"none\.toml"):
        resolve(tmp_path / "none.toml", **PLACE)


@pytest.mark.parametrize("name", ["finetune", "linear_probe", "lora"])
def test_fine_tuning_starts_from_weights_of_any_family(name):
    """The word stands for whatever a family has: NAT has none from timm, SwiftFormer's own need a browser."""
    assert RECIPES[name].settings["weights"] == "published"
    with_weights = [each.weights.values() for each in MODELS.values() if each.weights]
    assert all(any(not each.source.startswith("drive://") for each in found) for found in with_weights)


def test_a_run_is_a_recipe(run, tmp_path):
    found = resolve(run.path, out=tmp_path / "again")
    first = Run.open(run.path).config
    assert found.config.model == first.model and str(found.config.data) == first.data
    again = json.loads(json.dumps(recipe_settings(found.config), default=str))
    assert again == first.recipe
    assert found.origins["epochs"] == found.origins["data"] == found.origins["lr"] == str(run.path)
    assert found.origins["out"] == "option"
    assert resolve(run.path, out=tmp_path / "again", lr=0.5).config.lr == 0.5


def test_a_run_with_overrides_is_a_recipe(tmp_path):
    stored = {"recipe": {"lr": 0.25}, "model": "nat_nano", "data": "digits", "overrides": {"embed_dim": 8}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    found = resolve(tmp_path, out="again")
    assert (found.config.lr, found.config.overrides) == (0.25, {"embed_dim": 8})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="expected the config of a run"):
        resolve(tmp_path, out="again")


def test_show_recipe_prints_values_and_origins(toml):
    path = toml('recipe = "swin_in1k"\nlr = 5e-4\n')
    shown = settings_shown("--recipe", path, "--epochs", 30)
    assert "model" not in shown and "data" not in shown and "out" not in shown
    assert shown["epochs"] == ("30", "option")
    assert shown["lr"] == ("0.0005", "mine.toml")
    assert shown["clip_grad"] == ("5.0", "swin_in1k")
    assert shown["opt"] == ("adamw", "")
    assert shown["clip_mode"] == ("norm", "")
    assert settings_shown("--model", "nat_mini")["model"] == ("nat_mini", "option")


def test_show_recipe_lists_the_recipes_and_trains_nothing(tmp_path):
    printed = call("train", "--show-recipe", "--out", tmp_path / "run").stdout
    _, _, recipes = printed.partition("\n\n")
    names = [line.split("\t")[0] for line in recipes.splitlines()]
    assert names == ["recipe", *RECIPES]
    assert not (tmp_path / "run").exists()


def test_show_recipe_of_wrong_options():
    assert "'swin_in1k'" in call("train", "--show-recipe", "--recipe", "swin_in1", code=2).stderr
