"""Looks for pairs that are probably wrong: near-copies, sides that are shifted, mirrored or swapped, and targets that
belong to other inputs.

Every judgement compares true pairs with the same pairs shuffled, so that what all images of a data set share (a
horizon, a frame) counts for nothing. The sides of a pair may look entirely different (labels and photographs, RGB and
depth): they are compared by their edges, and by whether similar inputs have similar targets. Where too little
connects the sides to tell, as for camera images and sparse LiDAR, nothing is reported.

The cheap checks, which run at every start, are in `summary.py`.
"""

from collections.abc import Iterator
import dataclasses
import hashlib

import numpy as np

from pix2pix_jax.data.readers.progress import track
from pix2pix_jax.data.source import Source
from pix2pix_jax.errors import few
from pix2pix_jax.signals import DataSpec, Image, Signal

GRID = 128  # cells of an image's longer side
THUMBNAIL = 32  # cells of a thumbnail's sides
LAYOUT = 16  # cells of the sides of a coarse layout
LOOK_ROWS = 64  # rows of an image from which statistics of its colours are computed, about
COPY = 0.94  # correlation of the fine detail of two thumbnails, above which the images are near-copies
MIN_PAIRS = 16  # fewer are not compared with shuffled ones
MIN_RELATED = 64  # fewer cannot prove that nothing connects the sides
COMMON = 0.25  # share of the pairs that must agree on a shift or a mirroring, and at least MIN_COMMON
MIN_COMMON = 8
MIN_ASTRAY = 16  # pairs, and at least half of them, that must be shifted, each differently
UNRELATED = 3.0  # standard deviations above shuffled pairs, below which nothing connects the sides
FITTING = 6.0  # the same for a target that clearly fits an input
MIRRORS = {"left to right": (slice(None), slice(None, None, -1)), "upside down": (slice(None, None, -1), slice(None))}


@dataclasses.dataclass(frozen=True)
class _Side:
  """The inputs or the targets of a sample, reduced to what the checks compare.

  Attributes:
    checksums: of the raw images.
    edges: gradient magnitudes, float32 (n, h, w), on a grid.
    thumbnails: float32 (n, THUMBNAIL, THUMBNAIL).
    looks: statistics of the colours, (n, k); k is 0 if the two sides hold different kinds of numbers.
  """

  checksums: list[bytes]
  edges: np.ndarray
  thumbnails: np.ndarray
  looks: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Sample:
  """Pairs of a split.

  Attributes:
    split: its name.
    ids: of the pairs.
    size: (height, width) of the first target in pixels, which the grid of the edges covers.
    input, target: their sides.
  """

  split: str
  ids: list[str]
  size: tuple[int, int]
  input: _Side
  target: _Side

  def count(self, number: int) -> str:
    """For example "3 of 64 pairs of train"."""
    return f"{number} of {len(self.ids)} pairs of {self.split}"

  def few(self, which: np.ndarray) -> str:
    """The first few ids where `which`, bool (n,), holds."""
    return few(self.ids[i] for i in np.flatnonzero(which))


def examine(source: Source, spec: DataSpec, limit: int = 500) -> list[str]:
  """Returns one line for each finding: the pairs, what seems wrong with them, and what to do.

  Shifts of less than two cells of the grid (1.5 % of the longer side) are not found.

  Args:
    source: source of the examples.
    spec: their signals, complete.
    limit: number of pairs of each split to compare; larger splits are sampled at equal distances.
  """
  samples = [_take(source, spec, split, limit) for split in spec.counts]
  lines = [line for i, later in enumerate(samples) for earlier in samples[: i + 1] for line in _copies(later, earlier)]
  for sample in samples:
    if len(samples[0].ids) >= MIN_PAIRS:
      lines += _swaps(sample, samples[0])
    if len(sample.ids) >= MIN_PAIRS:
      spectra = _spectra(sample.input.edges), _spectra(sample.target.edges)
      misplaced = list(_misalignment(sample, *spectra))
      lines += misplaced or _wrong_partners(sample, *spectra)
  return lines


# --- Reduction


def _take(source: Source, spec: DataSpec, split: str, limit: int) -> _Sample:
  stride = -(-spec.counts[split] // limit)
  pairs = source.pairs(split, stride)
  comparable = {(type(signal), signal.channels) for signal in (spec.input, spec.target)} == {
    (Image, spec.input.channels)
  }
  ids: list[str] = []
  rows: list[list[tuple]] = [[], []]  # of inputs and targets: the fields of `_Side`
  size = grid = (0, 0)
  for name, *images in track(pairs, -(-spec.counts[split] // stride), f"Examining {split}"):
    if not ids:
      size = images[1].shape[:2]
      factor = min(1.0, GRID / max(size))
      grid = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    ids.append(name)
    for side, image, signal in zip(rows, images, (spec.input, spec.target), strict=True):
      reduced = _reduce(image, signal, grid)
      side.append((_checksum(image), _edges(reduced), _thumbnail(reduced), _look(image) if comparable else []))
  sides = []
  for side in rows:
    checksums, edges, thumbnails, looks = zip(*side)
    sides.append(_Side(list(checksums), np.stack(edges), np.stack(thumbnails), np.stack(looks)))
  return _Sample(split, ids, size, *sides)


def _checksum(image: np.ndarray) -> bytes:
  return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()


def _thumbnail(reduced: np.ndarray) -> np.ndarray:
  return _shrink(reduced, (THUMBNAIL, THUMBNAIL)).mean(-1)


def _reduce(image: np.ndarray, signal: Signal, grid: tuple[int, int]) -> np.ndarray:
  """Raw values (H, W, C) → encoded ones on the grid: means of the valid pixels, and the nearest mean where none is."""
  from scipy import ndimage  # slow to import, and only the doctor and a baseline need it

  valid = signal.valid(image)
  encoded = signal.encode(image)
  if valid is None:
    return _shrink(encoded, grid)
  weight = _shrink(valid.astype(np.float32), grid)
  mean = _shrink(np.where(valid, encoded, 0), grid) / np.maximum(weight, 1e-6)
  holes = weight[..., 0] == 0
  if not holes.any() or holes.all():
    return mean
  rows, columns = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
  return mean[rows, columns]


def _shrink(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Means over the cells of a grid, (H, W, …) → (*shape, …). A cell without a pixel
  of its own holds the nearest one's value.
  """
  for axis, cells in enumerate(shape):
    length = values.shape[axis]
    if length == cells:
      continue
    starts = np.arange(cells) * length // cells
    widths = np.maximum(1, np.diff(starts, append=length)).astype(np.float32)
    values = np.add.reduceat(values, starts, axis) / widths.reshape(
      [-1 if i == axis else 1 for i in range(values.ndim)]
    )
  return values


def _edges(values: np.ndarray) -> np.ndarray:
  """Gradient magnitudes over all channels, (H, W, C) → (H, W); 0 on the border."""
  found = np.zeros(values.shape[:2], np.float32)
  down, across = values[2:, 1:-1] - values[:-2, 1:-1], values[1:-1, 2:] - values[1:-1, :-2]
  found[1:-1, 1:-1] = np.sqrt((down**2 + across**2).sum(-1))
  return found


def _look(image: np.ndarray) -> np.ndarray:
  """Statistics of an image's colours: mean and deviation of each channel, share of flat pixels, and contrast."""
  rows = image[:: max(1, len(image) // LOOK_ROWS)]
  values = rows.astype(np.float32) / np.iinfo(image.dtype).max
  steps = np.abs(np.diff(values, axis=1)).max(-1)
  return np.array([*values.mean((0, 1)), *values.std((0, 1)), (steps < 0.01).mean(), steps.mean()])


# --- Copies


def _copies(later: _Sample, earlier: _Sample) -> Iterator[str]:
  """Pairs of which both sides nearly equal those of another pair, mirrored or not. `summary.py` finds exact copies."""
  alike = _alike(later, earlier)
  if not alike.any():
    return
  copies = alike.any(1)
  which = few(f"{later.ids[i]} ≈ {earlier.ids[alike[i].argmax()]}" for i in np.flatnonzero(copies))
  if later is earlier:
    yield (
      f"{later.count(copies.sum())} nearly equal another one, perhaps mirrored ({which}). Remove the copies; if they "
      "are frames of a video, keep each recording in one split."
    )
  else:
    yield (
      f"{later.count(copies.sum())} nearly equal pairs of {earlier.split}, perhaps mirrored ({which}), so metrics of "
      f"{later.split} are too good. Divide the data by scene or recording, before any augmentation."
    )


def _alike(later: _Sample, earlier: _Sample) -> np.ndarray:
  """Whether pairs of `later` (rows) nearly equal pairs of `earlier` (columns), or within one sample, earlier pairs."""
  alike = np.zeros((len(later.ids), len(earlier.ids)), bool)
  exact = np.ones_like(alike)
  sides = [(later.input, earlier.input), (later.target, earlier.target)]
  for step in (1, -1):
    correlations = []
    for first, second in sides:
      a, b = _details(first.thumbnails), _details(second.thumbnails[:, :, ::step])
      correlations.append(a.reshape(len(a), -1) @ b.reshape(len(b), -1).T)
    alike |= np.minimum(*correlations) > COPY
  for first, second in sides if later is earlier else sides[:1]:
    exact &= np.array(first.checksums)[:, None] == np.array(second.checksums)
  alike &= ~exact
  return np.tril(alike, -1) if later is earlier else alike


def _details(thumbnails: np.ndarray) -> np.ndarray:
  """Thumbnails without what is smooth, so that similar scenes do not count as copies; norm 1, or 0 if flat."""
  from scipy import ndimage

  fine = thumbnails - ndimage.uniform_filter(thumbnails, (0, 5, 5), mode="nearest")
  fine -= fine.mean((1, 2), keepdims=True)
  norms = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
  return np.where(norms > 1e-3, fine / np.maximum(norms, 1e-3), 0)


# --- The two sides of a pair


def _swaps(sample: _Sample, usual: _Sample) -> Iterator[str]:
  """Pairs whose inputs look like the usual targets and the other way round; `usual` may be the same sample."""
  differences, others = (each.input.looks - each.target.looks for each in (sample, usual))
  if not differences.size:
    return
  typical = np.median(others, axis=0)
  spread = np.median(np.abs(others - typical), axis=0) + 1e-3
  scores = differences @ (typical / spread**2)  # of the others positive, of swapped pairs negative
  middle = np.median(others @ (typical / spread**2))
  swapped = scores < -middle / 2
  if swapped.any() and (np.abs(scores) <= middle / 2).mean() < 0.02:
    yield (
      f"{sample.count(swapped.sum())} seem to have input and target swapped, judging by the colours of "
      f"{'the others' if usual is sample else usual.split} ({sample.few(swapped)}). Exchange their sides."
    )


def _spectra(edges: np.ndarray) -> np.ndarray:
  """Phases of windowed edges, slightly smoothed: complex64 (n, h, w // 2 + 1)."""
  from scipy import fft

  height, width = edges.shape[1:]
  window = np.sqrt(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]))
  spectra = fft.rfft2(((edges - edges.mean((1, 2), keepdims=True)) * window).astype(np.float32))
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
  smooth = np.where(frequency > 0, np.exp(-((np.pi * frequency / 2) ** 2)), 0).astype(np.float32)
  return smooth * spectra / np.maximum(np.abs(spectra), 1e-6)


@dataclasses.dataclass(frozen=True)
class _Peaks:
  """Where phase correlation places the targets: shifts (n, 2) down and right in cells, and their heights (n,)."""

  shifts: np.ndarray
  heights: np.ndarray

  @property
  def centered(self) -> np.ndarray:
    return np.abs(self.shifts).max(1) <= 1

  def agreeing(self, which: np.ndarray) -> np.ndarray:
    """For each pair in `which`, bool (n,), the number of pairs in it with the same shift, to one cell; 0 for others."""
    near = np.abs(self.shifts[:, None] - self.shifts).max(2) <= 1
    return (near & which).sum(1) * which


class _Correlation:
  """Phase correlation of inputs with targets, judged against the same pairs shuffled.

  Attributes:
    threshold: the height that 2 % of the shuffled pairs exceed.
    by_chance: the largest number of shuffled pairs that agree on a shift.
  """

  def __init__(self, inputs: np.ndarray, targets: np.ndarray, grid: tuple[int, int]):
    self._inputs, self._grid = inputs, grid
    others = np.roll(targets, len(targets) // 2, axis=0)
    self._common = np.zeros(grid, np.float32)
    self._common = np.mean([self._surface(*pair) for pair in zip(inputs, others)], axis=0)
    peaks = self.peaks(others)
    self.threshold = float(np.quantile(peaks.heights, 0.98))
    self.by_chance = int(peaks.agreeing(np.ones(len(others), bool)).max())

  def _surface(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In standard deviations, less what shuffled pairs have in common."""
    from scipy import fft

    surface = fft.irfft2(np.conj(x) * y, s=self._grid)
    return surface / max(float(surface.std()), 1e-9) - self._common

  def peaks(self, targets: np.ndarray) -> _Peaks:
    shifts, heights = [], []
    for pair in zip(self._inputs, targets, strict=True):
      surface = self._surface(*pair)
      place = np.unravel_index(surface.argmax(), self._grid)
      shifts.append([at if at <= size // 2 else at - size for at, size in zip(place, self._grid)])
      heights.append(surface.max())
    return _Peaks(np.array(shifts), np.array(heights))


def _misalignment(sample: _Sample, inputs: np.ndarray, targets: np.ndarray) -> Iterator[str]:
  """Targets that are shifted or mirrored, from the spectra of both sides."""
  count, grid = len(sample.ids), sample.target.edges.shape[1:]
  correlation = _Correlation(inputs, targets, grid)
  peaks = correlation.peaks(targets)
  enough = max(MIN_COMMON, COMMON * count)
  astray = ~peaks.centered
  clear = peaks.heights > correlation.threshold
  pixels = peaks.shifts * np.array(sample.size) / grid
  agreeing = peaks.agreeing(astray)
  if agreeing.max() >= max(enough, 2 * correlation.by_chance, (astray & clear).sum() / 2):
    alike = np.abs(peaks.shifts - peaks.shifts[agreeing.argmax()]).max(1) <= 1
    yield (
      f"The targets of {sample.count(alike.sum())} are shifted against their inputs by about "
      f"{_vector(np.median(pixels[alike], axis=0))} pixels, right and down ({sample.few(alike)}). Crop and resize both "
      "sides alike."
    )
  elif (astray := astray & clear).sum() >= max(MIN_ASTRAY, count / 2):
    each = few(f"{sample.ids[i]} by {_vector(pixels[i])}" for i in np.flatnonzero(astray))
    yield (
      f"The targets of {sample.count(astray.sum())} are shifted against their inputs, each differently, in pixels "
      f"right and down: {each}. Crop both sides of a pair at the same place."
    )
  for name, order in MIRRORS.items():
    mirrored = correlation.peaks(_spectra(sample.target.edges[:, *order]))
    found = mirrored.centered & (mirrored.heights > np.maximum(correlation.threshold, 1.3 * peaks.heights))
    if found.sum() >= enough:
      yield (
        f"The targets of {sample.count(found.sum())} fit their inputs better when mirrored {name} "
        f"({sample.few(found)}). Mirror both sides of a pair, or neither."
      )


def _vector(shift: np.ndarray) -> str:
  """(down, right) as "(right, down)" of integers."""
  return f"({shift[1]:.0f}, {shift[0]:.0f})"


def _wrong_partners(sample: _Sample, inputs: np.ndarray, targets: np.ndarray) -> Iterator[str]:
  """Targets that fit other inputs, or none, from the spectra of both sides."""
  count = len(sample.ids)
  scores = (inputs.reshape(count, -1).conj() @ targets.reshape(count, -1).T).real
  scores = scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()
  others = scores[~np.eye(count, dtype=bool)]
  scores /= max(float(np.median(np.abs(others))) * 1.4826, 1e-9)  # standard deviations of shuffled pairs
  own, best = np.diag(scores), scores.argmax(1)
  mutual = scores.argmax(0)[best] == np.arange(count)
  exchanged = mutual & (scores.max(1) > FITTING) & (own < 1) & (own[best] < 1)
  if exchanged.sum() >= 2:
    which = few(f"{sample.ids[i]} fits the target of {sample.ids[best[i]]}" for i in np.flatnonzero(exchanged))
    yield (
      f"{sample.count(exchanged.sum())} or more have the wrong target: the input of {which}. Check how the files were "
      "matched."
    )
  elif count >= MIN_RELATED and max(own.mean() * count**0.5, *_layouts(sample)) < UNRELATED:
    yield (
      f"The inputs and targets of {sample.split} seem unrelated: {count} pairs fit no better than the same pairs "
      "shuffled. Check that both sides are in the same order (img10 sorts before img2) and show the same scenes."
    )


def _layouts(sample: _Sample) -> list[float]:
  """Whether similar inputs have similar targets: the sum of the squared correlations of their principal components, in
  standard deviations above that of shuffled pairs, for thumbnails and for edges.
  """
  generator = np.random.default_rng(0)
  found = []
  for x, y in (
    (sample.input.thumbnails, sample.target.thumbnails),
    (sample.input.edges, sample.target.edges),
  ):
    x, y = _components(x), _components(y)
    shuffled = [np.sum((x.T @ y[generator.permutation(len(y))]) ** 2) for _ in range(200)]
    found.append(float((np.sum((x.T @ y) ** 2) - np.mean(shuffled)) / max(float(np.std(shuffled)), 1e-9)))
  return found


def _components(images: np.ndarray) -> np.ndarray:
  """The first 8 principal components of coarse images, (n, 8), each of norm 1."""
  coarse = np.stack([_shrink(image, (LAYOUT, LAYOUT)) for image in images]).reshape(len(images), -1)
  return np.linalg.svd(coarse - coarse.mean(0), full_matrices=False)[0][:, :8]
