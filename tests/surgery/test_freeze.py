"""`freeze`: the fastest candidate whose outputs agree, and what happens where a candidate cannot be built."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._inductor import config

import regard
from budget import assert_within_budget
from regard.attention import EfficientAdditiveAttention
from regard.errors import OptionError, UnsupportedError
from regard.surgery.freezing import compiler, trial
from regard.timing import Times
from tests.surgery.models import build, image, truth_of, truth_of_build

NAMES = ("original", "fused", "compiled")
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(*more):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(2), *more, nn.Linear(36, 5))
    return nn.Sequential(*layers).eval()


def freeze(model, example=X, **options):
    return regard.freeze(model, example, seconds=0.01, **options)


def problem_of(frozen, name):
    return next(one.problem for one in frozen.report.candidates if one.name == name)


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def compiled_calls(monkeypatch):
    """Replace the compiler by the identity, and list the calls of what it returns."""
    calls = []

    def compile_ahead(model, args, kwargs):
        def program(*args, **kwargs):
            calls.append((args, kwargs))
            return model(*args, **kwargs)

        return program

    monkeypatch.setattr(compiler, "compile_ahead", compile_ahead)
    return calls


@pytest.fixture
def prefer(monkeypatch):
    """Return a function that makes one candidate the fastest."""

    def choose(name):
        def time_in_turn(calls, seconds):
            return {one: Times((1e-3 * {"original": 1.0, name: 0.5}.get(one, 2.0),)) for one in calls}

        monkeypatch.setattr(trial, "time_in_turn", time_in_turn)

    return choose


# What is kept


@pytest.mark.parametrize("name", NAMES)
def test_the_fastest_is_kept(name, compiled_calls, prefer):
    prefer(name)
    model = network()
    frozen = freeze(model)
    assert [one.name for one in frozen.report.candidates] == list(NAMES)
    assert frozen.report.chosen == name
    assert str(frozen.report).startswith(f"chosen    {name}")
    assert "float32 [4, 3, 8, 8]" in repr(frozen)
    compiled_calls.clear()
    assert_within_budget(frozen(X), truth_of(model, X))
    assert bool(compiled_calls) == (name == "compiled")
    assert (frozen.model is model) == (name != "fused")


def test_measured_times_are_reported(compiled_calls):
    report = freeze(network()).report
    assert all(one.milliseconds > 0 for one in report.candidates)
    assert min(report.candidates, key=lambda one: one.ratio).name == report.chosen
    assert all(one.difference <= one.tolerance and one.agreement == 1.0 for one in report.candidates[1:])
    assert report.fuse.folded


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda out: out * 1.01, "outputs differ by 1.0e-02"),
        (lambda out: out[:1], "outputs differ by inf"),
        (lambda out: out / 0, "outputs differ by inf"),
    ],
    ids=["values", "shape", "infinite"],
)
def test_other_outputs_are_refused(change, problem, monkeypatch, prefer):
    prefer("compiled")
    monkeypatch.setattr(compiler, "compile_ahead", lambda model, *_: lambda x: change(model(x)))
    frozen = freeze(network())
    assert frozen.report.chosen == "original"
    assert problem_of(frozen, "compiled").startswith(problem)


def test_models_that_cannot_be_compared_stay(compiled_calls):
    class Counting(nn.Identity):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    zero = network()
    nn.init.zeros_(zero[-1].weight)
    nn.init.zeros_(zero[-1].bias)
    for model, reason in (
        (zero, "the original's outputs are all zero"),
        (network(nn.Threshold(0, torch.inf)), "the original's outputs are not finite"),
        (network(Counting().eval()), "the original does not repeat its own outputs"),
    ):
        frozen = freeze(model)
        assert frozen.report.notes == (f"nothing was tried: {reason}",)
        assert frozen.model is model
        assert [one.name for one in frozen.report.candidates] == ["original"]


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", ["swiftformer", "swin"])
def test_arguments_by_name_and_in_sequence(name, compiled_calls, prefer):
    prefer("compiled")
    model, _, _ = build(name)
    x = image(name)
    for example, args, kwargs in (({"pixel_values": x}, (), {"pixel_values": x}), ((x,), (x,), {})):
        frozen = freeze(model, example)
        assert frozen.report.chosen == "compiled"
        compiled_calls.clear()
        assert_within_budget(frozen(*args, **kwargs).logits, truth_of_build(name))
        assert len(compiled_calls) == 1


# Which calls it serves


def frozen_compiled(prefer, calls):
    prefer("compiled")
    frozen = freeze(network())
    calls.clear()
    return frozen


def test_other_inputs_run_uncompiled_and_warn_once(compiled_calls, prefer):
    frozen = frozen_compiled(prefer, compiled_calls)
    expected = r"frozen for float32 \[4, 3, 8, 8\] .* got float32 \[1, 3, 8, 8\] .* regard.freeze"
    with pytest.warns(UserWarning, match=expected) as raised:
        assert_within_budget(frozen(X[:1]), truth_of(network(), X[:1]))
    assert raised[0].filename == __file__
    assert_within_budget(frozen(X[:2]), truth_of(network(), X[:2]))  # would raise on a second warning
    with pytest.raises(RuntimeError):  # the model's own error
        frozen(X.double())
    assert not compiled_calls


def test_other_dtypes_run_uncompiled(compiled_calls, prefer):
    prefer("compiled")
    frozen = freeze(nn.ReLU().eval())
    with pytest.warns(UserWarning, match="got float64"):
        assert torch.equal(frozen(X.double()), X.double().relu())


def test_other_values_and_threads_run_uncompiled(compiled_calls, prefer):
    class Scaled(nn.Module):
        def forward(self, x, factor):
            return x * factor

    prefer("compiled")
    for args, threads in (((X, 3.0), 1), ((X, 2.0), 2)):
        torch.set_num_threads(1)
        frozen = freeze(Scaled().eval(), (X, 2.0))
        compiled_calls.clear()
        torch.set_num_threads(threads)
        with pytest.warns(UserWarning, match="frozen for .*, 2.0 with 1 thread,"):
            assert torch.equal(frozen(*args), X * args[1])
        assert not compiled_calls


def test_other_layouts_are_copied_to_the_example(compiled_calls, prefer):
    frozen = frozen_compiled(prefer, compiled_calls)
    strided = X.to(memory_format=torch.channels_last)
    assert_within_budget(frozen(strided), truth_of(network(), X))
    (((received,), _),) = compiled_calls
    assert received.stride() == X.stride()
    assert torch.equal(received, X)


def test_autocast_and_tracing_run_uncompiled(compiled_calls, prefer):
    frozen = frozen_compiled(prefer, compiled_calls)
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen(X).dtype == torch.bfloat16
    assert_within_budget(torch.compile(frozen, backend="eager")(X), truth_of(network(), X))
    assert not compiled_calls


def test_it_is_for_inference(compiled_calls, prefer):
    frozen = frozen_compiled(prefer, compiled_calls)
    assert not frozen(X.clone().requires_grad_()).requires_grad
    assert not any(module.training for module in nn.Sequential(frozen).train()[0].modules())


def test_copies_are_not_compiled(compiled_calls, prefer):
    frozen = frozen_compiled(prefer, compiled_calls)
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert_within_budget(other(X), truth_of(network(), X))
    assert not compiled_calls


# What it refuses


def test_training_mode():
    model = network(nn.Dropout(0.5))
    model[4].train()
    with pytest.raises(UnsupportedError, match=r"evaluation mode, but its 4 is in training mode; call model.eval\(\)"):
        freeze(model)
    with pytest.raises(UnsupportedError, match="but it is in training mode"):
        freeze(model.train())


def test_bad_arguments():
    with pytest.raises(TypeError, match="got str; pass the model"):
        freeze("swiftformer_xs")
    with pytest.raises(OptionError, match=r"got torch.float16"):
        freeze(network(), dtype=torch.float16)
    with pytest.raises(UnsupportedError, match="got tensors on meta"):
        freeze(network().to("meta"))


# Compilers


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def assert_falls_back(reason):
    model = network()
    frozen = freeze(model)
    assert reason in problem_of(frozen, "compiled")
    assert frozen.report.chosen in ("original", "fused")
    assert_within_budget(frozen(X), truth_of(model, X))


def test_no_compiler(cache):
    with config.patch({"cpp.cxx": (None, "/nowhere/c++")}):
        assert_falls_back("No working C++ compiler")


def test_a_compiler_that_fails(cache, tmp_path):
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho broken >&2\nexit 1\n')
    script.chmod(0o755)
    with config.patch({"cpp.cxx": (None, str(script))}):
        assert_falls_back("C++ compile error")


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))  # fails for root too
    assert_falls_back("NotADirectoryError")


def test_compiling_is_optional(monkeypatch):
    monkeypatch.setattr(compiler, "compile_ahead", None)
    assert [one.name for one in freeze(network(), compile=False).report.candidates] == ["original", "fused"]


class Stateful(nn.Module):
    """A model that changes a buffer, replaces another one, and changes its argument."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x, y):
        self.calls += 1
        self.last = self.last + 1
        y.mul_(2)
        return x * 2


def test_models_with_state_are_not_compiled():
    model, y = Stateful().eval(), torch.ones(2)
    with pytest.raises(UnsupportedError, match="changes argument 1, calls, last; pass compile=False"):
        compiler.compile_ahead(model, (X, y), {})
    assert torch.equal(y, torch.ones(2))
    assert model.calls == 0


@pytest.mark.exhaustive
def test_compiled_programs_keep_the_kernels():
    """AOTInductor's program agrees, also where it calls an operator of regard, and keeps the form of the outputs."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = EfficientAdditiveAttention(16, 16)

        def forward(self, *, x):
            return {"out": self.attention(x), "sum": [x + 1]}

    torch.manual_seed(0)
    model, x = Named().eval(), torch.randn(2, 7, 16)
    program = compiler.compile_ahead(model, (), {"x": x})
    outputs = program(x=x)
    assert_within_budget(outputs["out"], truth_of(model.attention, x))
    assert torch.equal(outputs["sum"][0], x + 1)


# bfloat16


def test_processors_without_bfloat16_stay_in_float32(monkeypatch, compiled_calls):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="no bfloat16 instructions"):
        frozen = freeze(network(), dtype=torch.bfloat16)
    assert [one.name for one in frozen.report.candidates] == list(NAMES)
    assert "no bfloat16 instructions" in str(frozen.report)


@pytest.mark.one_parameter
@pytest.mark.parametrize(
    "name", ["cait_xxs24_224", "swin_tiny_patch4_window7_224", "swiftformer_xs", "mobilevitv2_050"]
)
def test_bfloat16(name, monkeypatch, compiled_calls, prefer):
    """Dense layers and convolutions are stored in bfloat16, norms are not, and outputs are in float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    prefer("fused bfloat16")
    model, _, _ = build(name)
    frozen = freeze(model, image(name), dtype=torch.bfloat16)
    assert frozen.report.chosen == "fused bfloat16", frozen.report
    assert [one.name for one in frozen.report.candidates[3:]] == ["fused bfloat16", "compiled bfloat16"]
    weighted = [module for module in frozen.modules() if getattr(module, "weight", None) is not None]
    kinds = {type(module).__name__: module.weight.dtype for module in weighted}
    assert all(dtype == (torch.float32 if "Norm" in kind else torch.bfloat16) for kind, dtype in kinds.items())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    out = frozen(image(name))
    assert out.dtype == torch.float32
    assert_within_budget(out.bfloat16(), truth_of(model, image(name), dtype=torch.bfloat16))


def test_top1_agreement():
    before, after = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    assert trial.top1_agreement([before], [after]) == 0.5
    assert trial.top1_agreement([before], [after[:1]]) is None
    assert trial.top1_agreement([before], []) is None


def test_inference_mode_changes_nothing(prefer, compiled_calls):
    """Parameters made in inference mode could be neither packed nor compiled."""
    prefer("compiled")
    model = network()
    with torch.inference_mode():
        frozen = freeze(model)
        assert compiled_calls and not problem_of(frozen, "compiled")
        frozen(X)
    assert not any(parameter.is_inference() for parameter in frozen.parameters())
    with torch.inference_mode():
        fused = regard.fuse(model, inference=True, example=X)
    assert not any(parameter.is_inference() for parameter in fused.parameters())
