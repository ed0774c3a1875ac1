"""What `fuse` takes for attention that it does not know: every kind in timm, and no gate."""

import importlib

import pytest
import timm
import torch
from torch import nn

from regard.surgery import fuse, rules

KINDS = {
    "xcit_nano_12_p16_224": {"XCA"},
    "efficientvit_b0": {"LiteMLA"},
    "efficientvit_m0": {"CascadedGroupAttention"},
    "davit_tiny": {"ChannelAttention"},
    "edgenext_xx_small": {"CrossCovarianceAttn"},
    "maxvit_pico_rw_256": {"AttentionCl"},
    "coatnet_nano_rw_224": {"Attention2d"},
    "coat_lite_tiny": {"FactorAttnConvRelPosEnc"},
    "convit_tiny": {"GPSA", "MHSA"},
    "lambda_resnet26t": {"LambdaLayer"},
    "shvit_s1": {"SHSA"},
    "mobilenetv4_hybrid_medium": {"MultiQueryAttention2d"},
    "volo_d1_224": {"OutlookAttention", "Attention", "ClassAttention"},
    "botnet26t_256": {"BottleneckAttn"},
    "gcvit_xxtiny": {"WindowAttentionGlobal"},
    "seresnet50": set(),
    "ecaresnet26t": set(),
    "resnest14d": set(),
    "skresnet18": set(),
    "convnext_atto": set(),
    "poolformer_s12": set(),
    "mixer_s16_224": set(),
    "efficientnet_b0": set(),
    "focalnet_tiny_srf": set(),
    "sequencer2d_s": set(),
}


@pytest.mark.parametrize("name", KINDS)
def test_attention_that_is_left(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    report = fuse(model, inplace=True, check=False).fuse_report
    assert {one.module for one in report.left} == KINDS[name]
    paths = [one.path for one in report.left]
    assert not any(path.startswith(f"{outer}.") for path in paths for outer in paths)  # nothing inside another


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "davit_tiny", "efficientvit_b0"])
def test_reasons_of_other_mechanisms(name):
    with torch.device("meta"):
        report = fuse(timm.create_model(name), inplace=True, check=False).fuse_report
    assert all("no mechanism of regard" in one.reason for one in report.left)


@pytest.mark.parametrize("name", rules.OTHER_MECHANISMS)
def test_other_mechanisms_exist(name):
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind)
    assert found.__module__ == module
    assert rules.find_adapter(found) is None


@pytest.mark.parametrize(
    ("names", "attention"),
    [
        (("qkv", "proj"), True),
        (("to_q", "to_kv"), True),
        (("q_proj", "k_proj", "v_proj"), True),
        (("query", "key", "value"), True),
        (("q_lin", "k_lin", "v_lin"), True),
        (("qkvs",), True),
        (("key", "value", "receptance"), False),
        (("q", "w", "r"), False),
        (("conv_k", "conv_q"), False),
    ],
)
def test_projections_make_attention(names, attention):
    module = type("Mixer", (nn.Module,), {})()
    for name in names:
        module.add_module(name, nn.Linear(2, 2))
    assert rules.is_attention(module) == attention
