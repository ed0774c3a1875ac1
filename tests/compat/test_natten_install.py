"""`import natten` without NATTEN; each test runs in a new process."""

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
assert not hasattr(natten, "context")  # the NAT repository would take it for 0.17
assert natten.has_fused_na() and natten.natten2d.NeighborhoodAttention2D is natten.NeighborhoodAttention2D
from natten.natten1d import NeighborhoodAttention1D
from natten.natten2d import natten2dav, natten2dqkrpb
from natten.natten3d import NeighborhoodAttention3D
from natten.modules import NeighborhoodAttention2D
from natten.types import CausalArg2DTypeOrDed, Dimension2DTypeOrDed
assert pickle.loads(b"cnatten.natten2d\\nNeighborhoodAttention2D\\n.") is NeighborhoodAttention2D
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
import regard
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
import torch
upstream, loaded = network.state_dict(), ours.state_dict()
for level in range(2):
    for block in range(2):
        layer = f"dinat.encoder.levels.{level}.layers.{block}"
        own = f"levels.{level}.blocks.{block}"
        assert torch.equal(loaded[f"{own}.attn.rpb"], upstream[f"{layer}.attention.self.rpb"])
        for kind in ("weight", "bias"):
            parts = [upstream[f"{layer}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            assert torch.equal(loaded[f"{own}.attn.qkv.{kind}"], torch.cat(parts))
            assert torch.equal(loaded[f"{own}.attn.proj.{kind}"], upstream[f"{layer}.attention.output.dense.{kind}"])
            assert torch.equal(loaded[f"{own}.mlp.fc1.{kind}"], upstream[f"{layer}.intermediate.dense.{kind}"])
try:
    network(torch.randn(1, 3, 32, 32))
except regard.ShapeError as error:
    assert "must fit the grid (8, 2)" in str(error)  # width and heads, where height and width belong
else:
    raise AssertionError
"""


def run(program, cwd=None):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.exhaustive
def test_names():
    run(NAMES)


@pytest.mark.exhaustive
def test_a_block_of_the_nat_repository():
    run(NAT)


@pytest.mark.exhaustive
def test_dinat_of_transformers():
    """Import, build and convert the weights. The forward pass of 4.57 and 5.23 swaps axes, which is an error."""
    run(DINAT)


STAYS = """
import sys, warnings
{already}
from regard.compat.natten import install
finders = list(sys.meta_path)
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert install() is False
    assert "natten is installed" in str(caught[0].message) and sys.meta_path == finders
import natten
assert natten.__version__ == {version!r}
"""

THREADS = """
import sys, threading, time, warnings
from regard.compat.natten import install
warnings.simplefilter("error")
class Slow:
    def find_spec(self, *_):
        time.sleep(0.01)  # so that all look before one has found
sys.meta_path.insert(0, Slow())
finders = len(sys.meta_path)
barrier, answers = threading.Barrier(16), []
def call():
    barrier.wait()
    answers.append(install())
threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert answers == [True] * 16, answers
assert len(sys.meta_path) == finders + 1
import natten
"""

RELOAD = """
import importlib, sys, warnings
from regard.compat.natten import _finder
warnings.simplefilter("error")
assert _finder.install()
finders = len(sys.meta_path)
importlib.reload(_finder)
assert _finder.install() and len(sys.meta_path) == finders
import natten
importlib.reload(_finder)
assert _finder.install() and len(sys.meta_path) == finders
import natten.functional
"""

EMPTY = """
import importlib.util, sys, warnings
{before}
from regard.compat.natten import install
warnings.simplefilter("error")
assert install() is True
assert importlib.util.find_spec("natten").origin.endswith("__init__.py")
import natten.functional
assert natten.__version__ == "0.15.1"
"""

LATER = """
import sys, warnings
from regard.compat.natten import install
assert install() is True
sys.path.insert(0, {folder!r})
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert install() is False
    assert ["natten is installed" in str(one.message) for one in caught] == [True]
import natten
from importlib.metadata import PackageNotFoundError, version
assert natten.__version__ == "0.21.6"
try:
    version("natten")
except PackageNotFoundError:
    pass
else:
    raise AssertionError
"""


@pytest.fixture
def real_natten(tmp_path):
    (tmp_path / "natten").mkdir()
    (tmp_path / "natten" / "__init__.py").write_text("__version__ = '0.21.6'\n")
    return tmp_path


@pytest.mark.exhaustive
@pytest.mark.parametrize("program", [THREADS, RELOAD], ids=["threads", "reload"])
def test_installs_once(program):
    run(program)


@pytest.mark.exhaustive
@pytest.mark.parametrize("before", ["", "import natten", "sys.modules['natten'] = None"])
def test_an_empty_folder_is_not_natten(tmp_path, before):
    (tmp_path / "natten").mkdir()
    run(EMPTY.format(before=before), cwd=tmp_path)


@pytest.mark.exhaustive
def test_none_is_not_natten():
    run(EMPTY.format(before="sys.modules['natten'] = None"))


@pytest.mark.exhaustive
def test_a_natten_installed_later_takes_precedence(real_natten):
    run(LATER.format(folder=str(real_natten)))


@pytest.mark.one_parameter
@pytest.mark.parametrize("already", ["", "import natten"])
def test_a_real_natten_stays(real_natten, already):
    run(STAYS.format(already=already, version="0.21.6"), cwd=real_natten)


@pytest.mark.exhaustive
def test_a_stub_stays():
    """A stub module that a test put into sys.modules has no __spec__."""
    stub = "import types; sys.modules['natten'] = stub = types.ModuleType('natten'); stub.__version__ = 'stub'"
    run(STAYS.format(already=stub, version="stub"))
    run(STAYS.format(already=f"import regard.compat.natten as ours; ours.install(); {stub}", version="stub"))


@pytest.mark.exhaustive
def test_importing_changes_nothing():
    run("import sys, regard.compat.natten; assert 'natten' not in sys.modules and 'transformers' not in sys.modules")
