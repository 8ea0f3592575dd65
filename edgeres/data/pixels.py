"""Where pixels come from: an array in memory, or files decoded in threads.

Files whose images are small and of one size are kept as one uint8 array and decoded when first asked for, so
that evaluating 5,000 validation images never decodes 50,000 training ones. Others are decoded at each access.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.core.environment import available_cores
from edgeres.core.progress import track
from edgeres.data.images import Pixels, header_of, image_from, is_turned, picture_from, pixels_from, with_channels

T = TypeVar("T")
R = TypeVar("R")
Rows = NDArray[np.int64]
_log = logging.getLogger(__name__)

MEMORY_LIMIT_BYTES = 1 << 30
_HEADERS_READ = 64  # spread over the files: enough to see that sizes differ, too few to cost time
_LOOKED_AT = 1000  # for EXIF rotations, at 0.15 ms a file
_FILES_A_TASK = 128  # a 32x32 JPEG takes 0.2 ms, as long as handing it to a thread
_FILES_WORTH_A_BAR = 2000


class ArraySource:
    """Images in memory: uint8 (N, H, W, C), C = 1 or 3."""

    def __init__(self, array: Pixels, name: str) -> None:
        self._array, self._name = array, name

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self._array.shape[1:]
        return height, width, channels

    def label(self, row: int) -> str:
        """How an error message calls the image: `digits image 17`."""
        return f"{self._name} image {row}"

    def image(self, row: int) -> Image.Image:
        """The image in mode L or RGB."""
        return picture_from(self._array[row])

    def pixels(self, rows: Rows) -> Pixels:
        """uint8 (n, H, W, C) of the rows."""
        return self._array[rows]


class FileSource:
    """Image files, each decoded at most once if they are small."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._decoded = np.zeros(len(paths), bool)
        self._differ = False

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, row: int) -> str:
        """The path."""
        return str(self._paths[row])

    def image(self, row: int) -> Image.Image:
        """The decoded file; raises InputError naming it if it is corrupt."""
        return image_from(self._paths[row])

    @cached_property
    def shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) shared by a sample of the files, C = 3 if any is coloured; None if their sizes differ."""
        chosen = np.unique(np.linspace(0, len(self) - 1, _HEADERS_READ).astype(int))
        headers = {header_of(self._paths[row]) for row in chosen}
        sizes = {header[:2] for header in headers}
        return (*sizes.pop(), max(header[2] for header in headers)) if len(sizes) == 1 else None

    @cached_property
    def turned(self) -> tuple[int, int]:
        """(files with an EXIF rotation, files looked at): all, or a sample spread over many."""
        chosen = np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int))
        return sum(in_threads(lambda row: is_turned(self._paths[row]), chosen)), len(chosen)

    def pixels(self, rows: Rows) -> Pixels | None:
        """Decodes those of `rows` that have not been yet; None if images are too large or differ in size."""
        if self._differ or self.shape is None or len(self) * math.prod(self.shape) > MEMORY_LIMIT_BYTES:
            return None
        self._differ = not self._decode(rows[~self._decoded[rows]])
        if self._differ:
            del self._array
            return None
        whole = len(rows) == len(self) and bool((np.diff(rows) == 1).all())
        return self._array if whole else self._array[rows]

    @cached_property
    def _array(self) -> Pixels:
        assert self.shape is not None
        return np.empty((len(self), *self.shape), np.uint8)

    def _decode(self, rows: Rows) -> bool:
        """Whether all images have the expected shape."""
        _ = self._array  # made before threads ask for it: cached_property takes no lock
        tasks = [rows[start : start + _FILES_A_TASK] for start in range(0, len(rows), _FILES_A_TASK)]
        done: Iterable[bool] = in_threads(self._decode_some, tasks)
        if len(rows) >= _FILES_WORTH_A_BAR:
            _log.info("decoding %d images", len(rows))
            done = track(done, "decoding images", total=len(tasks))
        return all(list(done))

    def _decode_some(self, rows: Rows) -> bool:
        height, width, channels = self._array.shape[1:]
        for row in rows:
            image = image_from(self._paths[row])
            if image.size != (width, height) or (channels == 1 and image.mode != "L"):
                _log.info("%s differs from the other images: all are decoded as they are used", self._paths[row])
                return False
            self._array[row] = pixels_from(with_channels(image, channels))
        self._decoded[rows] = True
        return True


Source = ArraySource | FileSource  # images by row number


def in_threads(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None) -> Iterator[R]:
    """`map` over threads: results in order, at most four items a thread ahead of the consumer."""
    workers = workers or available_cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
