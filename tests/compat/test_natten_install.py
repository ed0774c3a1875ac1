"""`import natten` without NATTEN, each time in a process of its own."""

import subprocess
import sys

import pytest

NAT = """
from regard.compat import natten as compat
assert compat.install()

import torch
from torch import nn
import natten
from natten import NeighborhoodAttention2D

newer = hasattr(natten, "context")  # how the NAT repository tells NATTEN 0.17 from what it was written for


class Block(nn.Module):
    def __init__(self, dim, num_heads, kernel_size=7, dilation=None, mlp_ratio=3.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        bias = {"rel_pos_bias": True} if newer else {"bias": True}
        self.attn = NeighborhoodAttention2D(
            dim, kernel_size=kernel_size, dilation=dilation, num_heads=num_heads,
            qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0, **bias,
        )
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


from regard.attention import NeighborhoodAttention2d

torch.manual_seed(0)
for dilation in (None, 2):
    block = Block(32, 2, dilation=dilation)
    ours = NeighborhoodAttention2d(32, 2, 7, dilation=dilation if dilation else 1, small_grid="pad")
    ours.load_state_dict(block.attn.state_dict())
    for grid in ((16, 15), (5, 9)):
        x = torch.randn(2, *grid, 32)
        y = block(x)
        y.square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())
        z = x + ours(block.norm1(x))
        assert torch.equal(y, z + block.mlp(block.norm2(z)))
"""

NAMES = """
import importlib.metadata, importlib.util, pickle, sys
import regard
assert "natten" not in sys.modules and importlib.util.find_spec("natten") is None
from regard.compat.natten import install
finders = len(sys.meta_path)
assert install() is True
assert install() is True and len(sys.meta_path) == finders + 1
spec = importlib.util.find_spec("natten")
assert spec.name == "natten" and spec.submodule_search_locations == []
assert importlib.metadata.version("natten") == "0.15.1"
assert importlib.metadata.packages_distributions()["natten"] == ["natten"]
assert importlib.metadata.version("torch") != "0.15.1"

import natten
from natten.functional import natten2dav, natten2dqkrpb
from natten.flops import add_natten_handle
from regard.compat.natten import functional
assert natten.__spec__ is sys.modules["natten"].__spec__ and natten.__version__ == "0.15.1"
assert natten.__file__.endswith("__init__.py") and natten.__spec__.origin == natten.__file__
assert natten2dqkrpb is functional.natten2dqkrpb and natten.functional.na2d is natten.na2d is functional.na2d
assert regard.compat.natten.__name__ == functional.__spec__.parent == "regard.compat.natten"
assert importlib.reload(natten) is natten
module = natten.NeighborhoodAttention1D(4, 2, 3)
assert type(pickle.loads(pickle.dumps(module))) is type(module)
try:
    import natten.nothing
except ModuleNotFoundError as error:
    assert error.name == "natten.nothing"
else:
    raise AssertionError
"""

DINAT = """
from regard.compat.natten import install
assert install()
from transformers import DinatConfig, DinatForImageClassification
from transformers.utils import is_natten_available
assert is_natten_available()
from transformers.models.dinat import modeling_dinat
from regard.compat.natten import functional
assert modeling_dinat.natten2dqkrpb is functional.natten2dqkrpb
config = DinatConfig(embed_dim=16, depths=[2, 2], num_heads=[2, 4], kernel_size=3, mlp_ratio=2.0,
                     dilations=[[1, 2], [1, 1]], layer_scale_init_value=0.0, num_labels=5)
network = DinatForImageClassification(config)
from regard.models import create_model, load_weights
ours = create_model("dinat_mini", num_classes=5, embed_dim=16, depths=(2, 2), num_heads=(2, 4), kernel_size=3,
                    mlp_ratio=2.0, dilations=(2, 1))
report = load_weights(ours, network.state_dict())
assert "hf" in str(report), report
assert len(network.state_dict()) > len(ours.state_dict()) > 0
"""


def run(program, cwd=None):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_names():
    run(NAMES)


def test_a_block_of_the_nat_repository():
    run(NAT)


def test_dinat_of_transformers():
    """Its import succeeds, it builds, and its weights are ours. (Its forward pass swaps axes, in 4.57 and 5.23.)"""
    run(DINAT)


@pytest.mark.parametrize("already", ["", "import natten; "])
def test_a_real_natten_stays(tmp_path, already):
    (tmp_path / "natten").mkdir()
    (tmp_path / "natten" / "__init__.py").write_text("__version__ = '0.21.6'\n")
    program = f"""
import sys, warnings
{already}
from regard.compat.natten import install
finders = list(sys.meta_path)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert install() is False
assert "natten is installed" in str(caught[0].message) and sys.meta_path == finders
import natten
assert natten.__version__ == "0.21.6"
"""
    run(program, cwd=tmp_path)


def test_importing_changes_nothing():
    run("import sys, regard.compat.natten; assert 'natten' not in sys.modules and 'transformers' not in sys.modules")
