"""Translates files with a trained model: images in batches, volumes slice by slice, large rasters window by window.

The files of one kind of signal are read and written here, with the geometry of rasters and volumes.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
from pathlib import Path
import sys
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pix2pix_jax.data import files
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.data.resizing import resize_raw
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.inference import Translator
from pix2pix_jax.output import counted
from pix2pix_jax.run import viz
from pix2pix_jax.signals import Signal, Stack

BATCH_PIXELS = 2**21  # limits batches of large images; this many pixels need about 1.5 GiB with 64 features


# --- Files and signals


@dataclasses.dataclass(frozen=True)
class Options:
  """How files are translated.

  Attributes:
    samples: number of results for each file.
    seed, tile, dropout, norm_stats: as for `Translator.__call__`.
    side_by_side: write input and output beside each other, in the colours of the samples.
    batch_size: number of images of equal shape computed together; 1 with `tile` and with `norm_stats="batch"`.
    resize_to: (height, width) of the images that are translated; a width of None keeps the proportions. None: images
      keep their size.
    key: name of the array in .npz and HDF5 files; None: their only one.
    axis: axis of the slices of volumes, as in `files.read`; None: its default.
    submission: write depth as KITTI's servers take it, 16-bit PNG of metres · 256 without holes.
    partners: for a model of several inputs, the files of all of them for each file of the first.
  """

  samples: int = 1
  seed: int = 0
  tile: int | None = None
  dropout: bool | None = None
  norm_stats: str | None = None
  side_by_side: bool = False
  batch_size: int = 8
  resize_to: tuple[int, int | None] | None = None
  key: str | None = None
  axis: int | None = None
  submission: bool = False
  partners: Mapping[Path, tuple[Path, ...]] = dataclasses.field(default_factory=dict)


class Content(NamedTuple):
  """Everything that is read from a file.

  Attributes:
    images: (D, H, W, C), accepted by the input's signal; D is 1 for an ordinary image.
    size: (height, width) in the file, before any resize.
    is_volume: whether the answers are written as one volume.
    axis: axis of its slices as (z, y, x); None: that of the format's default.
    geometry: of the file, if its size was kept.
    outside: bool (H, W, 1): where a raster declares every band to be nodata; None: nowhere.
    assumed_scale: the files of depth in integers that were read with KITTI's scale, because the run declares none for
      this input.
  """

  images: np.ndarray
  size: tuple[int, int]
  is_volume: bool = False
  axis: int | None = None
  geometry: Geometry | None = None
  outside: np.ndarray | None = None
  assumed_scale: tuple[Path, ...] = ()


DEFAULTS = Options()


def read(signal: Signal, path: Path, options: Options = DEFAULTS) -> Content:
  """Reads a file as the model accepts it: with the model's channels, depth as float32 metres, 0 in holes, quantities in
  their unit, NaN in holes, label maps as class indices.

  Raises:
    UsageError: the file cannot be read, or holds another kind of numbers, or numbers in another range.
  """
  if isinstance(signal, Stack):
    parts = zip(signal.names, signal.parts, options.partners[path], strict=True)
    contents = []
    for name, part, partner in parts:
      contents.append(read(part, partner, options))
      if (found := contents[-1].images.shape[-1]) != part.raw_channels:
        raise UsageError(
          f"{partner} has {counted(found, 'channel')}, but the input {name} has {part.raw_channels}. Are the folders "
          "swapped?"
        )
    joined = signal.join({name: each.images for name, each in zip(signal.names, contents)}, str(path))
    assumed = tuple(path for each in contents for path in each.assumed_scale)
    return contents[0]._replace(images=joined, assumed_scale=assumed)
  is_index_map = signal.kind == "classes" and not getattr(signal, "palette", ())
  key = options.key if files.suffix(path) in files.ARCHIVES else None
  axis = options.axis if path.is_dir() or files.suffix(path) in files.VOLUME_SUFFIXES else None
  volume = files.holds_slices(path)
  if volume:
    array = files.read_volume(path, colors=not is_index_map, axis=axis, key=key)
  else:
    array = files.read(path, colors=not is_index_map, key=key)[None]
    if files.suffix(path) in files.ARCHIVES and array.shape[-1] != signal.raw_channels == array.shape[1]:
      array = np.moveaxis(array, 1, -1)  # channels first, as PyTorch's users store them
  geometry = files.read_geometry(path) if files.may_hold_slices(path) else None
  images, outside = _accepted(signal, array, path, None if geometry is None else geometry.nodata)
  assumed = (path,) if _assumes_scale(signal, array) else ()
  if images.shape[-1] == signal.raw_channels:  # otherwise the translator says so
    try:
      signal.check_range(images, str(path))
    except UsageError as error:
      if not assumed:
        raise
      raise UsageError(f"{error} {about_scale(assumed)}") from error
  if options.resize_to is not None:
    height, width = options.resize_to
    shape = height, width or max(1, round(images.shape[2] * height / images.shape[1]))
    images = np.stack([resize_raw(signal, image, shape) for image in images])
    if images.shape[1:3] != array.shape[1:3]:
      geometry = outside = None
  along = _other_way(path, axis)
  return Content(images, (array.shape[1], array.shape[2]), volume, along, geometry, outside, assumed)


def _other_way(path: Path, axis: int | None) -> int | None:
  """An axis of a volume as (z, y, x) from the numbering of its format, and back: NIfTI numbers (i, j, k)."""
  return 2 - axis if axis is not None and files.suffix(path).startswith(".nii") else axis


def _accepted(
  signal: Signal, array: np.ndarray, path: Path, nodata: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Accepted (D, H, W, C), and where every channel is nodata: bool (H, W, 1), or None."""
  outside = None if nodata is None else _outside(array[0], nodata)
  if signal.kind != "image":
    array = signal.mark_missing(array, nodata)
  elif array.shape[-1] != signal.channels:
    colors = files.holds_colors(path, array.shape[-1])
    array = np.stack([files.with_channels(image, signal.channels, str(path), colors=colors) for image in array])
  if signal.kind == "depth" and array.dtype == np.uint16:  # see _assumes_scale
    array = array.astype(np.float32) / np.float32(_scale(signal))
  return signal.accept(array, str(path)), outside


def write(signal: Signal, path: Path, result: np.ndarray, content: Content, *, submission: bool = False) -> None:
  """Writes a translation (D, H, W, C) with the geometry of its input. PNG gets integers: depth by the signal's scale,
  float images in the model's number type, and class indices with the palette of their colours.
  """
  geometry = content.geometry
  if content.is_volume:
    is_stack = files.suffix(path).endswith((".tif", ".tiff", ".npy"))
    files.write_volume(path, result, geometry, axis=None if is_stack else _other_way(path, content.axis))
    return
  image = result[0]
  if content.outside is not None and geometry is not None and geometry.nodata is not None:
    image = _with_nodata(image, content.outside, geometry.nodata)
  colors = getattr(signal, "color_table", None)  # of classes
  if submission:
    files.write(path, np.maximum(image, 1 / files.KITTI_SCALE), depth_scale=files.KITTI_SCALE)
  elif path.suffix.lower() != ".png" or colors is not None:
    files.write(path, image, palette=colors, geometry=geometry)
  else:
    files.write(path, as_integers(signal, image))


def as_integers(signal: Signal, image: np.ndarray) -> np.ndarray:
  """The numbers of a PNG: of depth by the signal's scale, of float images in the model's number type."""
  if signal.kind == "depth":
    return files.scaled(image, _scale(signal))
  if image.dtype.kind == "f":
    return np.round(image.astype(np.float64) * np.iinfo(signal.dtype).max).astype(signal.dtype)
  return image


def _outside(array: np.ndarray, nodata: float) -> np.ndarray:
  """bool (H, W, 1): where every channel is nodata, which may be NaN."""
  missing = np.isnan(array) if np.isnan(nodata) else array == nodata
  return np.asarray(missing.all(-1))[..., None]


def _with_nodata(image: np.ndarray, outside: np.ndarray, nodata: float) -> np.ndarray:
  """The image with its raster's nodata outside, NaN in floats; unchanged if its number type has no such number.

  A float inside that equals nodata becomes the next larger one, because it is a value.
  """
  if image.dtype.kind == "f":
    image = np.where(image == nodata, np.nextafter(image, image.dtype.type(np.inf)), image)
    return np.where(outside, image.dtype.type(np.nan), image)
  limits = np.iinfo(image.dtype)
  fits = float(nodata).is_integer() and limits.min <= nodata <= limits.max
  return np.where(outside, image.dtype.type(nodata), image) if fits else image


def _scale(depth: Any) -> float:
  """The divisor of a signal's integer depth; that of KITTI if the run has float depth."""
  return depth.scale or files.KITTI_SCALE


def _assumes_scale(signal: Any, array: np.ndarray) -> bool:
  """Whether `_scale` assumes the scale of a file's integers."""
  return signal.kind == "depth" and array.dtype == np.uint16 and not signal.scale


def about_scale(paths: Sequence[Path]) -> str:
  """What to know about the files of `Content.assumed_scale`."""
  return (
    f"{few(sorted(paths))} {'was' if len(paths) == 1 else 'were'} read as metres · {files.KITTI_SCALE:.0f}, KITTI's "
    "encoding of depth, because this input had no scale in training. If the integers mean anything else, such as "
    "millimetres, convert them to metres in float TIFF or npy."
  )


def check_formats(signal: Signal, suffixes: Iterable[str]) -> None:
  """Checks that translated images can be written with these suffixes.

  Raises:
    UsageError: one of them cannot hold the signal's channels.
  """
  for suffix in suffixes:
    in_png = np.uint16 if signal.kind == "depth" else signal.dtype
    files.check_writable(suffix, signal.raw_channels, in_png if suffix.lower() == ".png" else signal.dtype)


def fits_png(signal: Signal) -> bool:
  """Whether PNG can hold a signal's values; it holds neither floats nor negative numbers."""
  in_integers = signal.kind != "quantity" or signal.dtype in ("uint8", "uint16")
  return in_integers and signal.raw_channels in files.PNG_COLOR_TYPES


# --- Images and volumes


class Item(NamedTuple):
  """One image of a file, with its number among the file's slices."""

  path: Path
  slice: int
  image: np.ndarray


def _room(image: np.ndarray, batch_size: int) -> int:
  """The size of a batch of images like this one."""
  return max(1, min(batch_size, BATCH_PIXELS // (image.shape[0] * image.shape[1])))


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
  """Groups images of equal shape and type, with at most four batches' worth of images waiting for a full group."""
  waiting: dict[Any, list[Item]] = collections.defaultdict(list)
  for item in items:
    form = item.image.shape, item.image.dtype
    waiting[form].append(item)
    if len(waiting[form]) == _room(item.image, batch_size):
      yield waiting.pop(form)
    elif sum(map(len, waiting.values())) == 4 * batch_size:
      yield waiting.pop(max(waiting, key=lambda form: len(waiting[form])))
  yield from waiting.values()


class FileTranslator:
  """Translates files with a few batches in memory at a time, reading ahead and writing behind.

  Attributes:
    failed: error messages by file.
    sizes: (height, width) of each file that was read, before any resize.
    assumed_scale: the files of `Content.assumed_scale`.
  """

  def __init__(self, translator: Translator, outputs: dict[Path, list[Path]], options: Options):
    """
    Args:
      translator: the trained generator.
      outputs: the files to write for each input, `options.samples` of them.
      options: how to translate.
    """
    in_batches = options.tile is None and (options.norm_stats or translator.config.evaluation.norm_stats) != "batch"
    self._translator, self._outputs, self._options = translator, outputs, options
    self._batch_size = options.batch_size if in_batches else 1
    self._filled: set[Any] = set()
    self._contents: dict[Path, Content] = {}
    self._results: dict[Path, list[np.ndarray | None]] = {}
    self.failed: dict[Path, str] = {}
    self.sizes: dict[Path, tuple[int, int]] = {}
    self.assumed_scale: list[Path] = []

  def run(self) -> None:
    """Translates every file; those that cannot be translated end in `failed`."""
    with (
      concurrent.futures.ThreadPoolExecutor(4) as pool,
      tqdm(total=len(self._outputs), unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
      writing: collections.deque[tuple[Path, concurrent.futures.Future]] = collections.deque()
      for batch in _batches(self._items(pool), self._batch_size):
        for item, results in self._answers(batch):
          if self._keep(item, results):
            writing.append((item.path, pool.submit(self._save, item.path)))
        while len(writing) > 2 * self._batch_size:
          self._settle(*writing.popleft())
        bar.n = len(self._results) + len(self.failed)
        bar.refresh()
      while writing:
        self._settle(*writing.popleft())

  def _items(self, pool: concurrent.futures.Executor) -> Iterator[Item]:
    """The images of all files; rasters that are larger than memory are translated on the way."""
    in_memory = []
    for path in self._outputs:
      if self._is_streamed(path):
        try:
          self._stream(path)
        except UsageError as error:
          self.failed[path] = str(error)
      else:
        in_memory.append(path)
    for path, job in _read_ahead(pool, self._read, in_memory, ahead=self._batch_size + 3):
      try:
        content = job.result()
      except UsageError as error:
        self.failed[path] = str(error)
        continue
      self._contents[path] = content._replace(images=np.empty(0))  # each waits only until it is translated
      self._results[path] = [None] * len(content.images)
      for i, image in enumerate(content.images):
        yield Item(path, i, image)

  def _read(self, path: Path) -> Content:
    content = read(self._translator.input_signal, path, self._options)
    self.sizes[path] = content.size
    self.assumed_scale += content.assumed_scale
    return content

  def _compute(self, images: np.ndarray, **more: Any) -> np.ndarray:
    options = self._options
    return self._translator(
      images,
      num_samples=options.samples,
      seed=options.seed,
      tile=options.tile,
      dropout=options.dropout,
      norm_stats=options.norm_stats,
      check_range=False,  # `read` checks whole files: a slice may well be empty
      **more,
    )

  def _answers(self, batch: list[Item]) -> list[tuple[Item, np.ndarray]]:
    """(image, samples) of a batch. If it fails, its images are tried one by one, so that only bad ones fail."""
    image = batch[0].image
    form, room = (image.shape, image.dtype), _room(image, self._batch_size)
    if len(batch) == room:
      self._filled.add(form)
    size = room if form in self._filled else len(batch)  # padding the last few saves compiling another program
    try:
      if size == 1:
        return [(batch[0], self._compute(image))]
      stacked = np.stack([*(item.image for item in batch), *[image] * (size - len(batch))])
      return list(zip(batch, self._compute(stacked, batch_size=size).swapaxes(0, 1)))
    except UsageError as error:
      if len(batch) == 1:
        self.failed[batch[0].path] = str(error)
        return []
      return [answer for item in batch for answer in self._answers([item])]

  def _keep(self, item: Item, results: np.ndarray) -> bool:
    """Keeps the samples of an image, and returns whether those of its whole file are there."""
    if self._options.side_by_side:
      results = np.stack([_beside(self._translator, item.image, result) for result in results])
    kept = self._results[item.path]
    kept[item.slice] = results
    return all(each is not None for each in kept)

  def _save(self, path: Path) -> None:
    content = self._contents.pop(path)
    slices = [each for each in self._results[path] if each is not None]
    self._results[path] = []
    for sample, target in enumerate(self._outputs[path]):
      result = np.stack([each[sample] for each in slices])
      if self._options.side_by_side:
        files.write(target, result[0])
      else:
        write(self._translator.target_signal, target, result, content, submission=self._options.submission)

  def _settle(self, path: Path, job: concurrent.futures.Future) -> None:
    try:
      job.result()
    except UsageError as error:
      self.failed[path] = str(error)

  # --- Rasters larger than memory

  def _is_streamed(self, path: Path) -> bool:
    options = self._options
    if options.tile is None or options.side_by_side or options.resize_to is not None or options.partners:
      return False
    if not all(files.suffix(target).endswith((".tif", ".tiff")) for target in self._outputs[path]):
      return False
    try:
      return files.may_hold_slices(path) and files.lazy_shape(path) is not None
    except UsageError:
      return False  # reading it whole reports the error

  def _stream(self, path: Path) -> None:
    """Translates a raster in rows of tiles, of which one is in memory at a time."""
    options, translator, signal = self._options, self._translator, self._translator.target_signal
    height, width, _ = files.lazy_shape(path) or (0, 0, 0)
    geometry = files.read_geometry(path)
    nodata = None if geometry is None else geometry.nodata
    self.sizes[path] = (height, width)
    if _assumes_scale(translator.input_signal, files.read_window(path, 0, 0, 1, 1)):
      self.assumed_scale.append(path)

    for sample, target in enumerate(self._outputs[path]):
      rows = translator.stream(
        lambda row, rows: files.read_window(path, row, 0, rows, width),
        (height, width),
        tile=options.tile or 0,
        accept=lambda tiles: _accepted(translator.input_signal, tiles, path, nodata)[0],
        sample=sample,
        seed=options.seed,
        dropout=options.dropout,
        norm_stats=options.norm_stats,
      )
      with files.RasterWriter(target, height, width, signal.raw_channels, np.dtype(signal.dtype), geometry) as writer:
        for row, result in rows:
          if nodata is not None:
            outside = _outside(files.read_window(path, row, 0, len(result), width), nodata)
            result = _with_nodata(result, outside, nodata)
          writer.write(row, 0, result)
    self._results[path] = []


def _read_ahead(
  pool: concurrent.futures.Executor, reading: Callable[[Path], Content], paths: Iterable[Path], ahead: int
) -> Iterator[tuple[Path, concurrent.futures.Future]]:
  """Yields (path, future of its content) and keeps reading the next `ahead` files."""
  jobs: collections.deque[tuple[Path, concurrent.futures.Future]] = collections.deque()
  for path in paths:
    jobs.append((path, pool.submit(reading, path)))
    if len(jobs) > ahead:
      yield jobs.popleft()
  while jobs:
    yield jobs.popleft()


def _beside(translator: Translator, image: np.ndarray, result: np.ndarray) -> np.ndarray:
  """Input and output side by side, as uint8 RGB."""
  sides = (translator.input_signal, image), (translator.target_signal, result)
  return np.concatenate([viz.show(signal, raw) for signal, raw in sides], axis=1)
