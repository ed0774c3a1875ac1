"""Run the kernels' tests with the kernels of an ARM processor, which QEMU emulates: `make test-aarch64`.

A pytest plugin. It cross-compiles the native library, starts `server.cpp` on it in `qemu-aarch64`, and sends every call
of a kernel there with the memory of its tensors. Needs a cross compiler and QEMU's user mode, on Debian the packages
g++-aarch64-linux-gnu and qemu-user.
"""

import ctypes
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from regard.native import calls, loader

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"


def build(folder):
    """Cross-compile the library and the server into a folder."""
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    configure = ["cmake", "-S", ROOT, "-B", folder / "build", "-G", "Ninja", *system, f"-DREGARD_OUTPUT={folder}"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder / "build"], check=True, stdout=subprocess.DEVNULL)
    server = Path(__file__).with_name("server.cpp")
    subprocess.run([COMPILER, "-std=gnu++17", "-O1", server, "-o", folder / "server", "-ldl"], check=True)


class Remote:
    """The library in the emulator, in the place of a `ctypes.CDLL`."""

    def __init__(self, folder):
        command = [EMULATOR, "-L", LIBRARIES, folder / "server", folder / "libregard_portable.so"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()
        self.calls = 0

    def regard_dense_panel(self):
        return self._send("regard_dense_panel", [], [])

    def call(self, function, dtype, *arguments):
        """Replace `regard.native.calls.call`."""
        storages, sent = {}, [struct.pack("<2q", 0, calls.DTYPES[dtype])]
        for argument in arguments:
            if isinstance(argument, calls.Operands):
                operands = zip(argument.array, argument.tensors, strict=True)
                fields = [_place(tensor, storages) + bytes(operand.strides) for operand, tensor in operands]
                sent.append(struct.pack("<2q", 2, len(fields)) + b"".join(fields))
            elif isinstance(argument, ctypes.Structure):
                buffer = torch.frombuffer(bytearray(argument), dtype=torch.uint8)
                sent.append(struct.pack("<q", 1) + _place(buffer, storages))
            elif argument is None:
                sent.append(struct.pack("<3q", 1, -1, 0))
            else:
                sent.append(struct.pack("<q", 1) + _place(argument, storages))
        if self._send(function, list(storages.values()), sent):
            raise MemoryError(function)

    def _send(self, function, storages, arguments):
        name = function.encode()
        with self.lock:
            pipe = self.process.stdin
            pipe.write(struct.pack("<q", len(name)) + name + struct.pack("<q", len(storages)))
            for storage in storages:
                pipe.write(struct.pack("<q", storage.nbytes()) + ctypes.string_at(storage.data_ptr(), storage.nbytes()))
            pipe.write(struct.pack("<q", len(arguments)) + b"".join(arguments))
            pipe.flush()
            (code,) = struct.unpack("<q", self._receive(8))
            for storage in storages:
                ctypes.memmove(storage.data_ptr(), self._receive(storage.nbytes()), storage.nbytes())
            self.calls += 1
        return code

    def _receive(self, size):
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise RuntimeError(f"the emulated kernel ended with {self.process.wait()}")
        return data


def _place(tensor, storages):
    """Return the number of a tensor's storage, which is sent once per call, and the tensor's offset in it, in bytes."""
    storage = tensor.untyped_storage()
    storages.setdefault(storage.data_ptr(), storage)
    number = list(storages).index(storage.data_ptr())
    return struct.pack("<2q", number, tensor.storage_offset() * tensor.element_size())


def pytest_configure(config):
    if missing := [program for program in (COMPILER, EMULATOR, "cmake", "ninja") if shutil.which(program) is None]:
        raise pytest.UsageError(f"the emulation of ARM needs {', '.join(missing)} on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="regard_aarch64_"))
    config.add_cleanup(lambda: shutil.rmtree(folder))
    build(folder)
    remote = config.stash[REMOTE] = Remote(folder)
    config.add_cleanup(remote.process.kill)
    loader.NATIVE = native = loader.Native(remote, "portable", "")
    loader.instruction_sets, loader.load = lambda: ("portable",), lambda *_: native
    calls.call = remote.call


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.line(f"{config.stash[REMOTE].calls} calls of aarch64 kernels")


REMOTE = pytest.StashKey()
