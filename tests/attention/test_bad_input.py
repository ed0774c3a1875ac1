"""Every mechanism's errors: what was expected, what was given, what to do."""

import inspect

import numpy as np
import pytest
import torch

from regard import attention
from regard.errors import OptionError, ShapeError, UnsupportedError

from .calls import FIRST

SCALED = [call for call in FIRST if "scale" in inspect.signature(call.values[0].function).parameters]


@pytest.mark.parametrize(("mechanism", "sample"), SCALED)
def test_scale_that_is_no_number(mechanism, sample):
    for scale in (torch.tensor(0.5), "0.5", True):
        with pytest.raises(TypeError, match="scale must be a number, got"):
            mechanism.function(**sample.tensors(), **sample.options | {"scale": scale})


@pytest.mark.parametrize(("mechanism", "sample"), FIRST)
class TestBadInput:
    def call(self, mechanism, sample, **changed):
        return mechanism.function(**{**sample.tensors(), **sample.options, **changed})

    def each(self, sample, change):
        return [{name: change(tensor)} for name, tensor in sample.tensors().items()]

    def test_integers(self, mechanism, sample):
        for changed in self.each(sample, torch.Tensor.long):
            with pytest.raises(TypeError, match=f"{next(iter(changed))} must be a floating-point tensor"):
                self.call(mechanism, sample, **changed)

    def test_no_tensor(self, mechanism, sample):
        for changed in self.each(sample, torch.Tensor.tolist):
            with pytest.raises(TypeError, match=f"{next(iter(changed))} must be a torch.Tensor, got list"):
                self.call(mechanism, sample, **changed)

    def test_mixed_dtypes(self, mechanism, sample):
        for device in ("cpu", "meta"):  # the second has no autocast
            for changed in self.each(sample, lambda tensor, device=device: tensor.double().to(device)):
                with pytest.raises(TypeError, match="same dtype"):
                    self.call(mechanism, sample, **changed)

    def test_mixed_devices(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: tensor.to("meta")):
            with pytest.raises(TypeError, match="same device"):
                self.call(mechanism, sample, **changed)

    def test_ranks(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: tensor[(None,) * 5]):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)
        for changed in self.each(sample, torch.Tensor.sum):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)

    def test_empty(self, mechanism, sample):
        for axis in range(1, sample.tensors()["query"].ndim):
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, query=sample.tensors()["query"].narrow(axis, 0, 0))

    def test_one_size_off(self, mechanism, sample):
        for changed in self.each(sample, lambda tensor: torch.cat([tensor, tensor[..., :1]], -1)):
            if next(iter(changed)) == "value":  # its width is free
                continue
            with pytest.raises(ShapeError):
                self.call(mechanism, sample, **changed)

    def test_misspelt_argument(self, mechanism, sample):
        with pytest.raises(TypeError, match="unexpected keyword"):
            self.call(mechanism, sample, sclae=1.0)

    def test_unknown_backend(self, mechanism, sample):
        with pytest.raises(OptionError, match="unknown backend 'fusd'; did you mean 'fused'"):
            self.call(mechanism, sample, backend="fusd")

    def test_explicit_request_never_falls_back(self, mechanism, sample):
        reasons = mechanism.unsupported_reasons(**sample.tensors(device="meta"), **sample.options)
        if not reasons:
            reasons = mechanism.unsupported_reasons(**sample.tensors(), **sample.options, dropout_p=0.5)
            changed = {"dropout_p": 0.5}
        else:
            changed = sample.tensors(device="meta")
        with pytest.raises(UnsupportedError) as raised:
            self.call(mechanism, sample, **changed, backend="fused")
        assert reasons and all(reason in str(raised.value) for reason in reasons)


@pytest.mark.parametrize("size", [True, 3.0, None, "3", (3, 2.5), (3, True)], ids=str)
def test_sizes_that_are_no_whole_numbers(size):
    x = torch.zeros(1, 6, 6, 2, 4)
    calls = [
        lambda: attention.neighborhood_attention(x, x, x, size),
        lambda: attention.neighborhood_attention(x, x, x, 3, dilation=size),
        lambda: attention.window_attention(x, x, x, size),
        lambda: attention.separable_attention(x[..., 0, :1], x[..., 0, :], x[..., 0, :], patch_size=size),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="whole number"):
            call()


def test_sizes_of_numpy_are_numbers():
    x = torch.randn(1, 6, 6, 2, 4)
    with_ints = attention.neighborhood_attention(x, x, x, 3)
    assert torch.equal(attention.neighborhood_attention(x, x, x, np.int64(3)), with_ints)
    assert torch.equal(attention.neighborhood_attention(x, x, x, np.array([3, 3])), with_ints)


@pytest.mark.parametrize("grid", [8, (), (1, 2, 3, 4), (8.0,), (0, 3), "88"], ids=str)
def test_grids_that_are_none(grid):
    for call in (lambda: attention.neighborhood_bias_index(3, grid), lambda: attention.window_bias_index(grid)):
        with pytest.raises((ShapeError, TypeError), match="grid"):
            call()
