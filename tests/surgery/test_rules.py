"""The tables of adapters and folds: every upstream class exists, and stands in one file."""

import importlib
from collections import defaultdict

import pytest

from regard.surgery import rules
from regard.surgery.adapter import Adapter, AttentionAdapter
from regard.surgery.inference.fold import Fold
from regard.surgery.notes import DENSE

RULES = (*rules.ADAPTERS, *rules.FOLDS)
OLD_VERSIONS = {
    "timm.models.vision_transformer.Attention",
    "transformers.models.nat.modeling_nat.NeighborhoodAttention",
    "transformers.models.deprecated.nat.modeling_nat.NeighborhoodAttention",
}
"""Classes that the installed timm and transformers no longer define."""


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_adapter_and_fold_is_in_its_table():
    declared = {one for base in (Adapter, Fold) for one in subclasses(base) if "upstream_classes" in vars(one)}
    assert {one for one in declared if one.__module__.startswith("regard.")} == set(RULES)


def test_upstream_classes_stand_in_one_file():
    files = defaultdict(list)
    for table in (rules.ADAPTERS, rules.FOLDS):
        names = [name for one in table for name in one.upstream_classes]
        assert len(names) == len(set(names))
    for one in RULES:
        for name in one.upstream_classes:
            files[name].append(one.__module__)
    assert all(len(set(modules)) == 1 for modules in files.values()), files


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_upstream_classes_exist(rule):
    missing = set()
    for name in rule.upstream_classes:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            missing.add(name)
        else:
            if f"{found.__module__}.{found.__qualname__}" != name:  # only imported there
                missing.add(name)
    assert missing <= OLD_VERSIONS
    assert missing != set(rule.upstream_classes)


def test_adapters_of_attention_have_a_backend():
    for adapter in rules.ADAPTERS:
        assert issubclass(adapter, AttentionAdapter) == (adapter.mechanism != DENSE)
