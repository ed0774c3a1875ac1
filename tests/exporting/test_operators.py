"""regard's operators in ONNX Runtime compute what its functions compute, on any number of threads."""

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from attention.kernels import needs_native
from attention.neighborhood.grids import GRIDS
from budget import leaves
from regard.attention import MECHANISMS, neighborhood, window
from regard.errors import UnsupportedError
from regard.exporting import operators_library

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from .one_node import NAMES, Node, node_of, packed, session

try:
    LIBRARY, PROBLEM = operators_library(), ""
except UnsupportedError as error:
    LIBRARY, PROBLEM = None, str(error)
needs_library = pytest.mark.skipif(LIBRARY is None, reason=PROBLEM)
pytestmark = [needs_native, needs_library]

SAMPLES = [
    pytest.param(mechanism, sample, id=f"{mechanism.name}-{sample.name}")
    for mechanism in MECHANISMS
    if mechanism.name in NAMES
    for sample in mechanism.samples
]
each_sample = pytest.mark.parametrize(("mechanism", "sample"), SAMPLES)


def prepared(mechanism, sample):
    return mechanism.prepare(**sample.tensors(), **sample.options)[0]


def expected_of(mechanism, arguments):
    """Run regard's own kernel on checked arguments; return its outputs."""
    arguments = [value for name, value in arguments._asdict().items() if name != "dropout_p"]
    results = leaves(mechanism.operator(*arguments))
    return results[: 2 if mechanism.name == "efficient_additive" else 1]


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.shape == tuple(other.shape)
        assert np.array_equal(one.view(np.int32), other.contiguous().numpy().view(np.int32))


@pytest.mark.one_parameter
@each_sample
def test_samples_have_the_kernels_bits(mechanism, sample):
    arguments = prepared(mechanism, sample)
    node = node_of(mechanism.name, arguments)
    expected = expected_of(mechanism, arguments)
    for threads in (1, 2):
        got = node.run(threads)
        if mechanism.name == "talking_heads":
            got = [got[0].reshape(expected[0].shape)]
        assert_equal(got, expected)


@pytest.mark.parametrize(("grid", "heads", "head_dim", "kernel", "options"), GRIDS[:5], ids=str)
def test_larger_grids_have_the_kernels_bits(grid, heads, head_dim, kernel, options):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 2, *grid, heads, head_dim, generator=generator).unbind()
    bias = torch.randn(heads, *(2 * size - 1 for size in kernel), generator=generator)
    arguments = neighborhood.prepare(*tensors, kernel, **options, bias=bias)[0]
    expected = expected_of(MECHANISM["neighborhood"], arguments)
    assert_equal(node_of("neighborhood", arguments).run(3), expected)


MECHANISM = {mechanism.name: mechanism for mechanism in MECHANISMS}


def is_packable(mechanism, sample):
    shapes = sample.shapes
    if mechanism.name == "separable":
        return shapes["key"] == shapes["value"]
    return mechanism.name in ("neighborhood", "window") and shapes["query"] == shapes["value"]


@pytest.mark.one_parameter
@pytest.mark.parametrize(("mechanism", "sample"), [one for one in SAMPLES if is_packable(*one.values)])
def test_packed_inputs_have_the_bits_of_separate_ones(mechanism, sample):
    node = node_of(mechanism.name, prepared(mechanism, sample))
    for one, other in zip(packed(node).run(), node.run(), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 4])
def test_sessions_in_several_threads(threads):
    """Two sessions, each called from two threads at once."""
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 2, 28, 28, 2, 16, generator=generator).unbind()
    calls = [
        (MECHANISM["neighborhood"], neighborhood.prepare(*tensors, 7)[0]),
        (MECHANISM["window"], window.prepare(*tensors, 7, shift_size=3)[0]),
    ]
    wrong = []

    def repeat(one, feeds, expected):
        for _ in range(10):
            if not np.array_equal(one.run(None, feeds)[0], expected):
                wrong.append(one)

    running = []
    for mechanism, arguments in calls:
        node, expected = node_of(mechanism.name, arguments), expected_of(mechanism, arguments)[0].numpy()
        one = session(node.model(), threads)
        running += [threading.Thread(target=repeat, args=(one, node.feeds(), expected)) for _ in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


def test_pytorch_keeps_its_threads():
    """After a call in ONNX Runtime's threads, regard's functions run on PyTorch's again, with the same bits."""
    arguments = neighborhood.prepare(*torch.randn(3, 1, 14, 14, 2, 8).unbind(), 3)[0]
    before = expected_of(MECHANISM["neighborhood"], arguments)
    assert_equal(node_of("neighborhood", arguments).run(2), before)
    assert torch.equal(expected_of(MECHANISM["neighborhood"], arguments)[0], before[0])


WRONG = {
    "key": ("key must have query's shape; the inputs are", {"key": (1, 6, 6, 2, 5)}, {}),
    "bias": ("bias must be", {"bias": (2, 5, 4)}, {}),
    "kernel": ("kernel_size \\* dilation must fit the grid", {}, {"dilation": [1, 3]}),
    "axes": ("one number per grid axis", {}, {"stride": [1]}),
    "zero": ("sizes must be 1 to", {}, {"dilation": [0, 1]}),
    "packed": ("a packed input must be", {}, {"packed": 1}),
    "attribute": ("scale", {}, {"scale": None}),
    "channels": ("1 to 256 channels", {"query": (1, 6, 6, 2, 300), "key": (1, 6, 6, 2, 300)}, {}),
    "no_channels": ("1 to 256 channels", {"query": (1, 6, 6, 2, 0), "key": (1, 6, 6, 2, 0)}, {}),
}


@pytest.mark.parametrize(("message", "shapes", "attributes"), WRONG.values(), ids=WRONG)
def test_errors_say_what_is_wrong(message, shapes, attributes):
    usual = dict.fromkeys(("query", "key", "value"), (1, 6, 6, 2, 4)) | {"bias": (2, 5, 5)}
    inputs = [np.zeros(shape, np.float32) for shape in (usual | shapes).values()]
    lists = {"kernel_size": [3, 3], "dilation": [1, 1], "stride": [1, 1], "is_causal": [0, 0]}
    options = lists | {"scale": 0.5, "packed": 0} | attributes
    options = {name: value for name, value in options.items() if value is not None}
    with pytest.raises(Exception, match=message):
        Node("NeighborhoodAttention", inputs, options).run()


def test_limits():
    """What the functions leave to their references, which ONNX Runtime does not have."""
    inputs = [np.zeros((1, 33, 33, 1, 4), np.float32)] * 3
    attributes = {"window_size": [33, 33], "shift_size": [0, 0], "scale": 1.0, "packed": 0}
    with pytest.raises(Exception, match="at most 1024 tokens"):
        Node("WindowAttention", inputs, attributes).run()
    tokens, mix = np.zeros((1, 3, 2, 4), np.float32), np.eye(2, dtype=np.float32)
    with pytest.raises(Exception, match="weights_bias must be"):  # an empty one is not an absent one
        Node("TalkingHeadsAttention", [*[tokens] * 3, mix, mix, np.zeros(0, np.float32)], {"scale": 1.0}).run()


def test_out_of_memory():
    """Scratch memory of more bytes than a processor can address is an error, and the session stays usable."""
    count = 2**23
    tokens, mix = np.ones((1, count, 1, 1), np.float32), np.ones((count, 1), np.float32)
    node = Node("TalkingHeadsAttention", [tokens[:, :1], tokens, tokens, mix, mix.T], {"scale": 1.0})
    one = session(node.model(), 2)
    for _ in range(2):
        with pytest.raises(Exception, match="could not allocate its scratch memory"):
            one.run(None, node.feeds())
    small = [tokens[:, :1], tokens[:, :3], tokens[:, :3], mix[:2], mix[:2].T]
    assert one.run(None, {f"in{place}": array for place, array in enumerate(small)})[0] == 2  # heads of ones


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_fuzz(count):
    """Wrong nodes in another process, which ends as usual."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_operators.py")), str(LIBRARY), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-500:]} {done.stderr[-2000:]}"
    counts = {name: int(number) for name, number in (line.split(": ") for line in done.stdout.splitlines())}
    assert counts["ran"] > count / 10 and counts["errors at run time"] > count / 4
    assert sum(counts.values()) == count


CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
GET_VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)


def test_a_runtime_that_is_too_old():
    """It has the oldest table of functions only, and gets an error that says what is needed."""
    messages, version_text = [], ctypes.create_string_buffer(b"1.16.3")

    def create_status(code, message):
        messages.append((code, message.decode()))
        return 42

    class Base(ctypes.Structure):
        _fields_ = (("get_api", GET_API), ("get_version", GET_VERSION))

    create = CREATE_STATUS(create_status)
    table = (ctypes.c_void_p * 3)(ctypes.cast(create, ctypes.c_void_p))
    asked = []

    def get_api(version):
        asked.append(version)
        return ctypes.addressof(table) if version == 1 else None

    base = Base(GET_API(get_api), GET_VERSION(lambda: ctypes.addressof(version_text)))
    register = ctypes.CDLL(str(LIBRARY)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 42
    assert asked == [17, 1]
    assert messages == [
        (1, "regard: its operators need onnxruntime 1.17 or newer, and this is 1.16.3; upgrade onnxruntime")
    ]


def test_without_kernels(tmp_path):
    """The library of operators alone registers nothing, and says which folder it looked into."""
    alone = tmp_path / LIBRARY.name
    alone.write_bytes(LIBRARY.read_bytes())
    with pytest.raises(Exception, match=f"no library of kernels in {tmp_path}"):
        Node("AdditiveAttention", [], {}).run(library=str(alone))
