"""Signals: the meaning of the numbers on one side of a pair.

A signal is a frozen object that knows its kind, its raw number type, its range and which pixels hold no value. It
converts raw arrays to the networks' [-1, 1] and back, determines how they are resized, and draws them for display. No
other module infers meaning from a dtype.

`encode`, `decode` and `valid` are pure and use only methods that NumPy and JAX arrays share, so that the input
pipeline, the compiled programs and exported files all run the same code. Arrays are (..., H, W, C).
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
import operator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax import depth, palettes
from pix2pix_jax.errors import UsageError, nearest

ALIASES = {"picture": "image"}


class _Shared:
  """The behaviour of a signal whose every pixel holds a value, and whose networks see its channels as they are."""

  channels: Any
  kind: ClassVar[str]

  def decode_float(self, encoded):
    raise NotImplementedError

  @property
  def raw_channels(self) -> int:
    """Channels of stored arrays."""
    return self.channels

  @property
  def missing(self) -> float | None:
    """The raw number by which a decoded array marks a pixel without a value; None if the type has none."""
    return None

  def mark_missing(self, array: np.ndarray, nodata: float | None) -> np.ndarray:
    """Raw numbers of a file that declares `nodata` to stand for "no value", with this signal's own mark in its place.

    Signals without such a mark return the array unchanged.
    """
    del nodata
    return array

  def canonical(self, raw):
    """Raw values with a single representation for pixels without a value."""
    return raw

  def store(self, array: np.ndarray) -> np.ndarray:
    """Accepted values as data sets store them."""
    return array

  def check_range(self, accepted: np.ndarray, name: str) -> None:
    """Refuses values that are unlikely to be of this signal. Every accepted value is possible here."""

  def encode(self, raw):
    raise NotImplementedError

  def pack(self, raw: np.ndarray) -> np.ndarray:
    """What is kept on the devices instead of raw values, of which it takes as many channels.

    `unpack` turns it into their code without arithmetic that a compiler could round in another way, so that the bits
    are those of `encode` in NumPy.
    """
    return self.encode(raw)

  def unpack(self, packed):
    """What `pack` returned, as a JAX array → the code of the raw values."""
    return packed

  def valid(self, raw) -> Any:
    """bool (..., H, W, 1): pixels with a value; None if every pixel has one."""
    return None

  def measured(self, encoded) -> Any:
    """The same for encoded arrays; None also if the code of a missing value is that of another value."""
    return None

  def activate(self, output):
    """The encoded answer from the generator's output in [-1, 1]."""
    return output

  def error(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """|output − target| of encoded arrays in the unit of `decode_float`, mean over channels: float32 (..., H, W)."""
    return np.abs(self.decode_float(output) - self.decode_float(target)).mean(-1, dtype=np.float32)


def _rescaling(image: np.ndarray) -> str:
  """How float values become those of an image, by the usual ranges."""
  low, high = (image.min(), image.max()) if image.size else (0, 0)
  if low >= 0:
    for largest, dtype in ((255, "uint8"), (65535, "uint16")):
      if high <= largest:
        return f"If these are {dtype} values, divide them by {largest} or convert them to {dtype}."
  return "If they span [-1, 1], pass (values + 1) / 2." if -1 <= low and high <= 1 else "Rescale it."


@dataclasses.dataclass(frozen=True)
class Image(_Shared):
  """Intensities over the full range of their number type: photographs, label maps shown as colours, grey images.

  Attributes:
    channels: number of channels, at least 1.
    dtype: raw number type of the data set, `"uint8"` or `"uint16"`; it decides what `decode` returns.
    resampling: how it is resized, `"bicubic"` with anti-aliasing, or `"nearest"` for label maps whose colours must not
      mix.
    shown_channels: those that `display` shows, counted from 0: one as grey or three as RGB. Empty: all of an RGB
      image, else the first.
    shown_range: raw numbers that `display` shows as black and white; empty: 0 and the largest of the number type.
  """

  channels: int = 3
  dtype: str = "uint8"
  resampling: str = "bicubic"
  shown_channels: tuple[int, ...] = ()
  shown_range: tuple[float, ...] = ()

  kind: ClassVar[str] = "image"
  unit: ClassVar[str] = ""
  has_holes: ClassVar[bool] = False
  metrics: ClassVar[tuple[str, ...]] = ("l1", "psnr", "ssim")
  main_metric: ClassVar[str] = "ssim"  # L1 and PSNR prefer the grey, blurred outputs of early epochs (docs/results.md)

  def accept(self, array: np.ndarray, name: str) -> np.ndarray:
    """Checks raw values and returns uint8, uint16, or float32 in [0, 1]; a bool array becomes 0 and 255.

    Raises:
      UsageError: another number type, or floats outside [0, 1]. The message starts with `name`.
    """
    if array.dtype == np.bool_:
      return array.astype(np.uint8) * 255
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in (np.uint8, np.uint16):
      return array
    if array.dtype.kind != "f":
      raise UsageError(
        f"{name} is {array.dtype}; images are uint8, uint16, bool, or float in [0, 1]. Convert it, or "
        "declare its kind: 'classes' for labels, 'quantity' for real numbers, 'depth' for metres."
      )
    if not np.isfinite(array).all():
      raise UsageError(f"{name} holds NaN or infinite values; float images lie in [0, 1]. Replace those values first.")
    if not (array.size and array.min() >= 0 and array.max() <= 1):
      raise UsageError(
        f"{name} is float from {array.min():g} to {array.max():g}; float images lie in [0, 1]. {_rescaling(array)} A "
        "new model may be trained on other numbers as they are, if the configuration, or fit, declares their kind "
        "(input_kind, target_kind): 'quantity' for real numbers, 'depth' for metres."
      )
    return array.astype(np.float32)

  def store(self, array: np.ndarray) -> np.ndarray:
    """Accepted values as data sets store them: float in [0, 1] becomes uint16 (65,536 levels)."""
    return (array * np.float32(65535)).round().astype(np.uint16) if array.dtype.kind == "f" else array

  def encode(self, raw):
    """Integers over their full range, or float in [0, 1] → float32 in [-1, 1]."""
    largest = 1 if raw.dtype.kind == "f" else np.iinfo(raw.dtype).max
    return raw.astype(np.float32) * np.float32(2 / largest) - 1

  def pack(self, raw: np.ndarray) -> np.ndarray:
    return raw

  def unpack(self, packed):
    """Looked up in a table of all codes."""
    levels = np.arange(np.iinfo(packed.dtype).max + 1, dtype=packed.dtype)
    return jnp.asarray(self.encode(levels)).at[packed].get(mode="promise_in_bounds")

  def decode(self, encoded):
    """[-1, 1] → integers of `dtype`, rounded."""
    half = np.float32(np.iinfo(self.dtype).max / 2)
    return ((encoded.clip(-1, 1) + 1) * half).round().astype(self.dtype)

  def decode_float(self, encoded):
    """[-1, 1] → float32 in [0, 1], for callers that work with float images."""
    return (encoded.clip(-1, 1) + 1) / 2

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, C) → uint8 (H, W, 3): three of `shown_channels` as RGB, or one as grey."""
    del valid
    shown = self.shown_channels or ((0, 1, 2) if self.channels == 3 else (0,))
    if self.shown_range:
      low, high = np.asarray(self.shown_range) * (2 / np.iinfo(self.dtype).max) - 1
      encoded = (encoded - low) * (2 / (high - low)) - 1
    return _to_8_bits(encoded[..., shown if len(shown) == 3 else shown * 3])

  def describe(self) -> str:
    """For example "8-bit image, 3 channels"."""
    return f"{8 * np.dtype(self.dtype).itemsize}-bit image, {_channels(self.channels)}"


@dataclasses.dataclass(frozen=True)
class Depth(_Shared):
  """Distances in metres along the optical axis; zero, negative, NaN and infinite values mark pixels without a
  measurement.

  Attributes:
    channels: number of channels, 1 for a depth map.
    range: nearest and farthest metres, encoded as -1 and 1. Target pixels outside it count as not measured; input
      pixels are clipped to it.
    scale: divisor that converts integers to metres (256 for KITTI, 1000 for millimetres); 0: only floats are accepted.
  """

  channels: int = 1
  range: tuple[float, float] = (0.0, 80.0)
  scale: float = 0.0

  kind: ClassVar[str] = "depth"
  unit: ClassVar[str] = "m"
  dtype: ClassVar[str] = "float32"
  has_holes: ClassVar[bool] = True
  resampling: ClassVar[str] = "nearest"
  metrics: ClassVar[tuple[str, ...]] = (
    *("rmse", "mae", "abs_rel", "delta1", "delta2", "delta3", "silog", "irmse", "imae"),
    *("l1", "psnr"),
  )
  main_metric: ClassVar[str] = "l1"

  def accept(self, array: np.ndarray, name: str) -> np.ndarray:
    """Checks raw values and returns float32 metres in which every pixel without a measurement is 0.

    Raises:
      UsageError: integers although no `scale` is set. The message starts with `name`.
    """
    if array.dtype.kind in "iu" and self.scale > 0:
      metres = array.astype(np.float32) / np.float32(self.scale)
    elif array.dtype.kind == "f":
      metres = array.astype(np.float32)
    else:
      raise UsageError(
        f"{name} holds {array.dtype}, but depth is float metres. For integer files, set the scale that converts them "
        "to metres (data.input_scale, data.target_scale: 256 for KITTI's PNGs, 1000 for millimetres). Divide integer "
        "arrays by it yourself."
      )
    return self.canonical(metres)

  @property
  def missing(self) -> float | None:
    return 0.0

  def mark_missing(self, array: np.ndarray, nodata: float | None) -> np.ndarray:
    return array if nodata is None else np.where(array == nodata, array.dtype.type(0), array)

  def canonical(self, raw):
    """float32 metres in which every pixel without a measurement is 0."""
    xp = jnp if isinstance(raw, jax.Array) else np
    return xp.where(xp.isfinite(raw) & (raw > 0), raw, np.float32(0))

  def check_range(self, accepted: np.ndarray, name: str) -> None:
    """Refuses values that are unlikely to be depth in this range: no measurement, or more than half out of range.

    Raises:
      UsageError: with the range found, the range expected and the likely remedy.
    """
    measured = accepted[accepted > 0]
    low, high = self.range
    if not measured.size:
      raise UsageError(f"{name} holds no measurement at all: every value is zero, negative, NaN or infinite.")
    outside = float(np.mean((measured < low) | (measured > high)))
    if outside > 0.5:
      remedy = "divide by 1000 if these are millimetres, " if np.median(measured) > 10 * high else ""
      raise UsageError(
        f"{name} lies between {measured.min():g} and {measured.max():g}, but the depth range is {low:g} to {high:g} m: "
        f"{outside:.0%} of the measurements would not count. Check the unit ({remedy}or set the range, "
        f"data.depth_range)."
      )

  def encode(self, raw):
    """Metres → float32 in [-1, 1], clipped to the range; a pixel without a measurement becomes -1."""
    return depth.encode(raw, self.range)

  def decode(self, encoded):
    """[-1, 1] → float32 metres."""
    return depth.decode(encoded, self.range)

  decode_float = decode

  def valid(self, raw):
    """bool (..., H, W, 1): pixels whose channels are all measured and within the range."""
    nearest, farthest = self.range
    return ((raw > 0) & (raw >= nearest) & (raw <= farthest)).all(-1, keepdims=True)

  def measured(self, encoded):
    """bool (..., H, W, 1): pixels of an encoded array above -1, the near end of the range and the code of holes."""
    return (encoded > -1).all(-1, keepdims=True)

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, C) → uint8 (H, W, 3): the colours of the first channel's metres; pixels that are not `valid` in
    black.
    """
    colors = depth.colors(np.asarray(encoded[..., 0], np.float32))
    return colors if valid is None else np.where(np.asarray(valid) > 0, colors, np.array(depth.HOLE_COLOR, np.uint8))

  def describe(self) -> str:
    """For example "depth, 0 to 80 m, 1 channel"."""
    return f"depth, {self.range[0]:g} to {self.range[1]:g} m, {_channels(self.channels)}"


@dataclasses.dataclass(frozen=True)
class Quantity(_Shared):
  """Real numbers with a unit, in which zero and negative numbers are values: Hounsfield units, decibels, elevation,
  reflectance. NaN, infinite numbers and the declared `nodata` mark pixels without a value.

  Attributes:
    channels: number of channels, at least 1.
    dtype: raw number type of the data set; `decode` returns it if it is an integer type, else float32.
    range: (lowest, highest) encoded as -1 and 1: one pair for all channels, or one for each. Values beyond it are
      clipped. Empty: not known yet (`prepare` determines it from the training split).
    unit: such as "HU"; for display.
    nodata: further numbers that mark pixels without a value.
    resampling: `"area"`, the anti-aliased mean of the valid pixels, or `"nearest"`.
    shown_channels: those that `display` shows, counted from 0: one in colours, or three as RGB. Empty: the first.
  """

  channels: int = 1
  dtype: str = "float32"
  range: tuple[tuple[float, float], ...] = ()
  unit: str = ""
  nodata: tuple[float, ...] = ()
  resampling: str = "area"
  shown_channels: tuple[int, ...] = ()

  kind: ClassVar[str] = "quantity"
  has_holes: ClassVar[bool] = True
  metrics: ClassVar[tuple[str, ...]] = ("mae", "rmse", "l1", "psnr", "ssim")
  main_metric: ClassVar[str] = "l1"

  def accept(self, array: np.ndarray, name: str) -> np.ndarray:
    """Checks raw values and returns float32 in which every pixel without a value is NaN.

    Raises:
      UsageError: other than real numbers, integers that float32 cannot hold, or 8-bit numbers for a range that belongs
        to other numbers: pictures, rather than the quantity.
    """
    if array.dtype.kind not in "uif":
      raise UsageError(f"{name} holds {array.dtype}; a quantity holds integers or floats. Convert it.")
    if array.dtype == np.uint8 and self.range and self.dtype != "uint8":
      raise UsageError(
        f"{name} holds 8-bit integers from {array.min()} to {array.max()}, like an ordinary image, but the model was "
        f"trained on {self.dtype} in the range {self.describe_range()}. Give the original values, or convert these "
        f"to {self.dtype} if they are in that unit."
      )
    if (
      array.dtype.kind in "ui" and array.dtype.itemsize > 2 and array.size and np.abs(array.astype(float)).max() > 2**24
    ):
      raise UsageError(
        f"{name} holds integers beyond ±{2**24:,}, which float32 cannot hold exactly. Subtract an offset or rescale it."
      )
    return self.canonical(array)

  @property
  def missing(self) -> float | None:
    if np.dtype(self.dtype).kind == "f":
      return math.nan
    limits = np.iinfo(self.dtype)
    return next((each for each in self.nodata if each == each // 1 and limits.min <= each <= limits.max), None)

  def mark_missing(self, array: np.ndarray, nodata: float | None) -> np.ndarray:
    marked = nodata is not None and array.dtype.kind in "uif" and array == nodata
    return np.where(marked, np.float32(np.nan), array) if np.any(marked) else array

  def canonical(self, raw):
    """float32 in which every pixel without a value is NaN."""
    xp = jnp if isinstance(raw, jax.Array) else np
    missing = ~xp.isfinite(raw)
    for value in self.nodata:
      missing |= xp.isnan(raw) if math.isnan(value) else raw == np.asarray(value, raw.dtype)
    return xp.where(missing, np.float32(np.nan), raw.astype(np.float32))

  def check_range(self, accepted: np.ndarray, name: str) -> None:
    """Refuses an array without a single value, or values most of which the range would clip.

    Raises:
      UsageError: with the range found, the range expected and what to do.
    """
    if not np.isfinite(accepted).any():
      markers = ", ".join(["NaN", "infinite", *(f"{value:g}" for value in self.nodata)])
      raise UsageError(f"{name} holds no value at all: every number marks a pixel without a value ({markers}).")
    if not self.range:
      return
    share = self.clipped(accepted)
    if share > 0.5:
      values = accepted[np.isfinite(accepted)]
      raise UsageError(
        f"{name} lies between {values.min():g} and {values.max():g}, but the range is {self.describe_range()}: "
        f"{share:.0%} of the values would be clipped. Check the unit."
      )

  def clipped(self, raw: np.ndarray) -> float:
    """The share of the values (..., C) that the range clips."""
    low, high = self._limits()
    finite = np.isfinite(raw)
    return float(np.sum(finite & ((raw < low) | (raw > high))) / max(1, finite.sum()))

  def _limits(self) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest values, float32 (1,) or (C,)."""
    limits = np.asarray(self.range, np.float32)
    return limits[:, 0], limits[:, 1]

  def encode(self, raw):
    """Values in their unit → float32 in [-1, 1], clipped to the range; a pixel without a value becomes -1."""
    xp = jnp if isinstance(raw, jax.Array) else np
    low, high = self._limits()
    scaled = (self.canonical(raw) - low) * (2 / (high - low)) - 1
    return xp.where(xp.isnan(scaled), np.float32(-1), scaled).clip(-1, 1)

  def decode(self, encoded):
    """[-1, 1] → values in their unit, float32 or rounded to the integers of `dtype`."""
    values = self.decode_float(encoded)
    if np.dtype(self.dtype).kind == "f":
      return values
    limits = np.iinfo(self.dtype)
    return values.round().clip(limits.min, limits.max).astype(self.dtype)

  def decode_float(self, encoded):
    """[-1, 1] → float32 in the unit."""
    low, high = self._limits()
    return (encoded.clip(-1, 1) + 1) * ((high - low) / 2) + low

  def valid(self, raw):
    """bool (..., H, W, 1): pixels whose channels all have a value."""
    xp = jnp if isinstance(raw, jax.Array) else np
    return xp.isfinite(self.canonical(raw)).all(-1, keepdims=True)

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, C) → uint8 (H, W, 3): three of `shown_channels` as RGB, each over its range, or colours of one;
    pixels that are not `valid` in black, which no other pixel has.
    """
    if len(self.shown_channels) == 3:
      colors = np.maximum(_to_8_bits(encoded[..., self.shown_channels]), 1)
    else:
      channel = self.shown_channels[0] if self.shown_channels else 0
      colors = depth.colors(-np.asarray(encoded[..., channel], np.float32))
    return colors if valid is None else np.where(np.asarray(valid) > 0, colors, np.array(depth.HOLE_COLOR, np.uint8))

  def range_of(self, channel: int) -> tuple[float, float]:
    """(lowest, highest) of a channel, counted from 0."""
    return self.range[channel if len(self.range) > 1 else 0]

  def describe_range(self) -> str:
    """For example "-1000 to 3000 HU"."""
    if not self.range:
      return "range not set"
    unit = f" {self.unit}" if self.unit else ""
    return ", ".join(f"{low:g} to {high:g}" for low, high in self.range) + unit

  def describe(self) -> str:
    """For example "quantity, range -1000 to 3000 HU, 1 channel"."""
    return f"quantity, range {self.describe_range()}, {_channels(self.channels)}"


SHARPNESS = 5.0  # of the softmax over a generator's outputs in [-1, 1]: the surest answer has a probability of 0.9995


@dataclasses.dataclass(frozen=True)
class Classes(_Shared):
  """Label maps: every pixel belongs to one of a few classes, which the networks see as one-hot channels of ±1.

  Attributes:
    count: number of classes; 0: not known yet (`prepare` determines it from the training split).
    palette: (red, green, blue) of each class, by which files of colours are read; empty: files hold indices.
    ignore: index that marks pixels without a label; -1: none.
    shown: the colours for display; classes that it lacks get those of `palette`, else distinct ones.
  """

  count: int = 0
  palette: tuple[tuple[int, int, int], ...] = ()
  ignore: int = -1
  shown: tuple[tuple[int, int, int], ...] = ()

  kind: ClassVar[str] = "classes"
  unit: ClassVar[str] = ""
  dtype: ClassVar[str] = "uint8"
  raw_channels: ClassVar[int] = 1
  resampling: ClassVar[str] = "nearest"
  metrics: ClassVar[tuple[str, ...]] = ("mean_iou", "pixel_accuracy", "class_accuracy")
  main_metric: ClassVar[str] = "mean_iou"

  @property
  def channels(self) -> int:
    """Channels that the networks see: one for each class."""
    return self.count

  @property
  def has_holes(self) -> bool:
    return self.ignore >= 0

  def accept(self, array: np.ndarray, name: str) -> np.ndarray:
    """Checks raw values and returns class indices, uint8 (..., H, W, 1). Colours (..., H, W, 3) of a palette become
    indices (`palettes.match`), as do grey values beyond the classes if all colours of the palette are grey.

    Raises:
      UsageError: indices beyond the classes, other than integers, or colours that are not in the palette.
    """
    if array.dtype == np.bool_:
      array = array.astype(np.uint8)
    if array.shape[-1] in (3, 4) and array.dtype == np.uint8:
      return palettes.match(array[..., :3], self.palette, name)[0]
    if array.shape[-1] != 1 or array.dtype.kind not in "ui":
      raise UsageError(
        f"{name} holds {array.dtype} of {_channels(array.shape[-1])}; label maps hold class indices in one channel of "
        "integers, or 8-bit colours of a palette."
      )
    is_grey = bool(self.palette) and all(red == green == blue for red, green, blue in self.palette)
    if is_grey and array.dtype == np.uint8 and array.size and array.max() >= len(self.palette):
      return palettes.match(np.repeat(array, 3, -1), self.palette, name)[0]
    limit = self.count or 256
    wrong = np.unique(array[(array != self.ignore) & ((array < 0) | (array >= limit))])
    if wrong.size:
      raise UsageError(
        f"{name} holds the class {wrong[0]}, but classes are numbered 0 to {limit - 1}. If it marks pixels without a "
        f"label, declare it (data.input_ignore or data.target_ignore = {wrong[0]}); else raise the number of classes."
      )
    return array.astype(np.uint8)

  @property
  def missing(self) -> float | None:
    return None if self.ignore < 0 else float(self.ignore)

  def mark_missing(self, array: np.ndarray, nodata: float | None) -> np.ndarray:
    if nodata is None or not self.has_holes:
      return array
    return np.where(array == nodata, np.asarray(self.ignore, array.dtype), array)

  def encode(self, raw):
    """Class indices (..., 1) → float32 one-hot (..., count) of ±1; a pixel without a label is -1 in every channel."""
    return (raw == np.arange(self.count, dtype=np.uint8)).astype(np.float32) * 2 - 1

  def pack(self, raw: np.ndarray) -> np.ndarray:
    return raw

  def unpack(self, packed):
    return self.encode(packed)  # exact however it is compiled

  def decode(self, encoded):
    """[-1, 1] (..., count) → the index of the largest channel, uint8 (..., 1)."""
    return encoded.argmax(-1)[..., None].astype(np.uint8)

  decode_float = decode

  def valid(self, raw):
    """bool (..., H, W, 1): pixels with a label; None if every pixel has one."""
    return raw != self.ignore if self.has_holes else None

  def activate(self, output):
    """The generator's output in [-1, 1] as class probabilities p, which are shown to the discriminator as 2p − 1."""
    return jax.nn.softmax(SHARPNESS * output) * 2 - 1

  def error(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """1 where the classes of encoded arrays differ, else 0: float32 (..., H, W)."""
    return (self.decode(output) != self.decode(target))[..., 0].astype(np.float32)

  @property
  def color_table(self) -> np.ndarray:
    """The colour of every index, uint8 (256, 3): the classes', and black for pixels without a label."""
    table = np.zeros((256, 3), np.uint8)
    for colors in (palettes.distinct(self.count), self.palette, self.shown):
      known = min(self.count, len(colors))
      table[:known] = np.array(colors[:known], np.uint8).reshape(known, 3)
    if self.has_holes:
      table[self.ignore] = 0
    return table

  def colors(self, indices: np.ndarray) -> np.ndarray:
    """Class indices (..., 1) → uint8 (..., 3)."""
    return self.color_table[indices[..., 0]]

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, count) → uint8 (H, W, 3): the palette's colours; pixels that are not `valid` in black."""
    shown = self.colors(self.decode(np.asarray(encoded)))
    return shown if valid is None else np.where(np.asarray(valid) > 0, shown, np.array(depth.HOLE_COLOR, np.uint8))

  def describe(self) -> str:
    """For example "12 classes"."""
    return f"{self.count or 'unknown number of'} classes"


@dataclasses.dataclass(frozen=True)
class Stack(_Shared):
  """Several inputs on one grid, each with its own signal: a photograph and LiDAR depth, or bands of several sensors.

  Raw arrays are float32 with the raw channels of all parts one after the other; `join` makes them.

  Attributes:
    parts: the signals, in order.
    names: their names, those of their folders.
  """

  parts: tuple["Image | Depth | Quantity | Classes", ...]
  names: tuple[str, ...]

  kind: ClassVar[str] = "stack"
  unit: ClassVar[str] = ""
  dtype: ClassVar[str] = "float32"
  has_holes: ClassVar[bool] = False
  resampling: ClassVar[str] = "parts"
  metrics: ClassVar[tuple[str, ...]] = ()
  main_metric: ClassVar[str] = ""

  @property
  def channels(self) -> int:
    """Channels that the networks see."""
    return sum(part.channels for part in self.parts)

  @property
  def raw_channels(self) -> int:
    return sum(part.raw_channels for part in self.parts)

  def split(self, raw) -> list[Any]:
    """The raw arrays of the parts, in their own number types."""
    ends = np.cumsum([part.raw_channels for part in self.parts])
    pieces = [raw[..., end - part.raw_channels : end] for part, end in zip(self.parts, ends)]
    return [
      piece.round().astype(part.dtype) if isinstance(part, Image | Classes) else piece
      for part, piece in zip(self.parts, pieces)
    ]

  def split_encoded(self, encoded) -> list[Any]:
    """The encoded arrays of the parts."""
    ends = np.cumsum([part.channels for part in self.parts])
    return [encoded[..., end - part.channels : end] for part, end in zip(self.parts, ends)]

  def join(self, parts: Mapping[str, np.ndarray], name: str = "The input") -> np.ndarray:
    """Raw arrays (..., H, W, C) by name, as the parts accept them, → float32 (..., H, W, raw_channels).

    Raises:
      UsageError: other names, sizes that differ, or an array that its part does not accept. The message starts with
        `name`.
    """
    if set(parts) != set(self.names):
      raise UsageError(f"{name} has the parts {', '.join(parts)}; this model has {', '.join(self.names)}.")
    arrays = []
    for key, part in zip(self.names, self.parts):
      array = np.asarray(parts[key])
      array = array[..., None] if array.ndim == 2 else array
      accepted = part.accept(array, f"{name}, {key},")
      if accepted.shape[-1] != part.raw_channels:
        raise UsageError(
          f"{name}, {key}, has {_channels(accepted.shape[-1])}; this model has {_channels(part.raw_channels)}."
        )
      if isinstance(part, Image) and accepted.dtype != part.dtype:
        accepted = part.decode(part.encode(accepted))
      arrays.append(accepted.astype(np.float32))
    if len({array.shape[:-1] for array in arrays}) > 1:
      sizes = ", ".join(f"{key} {array.shape[-2]}×{array.shape[-3]}" for key, array in zip(self.names, arrays))
      raise UsageError(f"{name} has parts of different sizes: {sizes} (width × height). Bring them onto one grid.")
    return np.concatenate(arrays, axis=-1)

  def accept(self, array: np.ndarray, name: str) -> np.ndarray:
    """Checks raw values that `join` made, or in the same order, and returns float32.

    Raises:
      UsageError: other than real numbers, or values that a part does not accept. The message starts with `name`.
    """
    if array.dtype.kind not in "uif" or array.shape[-1] != self.raw_channels:
      raise UsageError(
        f"{name} holds {array.dtype} of {_channels(array.shape[-1])}; this model has the inputs {self.describe()}. "
        "Give them by name, or as numbers with their channels one after the other."
      )
    return self.join(dict(zip(self.names, self.split(array.astype(np.float32)))), name)

  def canonical(self, raw):
    """float32 in which the parts mark pixels without a value."""
    xp = jnp if isinstance(raw, jax.Array) else np
    pieces = [part.canonical(piece).astype(np.float32) for part, piece in zip(self.parts, self.split(raw))]
    return xp.concatenate(pieces, axis=-1)

  def check_range(self, accepted: np.ndarray, name: str) -> None:
    """Refuses values that are unlikely to be of one of the parts' signals.

    Raises:
      UsageError: as those of the parts.
    """
    for key, part, piece in zip(self.names, self.parts, self.split(accepted)):
      part.check_range(piece, f"{name}, {key},")

  def encode(self, raw):
    """The parts' codes one after the other, float32 in [-1, 1]."""
    xp = jnp if isinstance(raw, jax.Array) else np
    return xp.concatenate([part.encode(piece) for part, piece in zip(self.parts, self.split(raw))], axis=-1)

  def pack(self, raw: np.ndarray) -> np.ndarray:
    pieces = [part.pack(piece).astype(np.float32) for part, piece in zip(self.parts, self.split(raw))]
    return np.concatenate(pieces, axis=-1)

  def unpack(self, packed):
    return jnp.concatenate([part.unpack(piece) for part, piece in zip(self.parts, self.split(packed))], axis=-1)

  def decode(self, encoded):
    """[-1, 1] → raw numbers as `join` returns them."""
    xp = jnp if isinstance(encoded, jax.Array) else np
    pieces = zip(self.parts, self.split_encoded(encoded))
    return xp.concatenate([part.decode(piece).astype(np.float32) for part, piece in pieces], axis=-1)

  decode_float = decode

  def measured(self, encoded) -> Any:
    """bool (..., H, W, 1): pixels where the depth among the inputs has a measurement; None without depth."""
    known = [part.measured(piece) for part, piece in zip(self.parts, self.split_encoded(encoded))]
    known = [each for each in known if each is not None]
    return functools.reduce(operator.or_, known) if known else None

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, C) → uint8 (H, W · parts, 3): the parts beside each other."""
    del valid
    return np.concatenate([image for _, image in self.columns(encoded)], axis=1)

  def columns(self, encoded: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """[-1, 1] (H, W, C) → name and uint8 (H, W, 3) of each part."""
    pieces = zip(self.names, self.parts, self.split_encoded(encoded))
    return [(name, part.display(piece, part.measured(piece))) for name, part, piece in pieces]

  def describe(self) -> str:
    """For example "rgb (8-bit image, 3 channels), lidar (depth, 0 to 80 m, 1 channel)"."""
    return ", ".join(f"{name} ({part.describe()})" for name, part in zip(self.names, self.parts))


Signal = Image | Depth | Quantity | Classes | Stack
TYPES: dict[str, type[Signal]] = {"image": Image, "depth": Depth, "quantity": Quantity, "classes": Classes}
KINDS = tuple(TYPES)


def _to_8_bits(encoded: np.ndarray) -> np.ndarray:
  """[-1, 1] → uint8."""
  return np.round(np.clip((np.asarray(encoded, np.float32) + 1) * 127.5, 0, 255)).astype(np.uint8)


def _channels(count: int) -> str:
  return f"{count} channel{'s' * (count != 1)}"


def check_kind(kind: str, field: str) -> str:
  """The canonical name of a kind (`picture` is an older word for `image`).

  Raises:
    UsageError: an unknown kind; the message starts with `field`.
  """
  kind = ALIASES.get(kind, kind)
  if kind not in KINDS:
    raise UsageError(f"{field} is {kind!r}{nearest(kind, KINDS, '; the')} kinds are {', '.join(KINDS)}.")
  return kind


def choose_kind(kind: str, array: np.ndarray, field: str, name: str) -> str:
  """The kind of raw data: `kind` itself, or for `"auto"` an image if the numbers are unsigned integers or bool.

  Raises:
    UsageError: `"auto"` for other numbers, which could mean several things, or an unknown kind.
  """
  if kind != "auto":
    return check_kind(kind, field)
  if array.dtype.kind in "ub":
    return "image"
  finite = array[np.isfinite(array)] if array.dtype.kind in "if" else array[:0]
  low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
  found = f" from {low:g} to {high:g}" if finite.size else ""
  may_be_image = array.dtype.kind == "f" and 0 <= low and high <= 1
  image = "'image' for intensities in [0, 1], " if may_be_image else ""
  raise UsageError(
    f"{name} holds {array.dtype} numbers{found}, which could mean several things. Set {field}: "
    f"{image}'depth' for metres with 0 where nothing was measured, "
    "'quantity' for other real numbers, 'classes' for labels."
  )


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that a configuration declares about one side, before its data are known.

  Attributes:
    kind: `"auto"` or one of `KINDS`.
    depth_range, scale: of depth.
    range, unit, nodata: of a quantity.
    count, palette, ignore, shown: of classes.
    parts: of a stack.
    resampling: `"auto"`, or how images (`"bicubic"`, `"nearest"`) or quantities (`"area"`, `"nearest"`) are resized.
    display: numbers of the channels of an image or a quantity that are shown, from 0.
  """

  kind: str = "auto"
  depth_range: tuple[float, float] = (0.0, 80.0)
  scale: float = 0.0
  range: tuple[tuple[float, float], ...] = ()
  unit: str = ""
  nodata: tuple[float, ...] = ()
  count: int = 0
  palette: tuple[tuple[int, int, int], ...] = ()
  ignore: int = -1
  shown: tuple[tuple[int, int, int], ...] = ()
  resampling: str = "auto"
  parts: tuple["Part", ...] = ()
  display: tuple[int, ...] = ()

  def make(self, channels: int, dtype: Any) -> Signal:
    """The signal of raw data; images are 8-bit if `dtype` is, else 16-bit. The kind must not be `"auto"`.

    Args:
      channels: number of channels of the raw data; classes ignore it.
      dtype: their number type.

    Raises:
      UsageError: ranges for another number of channels.
    """
    if self.kind == Stack.kind:
      made = [part.settings.make(part.channels, part.dtype) for part in self.parts]
      return Stack(tuple(each for each in made if not isinstance(each, Stack)), tuple(part.name for part in self.parts))
    if self.kind == "depth":
      return Depth(channels, self.depth_range, self.scale)
    if self.kind == "classes":
      return Classes(self.count or len(self.palette), self.palette, self.ignore, self.shown)
    if self.kind == "quantity":
      if channels and len(self.range) not in (0, 1, channels):
        ranges = ", ".join(f"{low:g} to {high:g}" for low, high in self.range)
        raise UsageError(
          f"There are {len(self.range)} ranges ({ranges}), but the data have {_channels(channels)}. Set one range for "
          "all channels, or one for each."
        )
      dtype = np.dtype(dtype)
      resampling = "nearest" if self.resampling == "nearest" else "area"
      name = "float32" if dtype.kind == "f" else str(dtype.newbyteorder("="))
      return Quantity(channels, name, self.range, self.unit, self.nodata, resampling, self.display)
    bits = "uint8" if np.dtype(dtype) in (np.uint8, np.bool_) else "uint16"
    return Image(channels, bits, "nearest" if self.resampling == "nearest" else "bicubic", self.display)

  def check_display(self, signal: Signal, field: str) -> None:
    """Checks `display` against the signal that `make` returned.

    Raises:
      UsageError: a kind whose channels are not chosen, or channels that it lacks; the message starts with `field`.
    """
    if isinstance(signal, Stack):
      for part, each in zip(self.parts, signal.parts, strict=True):
        part.settings.check_display(each, f"The display of {part.name} in data.inputs")
    elif self.display and not isinstance(signal, Image | Quantity):
      raise UsageError(
        f"{field} is {self.display}, but channels to show are chosen for images and quantities, and these data are: "
        f"{signal.describe()}. Leave it empty."
      )
    elif self.display and max(self.display) >= signal.channels:
      raise UsageError(
        f"{field} is {self.display}, but these data are: {signal.describe()}. Channels are counted from 0."
      )


class Part(NamedTuple):
  """One of several inputs.

  Attributes:
    name: name of its folder.
    settings: what the configuration declares about it.
    channels, dtype: form of its raw arrays; 0 and "": not known yet.
  """

  name: str
  settings: Settings
  channels: int = 0
  dtype: str = ""


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Describes a data set: the signals of both sides, the number of pairs per split, and a content fingerprint."""

  input: Signal
  target: Signal
  counts: dict[str, int]
  fingerprint: str = ""

  @classmethod
  def of(cls, x: Signal, y: Signal, counts: dict[str, int], content: str) -> "DataSpec":
    """A spec whose fingerprint combines the counts, for human readers, with `content`, a checksum of the data."""
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return cls(x, y, counts, f"{listed}; {_CHECKSUM}{content}")


_CHECKSUM = "checksum "  # marks fingerprints that do not depend on the files' names and times


def same_data(fingerprint: str, other: str) -> bool:
  """Whether two fingerprints may belong to the same data; those of versions before 0.3 cannot be compared."""
  return fingerprint == other or not (_CHECKSUM in fingerprint and _CHECKSUM in other)
