"""Images that are read in the order of their files, without random access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from regard.errors import DataError
from regard.training.lazy import checked_label

if TYPE_CHECKING:
    from PIL.Image import Image


class Stream(IterableDataset[tuple["Image", int]]):
    """One side of a source that is read from start to end, such as shards of a web dataset.

    timm's reader shuffles, and divides the shards among processes and workers. Limits:

    - There is no position to return to: a resumed job starts its epoch again.
    - The order depends on the number of processes and workers.
    - Images are not checked before training starts. timm leaves out those of a web dataset that cannot be decoded;
      others end the run.
    - In training, every worker yields whole batches, so some images may come twice in an epoch, and others not at all.

    Args:
        dataset: timm's `IterableImageDataset`.
        name: name of the dataset and its split, for messages.
        num_classes: number of classes.
    """

    def __init__(self, dataset: IterableDataset[Any], name: str, num_classes: int) -> None:
        self.dataset: Any = dataset
        self.name, self.num_classes = name, num_classes

    def __len__(self) -> int:
        """Return the number of images per epoch in this process."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Image, int]]:
        """Read the images of mode RGB, and their labels, that belong to this process and worker.

        Raises:
            DataError: a label is not that of a class.
        """
        for image, label in self.dataset:
            yield image, checked_label(label, self.num_classes, self.name)

    def prepare(self, batch_size: int, workers: int) -> None:
        """Set the batch size and the number of workers before the first iteration; `len` depends on them."""
        self.dataset.reader.batch_size = batch_size
        self.dataset.set_loader_cfg(num_workers=workers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the images of an epoch, also in workers that have started."""
        self.dataset.set_epoch(epoch)


class StreamDataset(IterableDataset["tuple[Tensor, int, int] | DataError"]):
    """Read and transform the images of a stream, like `ImageDataset` those of a sequence.

    Args:
        stream: one side of a source.
        transform: turns an image into a tensor `[3, H, W]`.
    """

    def __init__(self, stream: Stream, transform: Callable[[Image], Tensor]) -> None:
        self.stream, self.transform = stream, transform

    def __len__(self) -> int:
        """Return the number of images per epoch in this process."""
        return len(self.stream)

    def __iter__(self) -> Iterator[tuple[Tensor, int, int] | DataError]:
        """Yield images `[3, H, W]`, labels and indices, or an error as the last item.

        Of N workers, worker n numbers its images n, n + N, n + 2N, ...
        """
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            for place, (image, label) in enumerate(self.stream):
                yield self.transform(image), label, first + step * place
        except DataError as error:
            yield error

    def name_of(self, index: int) -> str:
        """Return the name of an image for messages, as in "image 17 of wds/shards train"."""
        return f"image {index} of {self.stream.name}"
