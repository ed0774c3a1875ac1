"""Watch the memory accesses of kernels in Triton's interpreter, for races and accesses outside of their tensors.

The interpreter runs the programs of a launch one after another, where a GPU runs them at once. What a kernel computes
depends on the order if a program reads what another one wrote, or if two write the same element. No kernel of regard
needs even its own program to do so. The rule: within a launch, an element is either read or written, and written once.
"""

import numpy
import torch
from triton.runtime import interpreter


def watch_memory():
    """Make launches fail that break the rule or access memory outside of their tensors."""
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    call, load, store = executor.__call__, builder.create_masked_load, builder.create_masked_store
    launches = []

    def watched_call(self, *arguments, **options):
        launches.append([Elements(*one) for one in by_storage([*tensors_in(arguments), *tensors_in(options.values())])])
        try:
            return call(self, *arguments, **options)
        finally:
            launches.pop()

    def watched_load(self, pointers, mask, *rest):
        accessed(launches[-1], pointers, mask).read()
        return load(self, pointers, mask, *rest)

    def watched_store(self, pointers, value, mask, *rest):
        accessed(launches[-1], pointers, mask).write()
        return store(self, pointers, value, mask, *rest)

    def atomic(self, *_):
        raise AssertionError("an atomic operation: the order of its additions is not the same in every run")

    executor.__call__ = watched_call
    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    builder.create_atomic_rmw = builder.create_atomic_cas = atomic


def tensors_in(arguments):
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple):
            yield from tensors_in(argument)


def by_storage(tensors):
    """Return the storages of tensors, each with its tensors."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), (storage, []))[1].append(tensor)
    return list(storages.values())


class Elements:
    """The elements of a storage that a launch may access, and those that it has read and written."""

    def __init__(self, storage, tensors):
        self.begin, self.end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
        self.size = tensors[0].element_size()
        assert all(one.element_size() == self.size for one in tensors), "tensors of two sizes of elements share memory"
        own = torch.zeros(storage.nbytes() // self.size, dtype=torch.bool)
        for tensor in tensors:
            own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        self.is_own = own.numpy()
        self.is_read, self.is_written = numpy.zeros_like(self.is_own), numpy.zeros_like(self.is_own)


class Access:
    """The elements of a storage that one operation of a program accesses."""

    def __init__(self, elements, addresses):
        self.elements = elements
        self.places = (addresses - elements.begin) // elements.size
        assert elements.is_own[self.places].all(), "an access between the elements of a tensor"

    def read(self):
        assert not self.elements.is_written[self.places].any(), "a launch reads what it wrote"
        self.elements.is_read[self.places] = True

    def write(self):
        assert len(numpy.unique(self.places)) == len(self.places), "an operation writes an element twice"
        assert not self.elements.is_written[self.places].any(), "a launch writes an element twice"
        assert not self.elements.is_read[self.places].any(), "a launch writes what it read"
        self.elements.is_written[self.places] = True


class NoAccess:
    def read(self):
        """Nothing is read."""

    def write(self):
        """Nothing is written."""


def accessed(storages, pointers, mask):
    """Return the access to what pointers point to where `mask` is true."""
    addresses = pointers.data[numpy.broadcast_to(mask.data.astype(bool), pointers.data.shape)].astype(numpy.int64)
    if not len(addresses):
        return NoAccess()
    low, high = addresses.min(), addresses.max()
    found = [one for one in storages if one.begin <= low and high < one.end]
    assert found, "an access outside of all tensors of the launch"
    return Access(found[0], addresses)
