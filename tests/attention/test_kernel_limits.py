"""Limits of the kernels and of the machine: memory, addresses, damaged or missing libraries, unsupported calls."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drawing import draw_single
from regard import native
from regard.attention import neighborhood, neighborhood_attention, separable_attention, window_attention
from regard.benchmark.memory import peak_memory
from regard.errors import UnsupportedError
from regard.native import loader

from .kernels import INSTRUCTION_SETS, local, needs_native

NATIVE_FOLDERS = tuple(native.__path__)


@pytest.mark.exhaustive
@needs_native
def test_separable_attention_needs_no_memory_for_large_patches():
    scores, tokens = torch.randn(1, 128, 128, 1), torch.randn(1, 128, 128, 64)
    separable_attention(scores[:, :2, :2], tokens[:, :2, :2], tokens[:, :2, :2], backend="fused")
    needed = peak_memory(lambda: separable_attention(scores, tokens, tokens, patch_size=64, backend="fused"))
    if needed is None:
        pytest.skip("the system does not tell the peak of memory")
    assert tokens.nbytes / 2 < needed < 6 * tokens.nbytes  # outputs, sums, sums of runs


@pytest.mark.exhaustive
@needs_native
def test_out_of_memory():
    program = """
import resource, torch
from regard.attention import neighborhood_attention
torch.set_num_threads(2)
neighborhood_attention(*torch.randn(3, 1, 8, 8, 1, 4).unbind(), 3, backend="fused")  # starts the threads
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
query, key, value = torch.randn(3, 1, 31, 31, 31, 1, 8).unbind()
resource.setrlimit(resource.RLIMIT_AS, (used + 6_000_000, resource.RLIM_INFINITY))
try:
    neighborhood_attention(query, key, value, 31, backend="fused")
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    assert "could not allocate its scratch memory" in done.stdout


@needs_native
def test_damaged_library(tmp_path, monkeypatch):
    """The next instruction set is loaded; without a valid library, the first problem is the reason."""
    best, *others = INSTRUCTION_SETS
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    (tmp_path / f"libregard_{best}.so").write_bytes(b"no library")
    assert "cannot be loaded" in loader.load().problem
    for name in others[:1]:
        whole = next(file for folder in NATIVE_FOLDERS for file in Path(folder).glob(f"libregard_{name}.so"))
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
        assert loader.load()[1:] == (name, "")


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_library_on_purpose(name):
    native = loader.load(name)
    assert native.library is not None and native[1:] == (name, "")


def test_instruction_sets_of_other_processors():
    """Loading them would end the process at the first unknown instruction."""
    with pytest.raises(UnsupportedError, match=f"got 'pdp11'; choose one of {', '.join(INSTRUCTION_SETS)}$"):
        loader.load("pdp11")


@needs_native
@local
def test_offsets_beyond_32_bits(attention):
    """A batch stride of 2 ** 31 elements; only the pages that are read or written are allocated."""
    far = 2**31
    try:
        storage = torch.empty(far + 4096, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("the system does not promise 4 GiB")
    query = storage.as_strided((2, 3, 6, 1, 8), (far, 48, 8, 8, 1)).copy_(torch.randn(2, 3, 6, 1, 8))
    near = query.contiguous().requires_grad_()
    query.requires_grad_()
    out, expected = (attention(x, x, x, backend="fused") for x in (query, near))
    assert torch.equal(out, expected)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y, x in ((out, query), (expected, near))))


@needs_native
@local
def test_reasons(attention):
    query, key, value = draw_single(3, 1, 3, 6, 1, 300)
    with pytest.raises(UnsupportedError) as raised:
        attention(query, key, value, dropout_p=0.1, backend="fused")
    assert "more than 256 channels" in str(raised.value) and "no dropout" in str(raised.value)
    assert attention(query, key, value).shape == query.shape  # the reference is used


@needs_native
def test_windows_too_large():
    query, key, value = draw_single(3, 1, 33, 33, 1, 4)
    with pytest.raises(UnsupportedError, match="windows have more than 1024 tokens"):
        window_attention(query, key, value, 33, backend="fused")


def test_without_libraries(monkeypatch):
    monkeypatch.setattr(native, "__path__", [])
    monkeypatch.setattr(loader, "NATIVE", loader.load())
    query, key, value = draw_single(3, 1, 5, 5, 1, 4)
    assert neighborhood_attention(query, key, value, 3).shape == query.shape
    assert neighborhood.MECHANISM.unsupported_reasons(query, key, value, 3) == [
        "regard was installed without its native library: install it again with a C++ compiler"
    ]
