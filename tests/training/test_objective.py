"""The loss, what is trained, and the teacher: against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from regard.errors import DataError, OptionError, UnsupportedError
from regard.models import Preprocessing, create_model
from regard.training import Run, TrainConfig, Watcher, evaluate, resolve, resume, train
from regard.training.checkpoints import load_last
from regard.training.objective import Objective, Teacher, balanced_weights, open_teacher
from regard.training.optimization import choose_trained, make_optimizer, set_training

PLACE = {"model": "nat_nano", "data": "digits", "out": "run"}
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SECOND = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
TAUGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def loss_of(output, weights=None, teacher=None, **settings):
    config = TrainConfig(**PLACE, label_smoothing=settings.pop("label_smoothing", 0.0), **settings)
    objective = Objective(config, 4, weights, teacher)
    return objective(lambda images: output, torch.zeros(6, 3, 2, 2), LABELS)


def test_cross_entropy_and_class_weights():
    weights = balanced_weights(LABELS.tolist(), 4)
    assert weights.tolist() == pytest.approx([0.75, 0.75, 1.5, 1.5])
    loss, logits = loss_of(LOGITS, weights)
    log = LOGITS.log_softmax(-1)[torch.arange(6), LABELS]
    expected = -(weights[LABELS] * log).sum() / weights[LABELS].sum()
    assert torch.equal(logits, LOGITS) and float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("distillation", ["hard", "soft"])
@pytest.mark.parametrize("heads", [1, 2])
def test_distillation_is_deits(distillation, heads):
    """DeiT, equations 2 and 3: with two heads, the second one alone learns from the teacher."""
    settings = {"distillation": distillation, "distill_weight": 0.3, "temperature": 3.0}
    output = LOGITS if heads == 1 else (LOGITS, SECOND)
    loss, logits = loss_of(output, teacher=lambda images: TAUGHT, **settings)
    student = LOGITS if heads == 1 else SECOND
    if distillation == "hard":
        taught = F.cross_entropy(student, TAUGHT.argmax(-1))
    else:
        own, other = student.div(3).softmax(-1), TAUGHT.div(3).softmax(-1)
        taught = 9 * (other * (other.log() - own.log())).sum() / 6
    expected = 0.7 * F.cross_entropy(LOGITS, LABELS) + 0.3 * taught
    assert torch.equal(logits, LOGITS) and float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_mixup_mixes_images_and_labels():
    config = TrainConfig(**PLACE, mixup=1.0, label_smoothing=0.0)
    seen, images = [], torch.rand(6, 3, 2, 2)
    torch.manual_seed(0)
    loss, _ = Objective(config, 4)(lambda mixed: seen.append(mixed) or LOGITS, images.clone(), LABELS)
    (mixed,) = seen
    share = ((mixed - images.flip(0)) / (images - images.flip(0))).nanmedian()
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    log = LOGITS.log_softmax(-1)
    targets = share * F.one_hot(LABELS, 4) + (1 - share) * F.one_hot(LABELS.flip(0), 4)
    assert float(loss) == pytest.approx(float(-(targets * log).sum(-1).mean()), rel=1e-4)


def test_a_teacher_sees_its_own_normalization():
    class Echo(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    own, student = Preprocessing(8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), Preprocessing(8)
    pixels = torch.rand(2, 3, 8, 8)

    def normalized(each):
        return (pixels - torch.tensor(each.mean)[:, None, None]) / torch.tensor(each.std)[:, None, None]

    teacher = Teacher(Echo(), own.mean, own.std, student).train()
    assert not teacher.training and not teacher.model.training
    torch.testing.assert_close(teacher(normalized(student)), normalized(own).mean((2, 3)))


def test_teachers_with_other_classes(run, config):
    with pytest.raises(DataError, match="expected a teacher with the 2 classes of the data, got 3 others"):
        open_teacher(run.path, ("a", "b"), Preprocessing(8))
    with pytest.raises(OptionError, match="unknown teacher 'resnet81'; did you mean"):
        open_teacher("resnet81", ("a", "b"), Preprocessing(8))


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["swiftformer_nano", "deit_tiny_distilled_patch16_224"])
def test_distilling_a_run(run, config, tmp_path, model):
    """A run teaches models with two heads; in evaluation they return the mean."""
    overrides = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 8, "patch_size": 4} if "deit" in model else {}
    settings = {**config, "model": model, "out": tmp_path / "student", "teacher": run.path, "overrides": overrides}
    student = train(TrainConfig(**settings, distillation="hard"))
    assert evaluate(student).images > 0
    assert isinstance(student.load_model()(torch.zeros(1, 3, 8, 8)), torch.Tensor)


def trained_names(**settings):
    model = create_model("nat_nano", num_classes=3)
    model = choose_trained(TrainConfig(**PLACE, **settings), model)
    return model, {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_linear_probe_trains_the_classifier():
    model, names = trained_names(linear_probe=True)
    assert names == {"head.weight", "head.bias"}
    set_training(model)
    assert model.head.training and not model.levels[0].training
    optimizer = make_optimizer(TrainConfig(**PLACE), model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_frozen_stages():
    _, names = trained_names(freeze_stages=2)
    assert names and not any(name.startswith(("patch_embed", "levels.0", "levels.1")) for name in names)
    assert any(name.startswith("levels.2") for name in names) and "head.weight" in names and "norm.weight" in names
    with pytest.raises(UnsupportedError, match="at most 3 stages to freeze, got 4"):
        trained_names(freeze_stages=4)


@pytest.mark.parametrize("settings", [{"linear_probe": True}, {"freeze_stages": 2}], ids=str)
def test_what_is_frozen_stays(config, settings):
    """Weights and the statistics of batch norms."""

    class First(Watcher):
        def started(self, config, source, parameters):
            self.state = Run.open(config.out).load_model().state_dict()

    watcher = First()
    run = train(TrainConfig(**{**config, "model": "swiftformer_nano"}, **settings), watcher=watcher)
    after = load_last(run.path)["model"]
    changed = {name for name in after if not torch.equal(after[name], watcher.state[name])}
    assert changed and all(
        name.startswith(("head", "dist_head", "norm", "stages.2", "network.4")) for name in changed
    ), changed


def test_decay_by_layer():
    config = TrainConfig(**PLACE, layer_decay=0.5)
    optimizer = make_optimizer(config, create_model("nat_nano", num_classes=3))
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert max(scales) == 1.0 and min(scales) <= 0.5 ** len(create_model("nat_nano").levels)


@pytest.mark.exhaustive
def test_low_rank_updates(config, tmp_path):
    """The result is an ordinary model, and a resumed run equals one that was not stopped."""
    first = train(TrainConfig(**{**config, "out": tmp_path / "first"}))
    settings = {**config, "weights": first.path, "lora_rank": 2, "lr": 0.01}
    run = train(TrainConfig(**settings))
    before, after = first.load_model().state_dict(), run.load_model().state_dict()
    assert before.keys() == after.keys()
    change = after["levels.0.blocks.0.attn.qkv.weight"] - before["levels.0.blocks.0.attn.qkv.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2
    assert torch.equal(after["levels.0.blocks.0.norm1.weight"], before["levels.0.blocks.0.norm1.weight"])
    assert resume(run).unfinished() is None


def test_starting_from_a_run(run, config, tmp_path):
    class First(Watcher):
        def started(self, config, source, parameters):
            self.state = Run.open(config.out).load_model().state_dict()

    watcher = First()
    train(TrainConfig(**{**config, "out": tmp_path / "next", "weights": run.path, "seed": 7}), watcher=watcher)
    old = run.load_model().state_dict()
    equal = {name for name in old if torch.equal(old[name], watcher.state[name])}
    assert equal == {name for name in old if not name.startswith("head.")} | (equal & {"head.bias"})


def test_finetune_recipe_is_layered():
    found = resolve("finetune", **PLACE, epochs=3)
    assert found.config.layer_decay == 0.75 and found.config.epochs == 3
    assert found.origins["layer_decay"] == "finetune" and found.origins["epochs"] == "option"


@pytest.mark.exhaustive
def test_the_average_is_the_result(config):
    run = train(TrainConfig(**config, ema_decay=0.9))
    state, weights = load_last(run.path), run.load_model().state_dict()
    assert run.metrics()[-1]["is_best"], "the last epoch must be the best one here"
    assert all(torch.equal(weights[name], state["average"][name]) for name in weights)
    assert any(not torch.equal(weights[name], state["model"][name]) for name in weights)


def test_accumulated_steps_equal_a_larger_batch(config, tmp_path):
    """Two steps of four images change weights as one of eight does; nat_nano has no batch norms."""
    settings = {
        "overrides": {"drop_path_rate": 0.0},
        "epochs": 1,
        "warmup_epochs": 0,
        "color_jitter": 0.0,
        "opt": "sgd",
        "lr": 0.1,
    }
    one = train(TrainConfig(**{**config, **settings, "batch_size": 12, "out": tmp_path / "one"}))
    two = train(TrainConfig(**{**config, **settings, "batch_size": 6, "accumulate": 2, "out": tmp_path / "two"}))
    left, right = load_last(one.path)["model"], load_last(two.path)["model"]
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=1e-6)


def test_early_stopping(config):
    run = train(TrainConfig(**{**config, "epochs": 30, "lr": 0.0, "warmup_epochs": 0}, patience=2))
    records = run.metrics()
    assert len(records) == 3 and records[-1]["is_last"] and run.unfinished() is None


@pytest.mark.exhaustive
def test_tensorboard(config):
    run = train(TrainConfig(**config, tracker="tensorboard"))
    assert list(run.path.rglob("events.out.tfevents.*"))
