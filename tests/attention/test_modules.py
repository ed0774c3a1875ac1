"""One contract for the modules of all mechanisms, with the sizes that the registry holds."""

import inspect

import pytest
import torch

from regard.attention import MECHANISMS, set_backend
from regard.attention._backend import BackendModule
from regard.errors import OptionError, ShapeError

SAMPLES = [
    pytest.param(mechanism, sample, id=sample.module.__name__)
    for mechanism in MECHANISMS
    for sample in mechanism.module_samples
]


@pytest.mark.parametrize(("mechanism", "sample"), SAMPLES)
class TestModules:
    def test_bad_input(self, mechanism, sample):
        layer, x = sample.build(), torch.zeros(sample.shape)
        for bad, message in (
            (x.double(), "dtype"),
            (x.int(), "dtype"),
            (x.to("meta"), "device"),
            (x.tolist(), "torch.Tensor"),
            (None, "torch.Tensor"),
        ):
            for call in (layer, layer.attention_weights):
                with pytest.raises(TypeError, match=message):
                    call(bad)
        for bad, message in ((x[..., :7], "must have 8 channels"), (x[0, 0], "dimensions"), (x[:, :0], "empty")):
            with pytest.raises(ShapeError, match=message):
                layer(bad)

    def test_bad_sizes(self, mechanism, sample):
        channels = next(iter(sample.arguments))
        for bad, error in ((0, ShapeError), (-8, ShapeError), (8.0, TypeError), (True, TypeError), ("8", TypeError)):
            with pytest.raises(error):
                sample.module(**sample.arguments | {channels: bad})
        with pytest.raises(OptionError, match="did you mean 'fused'"):
            sample.module(**sample.arguments, backend="fuse")
        with pytest.raises(TypeError, match="unexpected keyword"):
            sample.module(**sample.arguments, bakcend=None)

    def test_mixed_precision(self, mechanism, sample):
        with torch.autocast("cpu", torch.bfloat16):
            assert sample.build()(torch.randn(sample.shape)).dtype == torch.bfloat16

    @pytest.mark.one_parameter
    def test_compile(self, mechanism, sample):
        torch.compiler.reset()
        layer, x = sample.build(), torch.randn(sample.shape)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x))

    def test_set_backend(self, mechanism, sample):
        model = torch.nn.Sequential(sample.build())
        set_backend(model, "reference")
        assert isinstance(model[0], BackendModule) and model[0].backend == "reference"

    def test_attention_weights(self, mechanism, sample):
        """They are those of the call that `forward` makes, with the module's own bias, scale and options."""
        layer, x = sample.build().eval(), torch.randn(sample.shape)
        calls = []

        def listen(*arguments, **options):
            calls.append((arguments, options))
            return mechanism.function(*arguments, **options)

        name = mechanism.function.__name__
        module = __import__(sample.module.__module__, fromlist=[name])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, listen)
            layer(x)
        ((arguments, options),) = calls
        prepared, _ = mechanism.prepare(*arguments, **{k: v for k, v in options.items() if k != "backend"})
        given = prepared._asdict()
        wanted = inspect.signature(mechanism.weights).parameters
        expected = mechanism.weights(**{name: given[name] for name in wanted if name in given})
        got = layer.attention_weights(x)
        for one, other in zip(*((w if isinstance(w, tuple) else (w,)) for w in (got, expected)), strict=True):
            assert torch.equal(one, other) and one.numel()
