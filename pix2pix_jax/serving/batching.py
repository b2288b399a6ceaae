"""Requests from many threads, translated together by a few: those that wait while a batch is computed form the next."""

import collections
import concurrent.futures
import dataclasses
import threading
from typing import NamedTuple

import numpy as np

from pix2pix_jax.inference import Translator
from pix2pix_jax.run.translation import BATCH_PIXELS

WORKERS = 2  # threads that compute
MAX_PROGRAMS = 24  # compiled for different sizes; each takes some megabytes


class Full(Exception):
  """Too many images are waiting."""


class Stopped(Exception):
  """The server stops before an image was translated."""


class Options(NamedTuple):
  """How an image is translated; images with equal options and shapes share a batch.

  Attributes:
    seed, samples, dropout: as for `Translator`.
    alone: whether to compute the image in a batch of its own, as `Translator` does for a single image. The size of a
      batch can change an 8-bit value by one and a float in its last digits, but its other images change nothing.
  """

  seed: int = 0
  samples: int = 1
  dropout: bool | None = None
  alone: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
  image: np.ndarray
  options: Options
  future: concurrent.futures.Future

  @property
  def group(self) -> tuple:
    return self.options, self.image.shape, self.image.dtype


class Batcher:
  """A queue of images in front of a translator.

  `submit` may be called from any thread. Some threads have to call `run`, which computes until `close`: with two of
  them, one encodes and decodes while the other computes, and small networks, which occupy one core, use a second one.

  Batches are powers of two, so that there are few programs. An image that has come alone is computed at once.

  Attributes:
    translated: number of images that were translated.
    batches: number of batches that they were computed in.
  """

  def __init__(self, translator: Translator, *, batch_size: int = 8, max_waiting: int = 64):
    """
    Args:
      translator: the model.
      batch_size: number of images computed together, a power of two; 1 for a model that is evaluated with
        `norm_stats="batch"`, where images would affect each other.
      max_waiting: number of images that may wait.
    """
    self._translator, self._max_waiting = translator, max_waiting
    self._batch_size = 1 if translator.config.evaluation.norm_stats == "batch" else batch_size
    self._waiting: collections.deque[_Job] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._programs: set[tuple] = set()
    self.translated = self.batches = 0

  def submit(self, image: np.ndarray, options: Options) -> concurrent.futures.Future:
    """A future of the translations (samples, H, W, C) of an image (H, W, C) as the model accepts it.

    Its `cancel` takes the image out of the queue, unless its batch is being computed.

    Raises:
      Full: too many images are waiting.
      Stopped: after `close`.
    """
    job = _Job(image, options, concurrent.futures.Future())
    with self._changed:
      if self._closed:
        raise Stopped
      if len(self._waiting) >= self._max_waiting:
        self._waiting = collections.deque(each for each in self._waiting if not each.future.cancelled())
      if len(self._waiting) >= self._max_waiting:
        raise Full
      self._waiting.append(job)
      self._changed.notify()
    return job.future

  @property
  def waiting(self) -> int:
    """Number of images that wait."""
    return len(self._waiting)

  def run(self) -> None:
    """Translates until `close`."""
    while batch := self._next():
      self._translate(batch)

  def close(self) -> None:
    """Makes `run` return after its current batch; images that wait fail with `Stopped`."""
    with self._changed:
      self._closed = True
      for job in self._waiting:
        if job.future.set_running_or_notify_cancel():
          job.future.set_exception(Stopped())
      self._waiting.clear()
      self._changed.notify_all()

  def warm_up(self, shape: tuple[int, int], count: int = 1) -> None:
    """Compiles the program for `count` images of (height, width) at once."""
    signal = self._translator.input_signal
    self._compute([np.zeros((*shape, signal.raw_channels), signal.dtype)] * count, Options())

  def warm_up_batches(self, shape: tuple[int, int]) -> None:
    """Compiles the programs for all larger batches, until `close`; each takes seconds the first time."""
    count = 2
    while count <= self._room(shape) and not self._closed:
      self.warm_up(shape, count)
      count *= 2

  def _room(self, shape: tuple[int, ...]) -> int:
    """The largest batch of images of (height, width): a power of two."""
    room = max(1, min(self._batch_size, BATCH_PIXELS // (shape[0] * shape[1])))
    return 1 << (room.bit_length() - 1)

  def _next(self) -> list[_Job]:
    """The oldest image with those that can join it, which leave the queue; empty after `close`."""
    with self._changed:
      while True:
        while not self._waiting and not self._closed:
          self._changed.wait(0.5)  # a limit, because a wait without one cannot be interrupted on Windows
        if self._closed:
          return []
        first = self._waiting[0]
        alike = [job for job in self._waiting if job.group == first.group and not job.future.cancelled()]
        room = 1 if first.options.alone else min(self._room(first.image.shape), len(alike) or 1)
        size = 1 << (room.bit_length() - 1)
        batch = [job for job in alike[:size] if job.future.set_running_or_notify_cancel()]
        taken = set(batch)
        self._waiting = collections.deque(
          job for job in self._waiting if job not in taken and not job.future.cancelled()
        )
        if self._waiting:
          self._changed.notify()  # for another thread
        if batch:
          return batch

  def _translate(self, batch: list[_Job]) -> None:
    """Fulfils the futures of a batch. If it fails, its images are tried one by one, so that only bad ones fail."""
    try:
      results = self._compute([job.image for job in batch], batch[0].options)
    except Exception as error:  # whatever it is, its requests report it, and the others go on
      if len(batch) == 1:
        batch[0].future.set_exception(error)
        return
      for job in batch:
        self._translate([job])
      return
    with self._changed:
      self.translated += len(batch)
      self.batches += 1
    for job, result in zip(batch, results):
      job.future.set_result(result)

  def _compute(self, images: list[np.ndarray], options: Options) -> np.ndarray:
    """(N, samples, H, W, C). A batch with an image that has left is filled up to a power of two."""
    size = 1 << (len(images) - 1).bit_length()
    self._limit_programs(images[0].shape, size, options.dropout)
    stacked = np.stack([*images, *[images[0]] * (size - len(images))])
    results = self._translator(
      stacked, num_samples=options.samples, seed=options.seed, dropout=options.dropout, batch_size=size
    )
    return results.swapaxes(0, 1)[: len(images)]

  def _limit_programs(self, shape: tuple[int, ...], size: int, dropout: bool | None) -> None:
    multiple = self._translator.multiple
    padded = tuple(-(-side // multiple) * multiple for side in shape[:2])
    program = (*padded, size, self._translator.config.evaluation.dropout if dropout is None else dropout)
    with self._changed:
      if program not in self._programs and len(self._programs) >= MAX_PROGRAMS:
        self._translator.forget_programs()
        self._programs.clear()
      self._programs.add(program)
