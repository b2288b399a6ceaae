"""A summary of a data set: sizes, number types and ranges of every split, and warnings about what may be unintended.

It is computed once, in a pass over the examples, and stored as JSON beside the shards, where later starts read it.
"""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
import json
import math
import os
import re
from typing import Any
import uuid

import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.data.readers.progress import track
from pix2pix_jax.data.source import Source
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Quantity, Signal, Stack

FILE = "summary.json"
REVISION = 9  # of its content
METADATA, PALETTES = "metadata.json", "palettes"  # what a reader recorded in TFDS's file beside the shards
QUANTILES = 1000  # kept of the values of depth and quantities: 0.1 % apart
CLIPPED = 0.001  # share of a quantity's values below a range that is left to the data, and above it
MAX_VALUES = 10**6  # from which the quantiles of a split are computed
MAX_PIXELS = 4096  # of an image, whose colours are counted
MAX_COLORS = 64  # more are not counted: images with more are not label maps
FEW_PAIRS = 10
USUAL_MARKERS = (0, -99, -999, -9999, -99999, 999, 9999, 99999, 255, -32768, 32767, 65535, -2000, -3024)  # of no value


@dataclasses.dataclass(frozen=True)
class Side:
  """The inputs or the targets of a split.

  Attributes:
    sizes: (height, width, number of images), the most common first.
    low, high: smallest and largest value (of depth and quantities, of the pixels that have one); 0 if there are none.
    zeros: share of zeros among all values; of depth and quantities, of the pixels without a value.
    low_above_zero: smallest value above zero, for depth and images of one 16-bit channel; 0 if there is none.
    quantiles: quantiles of depth measurements, or of the first channel of a quantity or 16-bit image, from 0.05 to
      99.95 %, 0.1 % apart; empty for others.
    ranges: of a quantity, for each channel, the 0.1 and 99.9 percentiles.
    values: of classes, the indices that occur.
    colors: number of different colours if it is small for the number of pixels, else 0.
    palette: of classes, the colours in the palette of the first file, one for each index; empty if it has none.
    identical: whether there are several images and all are the same.
    parts: of several inputs, the same for each.
  """

  sizes: list[tuple[int, int, int]]
  low: float
  high: float
  zeros: float
  low_above_zero: float
  quantiles: list[float]
  ranges: list[tuple[float, float]]
  values: list[int]
  colors: int
  palette: list[tuple[int, int, int]]
  identical: bool
  parts: list["Side"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class SplitSummary:
  """A split.

  Attributes:
    count: number of pairs.
    same: number of pairs whose target equals their input.
    input, target: its sides.
    findings: lines about single pairs.
  """

  count: int
  same: int
  input: Side
  target: Side
  findings: list[str]


@dataclasses.dataclass(frozen=True)
class Summary:
  """A data set.

  Attributes:
    splits: its splits by name.
    notes: lines about what was found and what was left out.
    duplicates: lines about pairs that occur more than once.
    checksum: of the images of all splits in order; it depends on no file name or time.
  """

  splits: dict[str, SplitSummary]
  notes: list[str]
  duplicates: list[str]
  checksum: str


def read(source: Source) -> Summary | None:
  """The summary stored beside the shards, or None if there is none of this revision, or only a damaged one."""
  if source.folder is None:
    return None
  try:
    content = json.loads((source.folder / FILE).read_text(encoding="utf-8"))
    if content["revision"] != REVISION or content.pop("digest") != _digest(content):
      return None
    splits = {
      name: SplitSummary(
        split["count"], split["same"], _side(split["input"]), _side(split["target"]), split["findings"]
      )
      for name, split in content["splits"].items()
    }
    return Summary(splits, content["notes"], content["duplicates"], content["checksum"])
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None


def _digest(content: dict[str, Any]) -> str:
  """A checksum of the content of the file, without the checksum itself."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _side(fields: dict[str, Any]) -> Side:
  tuples = {name: [tuple(row) for row in fields[name]] for name in ("sizes", "ranges", "palette")}
  return Side(**{**fields, **tuples, "parts": [_side(part) for part in fields["parts"]]})


def make(source: Source, notes: Iterable[str] = ()) -> Summary:
  """Summarises the examples of a source and, if the source has shards, stores the summary beside them."""
  spec = source.spec
  digest, seen = hashlib.sha256(), Duplicates()
  splits = {name: _summarize(source, name, count, digest, seen) for name, count in spec.counts.items()}
  found = Summary(splits, list(notes), seen.lines(), digest.hexdigest()[:16])
  if source.folder is not None:
    path = source.folder / FILE
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
      content = {"revision": REVISION, **dataclasses.asdict(found)}
      part.write_text(json.dumps({**content, "digest": _digest(content)}), encoding="utf-8")
      os.replace(part, path)
    except OSError:  # the folder belongs to somebody else; the summary is computed again next time
      part.unlink(missing_ok=True)
  return found


def _summarize(source: Source, split: str, count: int, digest: Any, seen: "Duplicates") -> SplitSummary:
  """Summarises a split, and adds its images to a digest of `hashlib` and to the images seen so far."""
  digest.update(split.encode())
  palettes = _recorded_palettes(source)
  sides = [
    _Collector(signal, count, side, palettes)
    for side, signal in (("input", source.spec.input), ("target", source.spec.target))
  ]
  same = []
  for name, x, y in track(source.pairs(split), count, f"Checking {split}"):
    if np.array_equal(x, y):
      same.append(name)
    checksums = [side.add(name, image) for side, image in zip(sides, (x, y), strict=True)]
    digest.update(b"".join(checksums))
    seen.add(split, name, checksums[0], checksums[1])
  of_input, of_target = (side.finish() for side in sides)
  findings = []
  if 0 < len(same) < count:
    findings.append(
      f"{output.counted(len(same), 'target')} of {split} {_verb(same, 'equals its input', 'equal their inputs')} "
      f"({few(same)}). Check which files they were taken from."
    )
  for collected, side in ((sides[0], of_input), (sides[1], of_target)):
    findings += collected.about_empty(split, side)
  return SplitSummary(count, len(same), of_input, of_target, findings)


Palettes = dict[str, list[list[int]]]  # by input (or the name of one of several) and target


def _recorded_palettes(source: Source) -> Palettes:
  """The colours in the palettes of the first files of each side, if the reader recorded them with the shards."""
  try:
    return json.loads((source.folder / METADATA).read_text(encoding="utf-8"))[PALETTES] if source.folder else {}
  except (OSError, ValueError, KeyError):
    return {}


def _verb(members: list[str], one: str, several: str) -> str:
  return one if len(members) == 1 else several


class Duplicates:
  """Finds pairs that occur more than once, and inputs that occur in several splits."""

  def __init__(self) -> None:
    self._inputs: dict[bytes, tuple[str, str]] = {}  # checksum → (split, id) of its first occurrence
    self._pairs: dict[tuple[str, bytes, bytes], str] = {}
    self._across: dict[tuple[str, str], list[str]] = {}  # (split, earlier split) → "id is id"
    self._within: dict[str, list[str]] = {}

  def add(self, split: str, name: str, of_input: bytes, of_target: bytes) -> None:
    """Adds a pair by its id and the checksums of its sides."""
    first = self._inputs.setdefault(of_input, (split, name))
    if first[0] != split:
      self._across.setdefault((split, first[0]), []).append(f"{_place(split, name)} is {_place(*first)}")
    pair = self._pairs.setdefault((split, of_input, of_target), name)
    if pair != name:
      self._within.setdefault(split, []).append(f"{name} is {pair}")

  def lines(self) -> list[str]:
    """A line for each combination of splits that share inputs, and for each split with repeated pairs."""
    across = [
      f"{output.counted(len(found), 'input')} of {split} also {'occurs' if len(found) == 1 else 'occur'} in {earlier} "
      f"({few(found)}), which inflates the metrics of {split}. Remove them from one of the two."
      for (split, earlier), found in self._across.items()
    ]
    within = [
      f"{output.counted(len(found), 'pair')} of {split} {'repeats' if len(found) == 1 else 'repeat'} another one "
      f"({few(found)}) and so {'counts' if len(found) == 1 else 'count'} more than once. Remove the copies."
      for split, found in self._within.items()
    ]
    return [*across, *within]


def _place(split: str, name: str) -> str:
  """A pair's id with its split, which some readers' ids start with."""
  return name if name.startswith(split) else f"{split}/{name}"


class _Collector:
  """Computes a `Side`, image by image."""

  def __init__(self, signal: Signal, count: int, noun: str, palettes: Palettes):
    self._signal, self._noun, self._palette = signal, noun, palettes.get(noun, [])
    self._parts = (
      [_Collector(part, count, name, palettes) for name, part in zip(signal.names, signal.parts)]
      if isinstance(signal, Stack)
      else []
    )
    self._has_numbers = isinstance(signal, Depth | Quantity | Stack)
    self._samples = max(16, MAX_VALUES // count)
    self._sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    self._low, self._high, self._low_above_zero = math.inf, -math.inf, math.inf
    self._zeros = self._values = self._pixels = 0
    self._sampled: list[np.ndarray] = []  # (n, 1), or of quantities (n, channels)
    self._classes: set[int] = set()
    self._colors: set[bytes] | None = None if self._has_numbers else set()
    self._checksums: set[bytes] = set()
    self._without_value: list[str] = []
    self._flat: list[str] = []  # with a value, the same for all pixels

  def add(self, name: str, image: np.ndarray) -> bytes:
    """Adds an image by its pair's id and returns its checksum, of 8 bytes."""
    checksum = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
    self._sizes[image.shape[:2]] += 1
    self._checksums.add(checksum)
    if isinstance(self._signal, Stack):
      for part, piece in zip(self._parts, self._signal.split(image)):
        part.add(name, piece)
      return checksum
    self._values += image.size
    may_be_depth = image.dtype == np.uint16 and image.shape[-1] == 1
    values = image
    if isinstance(self._signal, Quantity) or (isinstance(self._signal, Image) and image.dtype == np.uint16):
      pixels = image.reshape(-1, image.shape[-1])
      self._sampled.append(pixels[:: max(1, len(pixels) // self._samples)])
    if isinstance(self._signal, Quantity):
      values = image[np.isfinite(image)]
      self._zeros += image.size - values.size
    else:
      self._zeros += image.size - int(np.count_nonzero(image))
    if isinstance(self._signal, Depth) or may_be_depth:
      above = image[image > 0]
      self._low_above_zero = min(self._low_above_zero, float(above.min())) if above.size else self._low_above_zero
      if isinstance(self._signal, Depth):
        values = above
        self._sampled.append(values[:: max(1, values.size // self._samples), None])
    if isinstance(self._signal, Classes):
      self._classes |= {int(value) for value in np.unique(image)} - {self._signal.ignore}
    unlabelled = isinstance(self._signal, Classes) and (image == self._signal.ignore).all()
    if unlabelled or not values.size:
      self._without_value.append(name)
    elif (image == image[:1, :1]).all():
      self._flat.append(name)
    if values.size:
      self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
    if self._colors is not None:
      pixels = image.reshape(-1, image.shape[-1])
      pixels = pixels[:: max(1, len(pixels) // MAX_PIXELS)]
      self._pixels += len(pixels)
      self._colors |= {pixel.tobytes() for pixel in np.unique(pixels, axis=0)[: MAX_COLORS + 1]}
      self._colors = self._colors if len(self._colors) <= MAX_COLORS else None
    return checksum

  def about_empty(self, split: str, side: Side) -> Iterator[str]:
    """Lines about images without content, if there are others. Label maps of one class are ordinary."""
    for part, of_part in zip(self._parts, side.parts):
      yield from part.about_empty(split, of_part)
    label_maps = isinstance(self._signal, Classes) or side.colors
    for names, verb, content in (
      (self._without_value, _verb(self._without_value, "has", "have"), "no value in any pixel"),
      ([] if label_maps else self._flat, _verb(self._flat, "has", "have"), "the same value in every pixel"),
    ):
      if 0 < len(names) < self._sizes.total():
        yield (
          f"{output.counted(len(names), self._noun)} of {split} {verb} {content} ({few(names)}). Check the files, or "
          "leave these pairs out."
        )

  def finish(self) -> Side:
    sampled = np.concatenate(self._sampled) if self._sampled else np.empty((0, 1))
    probabilities = (np.arange(QUANTILES) + 0.5) / QUANTILES
    first = sampled[np.isfinite(sampled[:, 0]), 0]
    values = np.quantile(first, probabilities, method="inverted_cdf") if first.size else np.empty(0)
    colors = len(self._colors or ())
    count = self._sizes.total()
    return Side(
      sizes=[(height, width, number) for (height, width), number in self._sizes.most_common()],
      low=self._low if count and self._high >= self._low else 0.0,
      high=self._high if count and self._high >= self._low else 0.0,
      zeros=self._zeros / max(1, self._values),
      low_above_zero=self._low_above_zero if self._low_above_zero < math.inf else 0.0,
      quantiles=[float(f"{value:.6g}") for value in values],
      ranges=percentiles(sampled) if isinstance(self._signal, Quantity) else [],
      values=sorted(self._classes),
      colors=colors if 16 * colors <= self._pixels else 0,
      palette=[(red, green, blue) for red, green, blue in self._palette],
      identical=count > 1 and len(self._checksums) == 1,
      parts=[part.finish() for part in self._parts],
    )


def percentiles(values: np.ndarray) -> list[tuple[float, float]]:
  """The 0.1 and 99.9 percentiles of each channel of (n, channels), without NaN, to 4 digits outwards; never equal."""
  ranges = []
  for channel in values.T:
    finite = channel[np.isfinite(channel)]
    low, high = np.quantile(finite, (CLIPPED, 1 - CLIPPED)) if finite.size else (0.0, 1.0)
    unit = 10.0 ** (math.floor(math.log10(max(abs(low), abs(high), 1e-30))) - 3)
    low, high = math.floor(low / unit) * unit, math.ceil(high / unit) * unit
    ranges.append((float(f"{low:.6g}"), float(f"{high if high > low else low + 1:.6g}")))
  return ranges


def complete(summary: Summary, spec: DataSpec) -> tuple[Signal, Signal]:
  """Input and target signals with the ranges, numbers of classes and colours that the configuration leaves to the data.

  Raises:
    UsageError: fewer than two classes.
  """
  split = summary.splits.get("train") or next(iter(summary.splits.values()))
  return _completed(spec.input, split.input, "input"), _completed(spec.target, split.target, "target")


def _completed(signal: Signal, side: Side, name: str) -> Any:
  if isinstance(signal, Stack):
    parts = [_completed(part, of_part, each) for each, part, of_part in _each(name, signal, side)]
    return dataclasses.replace(signal, parts=tuple(parts))
  return complete_signal(signal, side.ranges, side.values, name, side.palette)


def _each(name: str, signal: Signal, side: Side) -> list[tuple[str, Signal, Side]]:
  """The parts of several inputs with their names, or the side itself."""
  return list(zip(signal.names, signal.parts, side.parts)) if isinstance(signal, Stack) else [(name, signal, side)]


def _sides(split: SplitSummary, spec: DataSpec) -> list[tuple[str, Signal, Side]]:
  """Every input and the target with their names."""
  return [*_each("input", spec.input, split.input), *_each("target", spec.target, split.target)]


def complete_signal(
  signal: Signal,
  ranges: list[tuple[float, float]],
  values: list[int],
  side: str,
  palette: list[tuple[int, int, int]] | None = None,
) -> Signal:
  """A signal with the `ranges` of a quantity's channels, or the class indices `values` and the colours `palette` of its
  files, where it has none of its own.

  Raises:
    UsageError: fewer than two classes.
  """
  if isinstance(signal, Quantity) and not signal.range:
    return dataclasses.replace(signal, range=tuple(ranges))
  if isinstance(signal, Classes):
    count = signal.count or max((value for value in values if value != signal.ignore), default=0) + 1
    if count < 2:
      raise UsageError(f"The {side} has a single class, 0, so there is nothing to tell apart. Check its label maps.")
    return dataclasses.replace(signal, count=count, shown=signal.shown or tuple(palette or ())[:count])
  return signal


def for_display(summary: Summary, spec: DataSpec) -> DataSpec:
  """A spec for drawing: 16-bit images that use little of their range are shown over what they use."""
  split = summary.splits.get("train") or next(iter(summary.splits.values()))
  return dataclasses.replace(spec, input=_shown(spec.input, split.input), target=_shown(spec.target, split.target))


def _shown(signal: Signal, side: Side) -> Any:
  if isinstance(signal, Stack):
    return dataclasses.replace(signal, parts=tuple(map(_shown, signal.parts, side.parts)))
  if isinstance(signal, Image) and _uses_little(signal, side) and side.low < side.high:
    return dataclasses.replace(signal, shown_range=(side.low, side.high))
  return signal


def _uses_little(signal: Image, side: Side) -> bool:
  return signal.dtype == "uint16" and side.high - side.low < np.iinfo(signal.dtype).max / 4


def check(summary: Summary, spec: DataSpec) -> None:
  """Refuses depth of which most would not count.

  Raises:
    UsageError: with the split and side, the range found, the range expected and the likely remedy.
  """
  for name, split in summary.splits.items():
    for side, signal, found in _sides(split, spec):
      if isinstance(signal, Quantity):
        values = np.array([*found.quantiles, found.low, found.high])
        Quantity(1, range=signal.range[:1]).check_range(values, f"The {side} of the split {name}")
      if not isinstance(signal, Depth):
        continue
      try:
        signal.check_range(np.array([*found.quantiles, found.low, found.high]), f"The {side} of the split {name}")
      except UsageError as error:
        raise UsageError(
          f"{error} The divisor of integer files is 1000 for millimetres and 256 for KITTI's PNGs: "
          f"{_declaration(side, spec, 'depth', scale=1000)}. If these are not distances, choose another kind."
        ) from error


def describe(source: Source, config: ml_collections.ConfigDict) -> str:
  """The summary of a source as a few lines of text, followed by one line per warning.

  Args:
    source: source of the examples. Its stored summary is used; if there is none, it is computed.
    config: resolved configuration.
  """
  summary = read(source) or make(source)
  return "\n".join(
    [
      *lines(summary, source.spec),
      *(f"Warning: {line}" for line in _as_flags(warnings(summary, config, source.spec), config)),
    ]
  )


def _as_flags(texts: list[str], config: ml_collections.ConfigDict) -> list[str]:
  """Texts in which fields to set are flags of the command line, unless the data are arrays, which belong to `fit`."""
  if config.data.name == "arrays":
    return texts
  return [re.sub(r"(?<![\w.-])((?:data|train|model)\.\w+=)", r"--config.\1", text) for text in texts]


def lines(summary: Summary, spec: DataSpec) -> list[str]:
  """A headline and, for each split, a line for every input and the target; splits with the same lines share them."""
  groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
  for name, split in summary.splits.items():
    texts = tuple((noun, _describe_side(side, signal)) for noun, signal, side in _sides(split, spec))
    groups.setdefault(texts, []).append(f"{name} {split.count}")
  labels = {texts: ", ".join(names) for texts, names in groups.items()}
  width = max(map(len, labels.values()))
  result = ["Data, in pairs (sizes are width × height):"]
  for texts, label in labels.items():
    nouns = max(len(noun) for noun, _ in texts)
    result += [f"  {label if i == 0 else '':<{width}}  {noun:<{nouns}}  {text}" for i, (noun, text) in enumerate(texts)]
  return result


def _describe_side(side: Side, signal: Signal) -> str:
  parts = [_describe_sizes(side.sizes), signal.describe()]
  if isinstance(signal, Classes):
    return "; ".join([*parts, f"{len(side.values)} occur"])
  if isinstance(signal, Quantity):
    unit = f" {signal.unit}" if signal.unit else ""
    values = f"{_short(side.low)} to {_short(side.high)}{unit}"
    where = " of the first channel" if signal.channels > 1 else ""
    clipped = f"{_percent(_outside(side, signal.range[0]))}{where} clipped" if signal.range else ""
    missing = f"{_percent(side.zeros)} without a value" if side.zeros else ""
    return "; ".join(filter(None, [*parts, f"found {values}", clipped, missing]))
  if not isinstance(signal, Depth):
    return "; ".join([*parts, f"{side.low:g} to {side.high:g}"])
  holes = [f"{_percent(side.zeros)} holes"] if side.zeros else []
  if not side.quantiles:
    return "; ".join([*parts, *holes])
  median = side.quantiles[len(side.quantiles) // 2]
  measured = f"{_short(side.low)} to {_short(side.high)} m, median {_short(median)} m"
  return "; ".join([*parts, measured, *holes, f"{_percent(_outside(side, signal.range))} out of range"])


def _percent(share: float) -> str:
  """A share with one decimal; a small one is not shown as none."""
  return "under 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _describe_sizes(sizes: list[tuple[int, int, int]]) -> str:
  if len(sizes) == 1:
    return f"{sizes[0][1]}×{sizes[0][0]}"
  shown = ", ".join(f"{width}×{height} ({count})" for height, width, count in sizes[:2])
  rest = sizes[2:]
  return f"{shown} and {output.counted(len(rest), 'other size')} ({sum(size[2] for size in rest)})" if rest else shown


def _short(value: float) -> str:
  return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _outside(side: Side, limits: tuple[float, float]) -> float:
  """The share of the measurements outside a range."""
  values = np.array(side.quantiles)
  return float(np.mean((values < limits[0]) | (values > limits[1]))) if values.size else 0.0


# --- Warnings


def warnings(summary: Summary, config: ml_collections.ConfigDict, spec: DataSpec) -> list[str]:
  """Properties of the training split and the sizes that may be unintended, each with its remedy.

  Args:
    summary: summary of the data.
    config: resolved configuration.
    spec: signals of the data.
  """
  split = summary.splits.get("train") or next(iter(summary.splits.values()))
  found = [*_about_pairs(split, config.train.batch_size), *_about_sizes(split, config)]
  if "val" in summary.splits and summary.splits["val"].count == 1:
    found.append(
      "The validation split has 1 pair, so its metrics, and the choice of the best checkpoint, depend on one image. "
      "Move more pairs into it."
    )
  depths = {}
  for name, signal, side in _sides(split, spec):
    if isinstance(signal, Depth):
      depths[name] = side
    elif isinstance(signal, Image):
      found += _about_image(name, side, signal, spec)
    elif isinstance(signal, Classes):
      found += _about_classes(name, side, signal, spec)
    elif isinstance(signal, Quantity):
      found += _about_quantity(name, side, signal, spec)
  found += _about_palettes(split, config)
  found += [line for each in summary.splits.values() for line in each.findings]
  return [*found, *summary.duplicates, *_about_label_maps(split, config), *_about_depths(depths, config)]


def _declaration(name: str, spec: DataSpec, kind: str = "", **fields: Any) -> str:
  """How a configuration declares a kind and fields of the input, one of several inputs, or the target."""
  if isinstance(spec.input, Stack) and name in spec.input.names:
    declared = ",".join(
      [f"{name}:{kind or spec.input.parts[spec.input.names.index(name)].kind}"]
      + [f"{field}={str(value).replace(',', '/')}" for field, value in fields.items()]
    )
    return f"declare '{declared}' in data.inputs"
  kinds = [f"data.{name}_kind={kind}"] if kind else []
  return f"set {', '.join([*kinds, *(f'data.{name}_{field}={value}' for field, value in fields.items())])}"


def _about_classes(name: str, side: Side, signal: Classes, spec: DataSpec) -> Iterator[str]:
  """A class index far above all others, which often marks pixels without a label."""
  *most, last = side.values or [0]
  if signal.ignore < 0 and side.values == [0, 255] and signal.count == 256:
    yield (
      f"The {name} holds the values 0 and 255 alone, so 256 classes are trained, of which two occur. For masks of two "
      f"classes, black and white, {_declaration(name, spec, palette='#000000,#ffffff')}."
    )
  elif signal.ignore < 0 and last >= 250 and len(most) >= 1 and most[-1] < 200:
    others = f"classes {most[0]} to {most[-1]}" if len(most) > 1 else f"class {most[0]}"
    yield (
      f"The {name} holds the {others} and {last}, so {signal.count} classes are trained. If {last} marks pixels "
      f"without a label, {_declaration(name, spec, ignore=last)}."
    )


def _about_quantity(name: str, side: Side, signal: Quantity, spec: DataSpec) -> Iterator[str]:
  """Values beyond the range, and a value far from all others, which often stands for "no value"."""
  marker = _marker(np.array(side.quantiles))
  if marker is not None:
    yield _about_marker(name, *marker, _declaration(name, spec, nodata=f"{marker[0]:g}"))
  elif (share := _outside(side, signal.range[0])) > 0.01:
    yield (
      f"The range {signal.describe_range()} clips {share:.1%} of the {name}'s values (first channel). To cover them, "
      f"widen it: {_declaration(name, spec, range='…')}."
    )


def _about_marker(name: str, value: float, share: float, remedy: str) -> str:
  return (
    f"{share:.1%} of the {name}'s values are {value:g}, far from all others (first channel). If that number stands for "
    f"no value, {remedy}."
  )


def _marker(quantiles: np.ndarray) -> tuple[float, float] | None:
  """(value, its share) of a lowest or highest value that occurs often and is far from all others: by a tenth of their
  span if it is a usual mark of no value, else by more than twice.
  """
  for value in (quantiles[0], quantiles[-1]) if quantiles.size else ():
    others = quantiles[quantiles != value]
    share = 1 - others.size / quantiles.size
    is_far = np.unique(others).size > 2 and np.abs(others - value).min() > _gap(value) * np.ptp(others)
    if is_far and share >= 0.005:
      return float(value), share
  return None


def _gap(value: float) -> float:
  return 0.1 if value in USUAL_MARKERS or abs(value) >= 1e9 else 2


def _about_pairs(split: SplitSummary, batch_size: int) -> Iterator[str]:
  if split.count < batch_size:
    yield (
      f"train.batch_size is {batch_size}, but there {'is' if split.count == 1 else 'are'} only "
      f"{output.counted(split.count, 'training pair')}, so a batch repeats pairs. Set train.batch_size={split.count}"
      f"{' or less' if split.count > 1 else ''}."
    )
  if split.count < FEW_PAIRS:
    yield (
      f"A model will memorise {split.count} training pair{'s' * (split.count != 1)} instead of learning from them; a "
      "few hundred are usual (400 in the paper's façades)."
    )
  if split.same == split.count:
    yield "The target of every pair equals its input. Check which files the two sides were taken from."
  if split.target.low == split.target.high:
    yield f"All target values are {split.target.low:g}, so there is nothing to learn. Check the target files."
  elif split.target.identical:
    yield f"All {split.count} targets are the same image. Check the target files."


def _about_sizes(split: SplitSummary, config: ml_collections.ConfigDict) -> Iterator[str]:
  data, model = config.data, config.model
  crop, load, evaluated = config_lib.crop_shape(data), config_lib.load_shape(data), config_lib.eval_resize(data)
  if load and evaluated:
    own_size = _own_size(split, crop)
    yield from _about_resizes(split.input.sizes, load, crop, evaluated, config, own_size)
  if not model.generator.startswith("resnet") and model.levels == config_lib.levels_for(*crop) <= 3:
    yield (
      f"Crops of {crop[1]}×{crop[0]} can be halved only {model.levels} times, so the generator has {model.levels} "
      f"levels and sees little around a pixel. Multiples of 64, 128 or 256 give 6, 7 or 8 levels: set "
      f"data.crop_size={_nice(crop[0])}"
      f"{f' and data.crop_width={_nice(crop[1])}' if crop[0] != crop[1] else ''}."
    )


def _about_resizes(
  sizes: list[tuple[int, int, int]],
  load: tuple[int, int],
  crop: tuple[int, int],
  evaluated: tuple[int, int],
  config: ml_collections.ConfigDict,
  own_size: str,
) -> Iterator[str]:
  height, width, _ = sizes[0]
  total = sum(size[2] for size in sizes)
  alike = sum(size[2] for size in sizes if _stretch(size, sizes[0][:2]) <= 0.05)
  enlarged = max(load[0] / height, load[1] / width) >= 2
  if 2 * alike < total:
    yield (
      f"The images have {len(sizes)} sizes of different proportions, such as {width}×{height} and {sizes[1][1]}×"
      f"{sizes[1][0]} (width × height), and all are resized to {load[1]}×{load[0]}. To keep each at its own size, "
      f"{own_size}."
    )
  elif _stretch(sizes[0], load) > 0.05 and enlarged:
    yield (
      f"Images of {width}×{height} are enlarged to {load[1]}×{load[0]} (width × height), which changes their "
      f"proportions and adds no detail. To keep their own size, {own_size}."
    )
    return
  elif _stretch(sizes[0], load) > 0.05 and _kept_load(height, width, config)[0] > 1.1 * height:
    yield (
      f"Images of {width}×{height} are trained as {load[1]}×{load[0]} (width × height), which changes their "
      f"proportions. To keep their own size, {own_size}."
    )
    return
  elif _stretch(sizes[0], load) > 0.05:
    yield (
      f"Images of {width}×{height} are trained as {load[1]}×{load[0]} (width × height), which changes their "
      f"proportions. To keep them, set {_keep_proportions(height, width, config)}."
    )
  elif _stretch(sizes[0], evaluated) > 0.05:
    tall, wide = _fitting((height, width), load[0], config.model.levels)
    yield (
      f"Images of {width}×{height} are validated as {evaluated[1]}×{evaluated[0]} (width × height), which changes "
      f"their proportions. To keep them, set data.eval_size={tall} data.eval_width={wide}."
    )
  elif odd := sum(size[2] for size in sizes if _stretch(size, load) > 0.05):
    yield (
      f"{odd} of {total} training images are squeezed to {load[1]}×{load[0]}, although they have other proportions. "
      "Crop them beforehand if shapes matter."
    )
  if enlarged:
    side = _nice(min(height, width))
    yield (
      f"Images of {width}×{height} are enlarged to {load[1]}×{load[0]}: more time, but no more detail. For squares "
      f"near their own size, set data.load_size={max(side, round(side * 1.12))} and data.crop_size={side}."
    )
  elif load == (286, 286) and crop[0] * crop[1] < 0.4 * load[0] * load[1]:
    yield (
      f"Images are resized to 286×286 and each crop of {crop[1]}×{crop[0]} shows {crop[0] * crop[1] / 286**2:.0%} of "
      f"one. To show most of it, set data.load_size={round(max(crop) * 286 / 256)}."
    )


def _own_size(split: SplitSummary, crop: tuple[int, int]) -> str:
  """The fields that keep images at their own size; or near it where inputs and targets, of two sizes, are resized."""
  if sorted(split.input.sizes) == sorted(split.target.sizes):
    smallest = min(min(size[:2]) for size in split.input.sizes)
    return f"set data.load_size=0 and data.crop_size={_below(min(smallest, crop[0]))}"
  tall, wide = (max(16, side // 16 * 16) for side in split.input.sizes[0][:2])
  return f"set data.load_size={tall} data.load_width={wide} data.crop_size={tall} data.crop_width={wide}"


def _stretch(size: tuple[int, ...], shape: tuple[int, int]) -> float:
  """How much a resize to `shape` changes the proportions: 0 means not at all, 0.05 about five percent."""
  return abs(math.log(size[0] * shape[1] / (size[1] * shape[0])))


def _below(side: int) -> int:
  """The largest crop of at most a side that can be halved six times, or as often as possible."""
  return side // 64 * 64 if side >= 64 else 2 ** max(2, int(math.log2(side)))


def _nice(side: int) -> int:
  """A length near `side` that can be halved many times."""
  return side // 64 * 64 if side >= 64 else 2 ** max(2, round(math.log2(side)))


def _kept_load(height: int, width: int, config: ml_collections.ConfigDict) -> tuple[int, int]:
  """(height, crop height) that keep an image's proportions, at about the configured heights."""
  data = config.data
  crop, _ = _fitting((height, width), data.crop_size, config.model.levels)
  return max(round(data.load_size * crop / data.crop_size), crop), crop


def _keep_proportions(height: int, width: int, config: ml_collections.ConfigDict) -> str:
  """The fields that give load, crop and evaluation sizes an image's proportions, at about the same heights."""
  data = config.data
  crop = _fitting((height, width), data.crop_size, config.model.levels)
  load, _ = _kept_load(height, width, config)
  fields = {"load_width": max(round(load * width / height), crop[1]), "crop_width": crop[1]}
  if crop[0] != data.crop_size:
    fields = {"load_size": load, "load_width": fields["load_width"], "crop_size": crop[0], "crop_width": crop[1]}
  if data.eval_size:
    evaluated = _fitting((height, width), data.eval_size, config.model.levels)
    fields |= {} if evaluated[0] == data.eval_size else {"eval_size": evaluated[0]}
    fields["eval_width"] = evaluated[1]
  return " ".join(f"data.{name}={value}" for name, value in fields.items())


def _fitting(size: tuple[int, int], side: int, levels: int) -> tuple[int, int]:
  """(height, width) with the proportions of `size` up to five percent, and a height near `side`.

  Both are multiples of as high a power of two as possible, because each factor is a level of the generator; with 16 or
  more, the height may differ from `side` by a factor of up to two.
  """
  for power in range(min(levels, 6), 1, -1):
    step = 2**power
    heights = range(-(-side // 2 // step) * step, 2 * side + 1, step) if power >= 4 else [side]
    shapes = [(tall, max(step, round(tall * size[1] / size[0] / step) * step)) for tall in heights if tall]
    if shapes := [shape for shape in shapes if _stretch(size, shape) <= 0.05]:
      return min(shapes, key=lambda shape: abs(math.log(shape[0] / side)))
  return side, max(4, round(side * size[1] / size[0] / 4) * 4)


def _holds_numbers(side: Side, largest: int) -> bool:
  """Whether few different values, all of them low, look like class numbers."""
  return bool(side.colors) and side.high < largest / 4


def _about_image(name: str, side: Side, signal: Image, spec: DataSpec) -> Iterator[str]:
  largest = np.iinfo(signal.dtype).max
  if side.low == side.high:
    return
  if signal.dtype == "uint16" and signal.channels == 1 and side.zeros >= 0.005 and side.low_above_zero >= 100:
    yield (
      f"The {name} looks like depth: 16 bits, {side.zeros:.0%} zeros, otherwise {side.low_above_zero:g} to "
      f"{side.high:g}. If so, {_declaration(name, spec, 'depth', scale=1000)} for millimetres (256 for KITTI), and set "
      "data.depth_range."
    )
  elif signal.dtype == "uint16" and (marker := _marker(np.array(side.quantiles))):
    yield _about_marker(name, *marker, _declaration(name, spec, "quantity", nodata=f"{marker[0]:g}"))
  elif _holds_numbers(side, largest):
    yield (
      f"The {name} holds {side.colors} different values up to {side.high:g} of {largest}: class numbers? The networks "
      f"see {side.high / largest:.1%} of their range. If so, {_declaration(name, spec, 'classes')}."
    )
  elif _uses_little(signal, side):
    scaled = _declaration(name, spec, "depth", scale=1000)
    depth = f"; for depth in millimetres, {scaled}" if signal.channels == 1 and side.high < largest / 4 else ""
    yield (
      f"The {name} uses {side.low:g} to {side.high:g} of the 16-bit range, {(side.high - side.low) / largest:.1%} of "
      f"it, so the networks see nearly uniform images. If these are measurements, "
      f"{_declaration(name, spec, 'quantity')}, whose range is taken from the data{depth}."
    )


def _about_palettes(split: SplitSummary, config: ml_collections.ConfigDict) -> Iterator[str]:
  """Targets in few colours that are resized as label maps, but learned as images."""
  data, colors = config.data, split.target.colors
  if data.name == "folder" and data.target_kind == "image" and data.target_resampling == "nearest" and colors > 1:
    yield (
      f"The target files have palettes and use {colors} colours: label maps? If so, set data.target_kind=classes, "
      "which learns the labels instead of their colours."
    )


def _about_label_maps(split: SplitSummary, config: ml_collections.ConfigDict) -> Iterator[str]:
  """Images with few colours, whose resize blends them."""
  height, width, _ = split.input.sizes[0]
  found = {
    name: side
    for name, side in (("input", split.input), ("target", split.target))
    if side.colors > 1
    and config.data[f"{name}_kind"] == "image"
    and config.data[f"{name}_resampling"] == "bicubic"
    and not _holds_numbers(side, np.iinfo(config.data[f"{name}_dtype"]).max)
  }
  if found and (height, width) != (config_lib.load_shape(config.data) or (height, width)):
    colors = " and ".join(str(side.colors) for side in found.values())
    yield (
      f"The {' and the '.join(found)} {'have' if len(found) > 1 else 'has'} only {colors} colours, like a label map, "
      f"and resizing blends them. To avoid that, set "
      f"{' and '.join(f'data.{name}_resampling=nearest' for name in found)}."
    )


def _about_depths(sides: dict[str, Side], config: ml_collections.ConfigDict) -> Iterator[str]:
  """Depth measurements that are outside the range, or use little of it; both sides share one range."""
  nearest, farthest = config.data.depth_range
  reach = max((side.quantiles[-2] for side in sides.values() if side.quantiles), default=0.0)  # farther may be noise
  if not reach:
    return
  limits, better = f"data.depth_range, {nearest:g} to {farthest:g} m", f'data.depth_range="(0, {_round_up(reach):g})"'
  outside = {name: _outside(side, (nearest, farthest)) for name, side in sides.items()}
  for name, share in outside.items():
    if share > 0.01:
      lost = "do not count" if name == "target" else "are clipped"
      yield (f"{share:.0%} of the {name}'s measurements lie outside {limits}, and {lost}. To cover them, set {better}.")
  if reach < farthest / 10:
    kinds = " and ".join(f"data.{name}_kind='image'" for name in sides)
    other = f", or, if these are intensities rather than metres, {kinds}" if reach <= 1 else ""
    yield (
      f"Depth reaches {_short(reach)} m, only {reach / farthest:.1%} of {limits}, so that errors look small. Set "
      f"{better}{other}."
    )


def _round_up(value: float) -> float:
  """To two digits."""
  unit = 10.0 ** (math.floor(math.log10(value)) - 1)
  return math.ceil(value / unit) * unit
