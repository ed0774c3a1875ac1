"""Configurations check their fields, whatever the family."""

import math

import pytest

from regard.errors import OptionError, ShapeError
from regard.models import create_model

from .networks import PYRAMIDS, SMALL, small


@pytest.mark.parametrize("name", SMALL)
def test_whole_numbers_are_at_least_one(name):
    for field, value in vars(small(name).config).items():
        if type(value) is int:
            with pytest.raises(ShapeError, match=f"{field} must be at least 1, got 0"):
                small(name, **{field: 0})


@pytest.mark.parametrize("name", SMALL)
def test_rates_and_ratios(name):
    for field, message in (("mlp_ratio", "must be positive, got 0"), ("drop_path_rate", r"must be in \[0, 1\), got 1")):
        with pytest.raises(ShapeError, match=f"{field} {message}"):
            small(name, **{field: int(field == "drop_path_rate")})


@pytest.mark.parametrize(("option", "suggested"), [("num_clases", "num_classes"), ("inchans", "in_chans")])
def test_arguments_are_suggested_before_fields(option, suggested):
    with pytest.raises(OptionError, match=f"unknown option of nat_nano '{option}'; did you mean '{suggested}'"):
        create_model("nat_nano", **{option: 3})


@pytest.mark.parametrize("value", ["x", math.nan, math.inf, True, (1.0,)], ids=str)
@pytest.mark.parametrize("field", ["mlp_ratio", "layer_scale", "drop_path_rate"])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_fields_that_are_not_numbers(name, field, value):
    with pytest.raises(OptionError, match=f"{field} must be a finite number"):
        small(name, **{field: value})


@pytest.mark.parametrize("name", PYRAMIDS)
def test_bad_overrides(name):
    with pytest.raises(OptionError, match=f"unknown option of {name} 'drop_path'; did you mean 'drop_path_rate'"):
        small(name, drop_path=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1, 1)}, r"one number per stage each; change them together, got .*depths=\(1, 1\)"),
        ({"depths": (1, 0, 1)}, r"whole numbers of at least 1, got .*depths=\(1, 0, 1\)"),
        ({"depths": (1, 1.5, 1)}, "whole numbers of at least 1"),
        ({"depths": 2}, "must be tuples of whole numbers, got .*depths=2"),
        ({"depths": ()}, "must be tuples of whole numbers"),
        ({"stem_strides": (2,)}, r"stem_strides must hold 2 numbers, got stem_strides=\(2,\)"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive, got 0"),
        ({"depths": (1, True, 1)}, "whole numbers of at least 1"),
        ({"stem_strides": (1, 1, 1)}, "stem_strides must hold 2 numbers"),
        ({"mlp_ratio": -1}, "mlp_ratio must be positive, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": -0.5}, r"drop_path_rate must be in \[0, 1\), got -0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_sizes_that_do_not_fit(name, overrides, message):
    with pytest.raises(ShapeError, match=message):
        small(name, **overrides)
