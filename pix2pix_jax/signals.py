"""Signals: the meaning of the numbers on one side of a pair.

A signal is a frozen object that knows its kind, its raw number type, its range and which pixels hold no value. It
converts raw arrays to the networks' [-1, 1] and back, determines how they are resized, and draws them for display. No
other module infers meaning from a dtype.

`encode`, `decode` and `valid` are pure and use only methods that NumPy and JAX arrays share, so that the input
pipeline, the compiled programs and exported files all run the same code. Arrays are (..., H, W, C).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax import depth
from pix2pix_jax.errors import UsageError

KINDS = ("image", "depth")
ALIASES = {"picture": "image"}


@dataclasses.dataclass(frozen=True)
class Image:
  """Intensities over the full range of their number type: photographs, label maps shown as colours, grey images.

  Attributes:
    channels: number of channels, at least 1.
    dtype: raw number type of the data set, `"uint8"` or `"uint16"`; it decides what `decode` returns.
    resampling: how it is resized, `"bicubic"` with anti-aliasing, or `"nearest"` for label maps whose colours must not
      mix.
  """

  channels: int = 3
  dtype: str = "uint8"
  resampling: str = "bicubic"

  kind: ClassVar[str] = "image"
  has_holes: ClassVar[bool] = False
  metrics: ClassVar[tuple[str, ...]] = ("l1", "psnr", "ssim")

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
      raise UsageError(f"{name} is {array.dtype}; images are uint8, uint16, bool, or float in [0, 1].")
    if not np.isfinite(array).all():
      raise UsageError(f"{name} holds NaN or infinite values; float images lie in [0, 1]. Replace those values first.")
    if not (array.size and array.min() >= 0 and array.max() <= 1):
      raise UsageError(
        f"{name} is float from {array.min():g} to {array.max():g}; float images lie in [0, 1]. "
        "Rescale it, pass uint8 or uint16, or set its kind to 'depth' if these are metres."
      )
    return array.astype(np.float32)

  def canonical(self, raw):
    """Raw values with a single representation for pixels without a value; images are returned unchanged."""
    return raw

  def store(self, array: np.ndarray) -> np.ndarray:
    """Accepted values as data sets store them: float in [0, 1] becomes uint16 (65,536 levels)."""
    return (array * np.float32(65535)).round().astype(np.uint16) if array.dtype.kind == "f" else array

  def check_range(self, accepted: np.ndarray, name: str) -> None:
    """Does nothing: every accepted value is possible in an image."""

  def encode(self, raw):
    """Integers over their full range, or float in [0, 1] → float32 in [-1, 1]."""
    largest = 1 if raw.dtype.kind == "f" else np.iinfo(raw.dtype).max
    return raw.astype(np.float32) * np.float32(2 / largest) - 1

  def decode(self, encoded):
    """[-1, 1] → integers of `dtype`, rounded."""
    half = np.float32(np.iinfo(self.dtype).max / 2)
    return ((encoded.clip(-1, 1) + 1) * half).round().astype(self.dtype)

  def decode_float(self, encoded):
    """[-1, 1] → float32 in [0, 1], for callers that work with float images."""
    return (encoded.clip(-1, 1) + 1) / 2

  def valid(self, raw) -> None:
    """None, because every pixel of an image holds a value."""
    return None

  def measured(self, encoded) -> None:
    """The same for encoded arrays."""
    return None

  def display(self, encoded: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """[-1, 1] (H, W, C) → uint8 (H, W, 3). RGB as it is, one channel as grey; otherwise the first channel."""
    del valid
    shown = encoded if self.channels == 3 else np.repeat(encoded[..., :1], 3, axis=-1)
    return np.round(np.clip((np.asarray(shown, np.float32) + 1) * 127.5, 0, 255)).astype(np.uint8)

  def describe(self) -> str:
    """For example "8-bit image, 3 channels"."""
    return f"{8 * np.dtype(self.dtype).itemsize}-bit image, {_channels(self.channels)}"


@dataclasses.dataclass(frozen=True)
class Depth:
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
  dtype: ClassVar[str] = "float32"
  has_holes: ClassVar[bool] = True
  resampling: ClassVar[str] = "nearest"
  metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae", "abs_rel", "delta1", "delta2", "delta3", "silog", "l1", "psnr")

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

  def canonical(self, raw):
    """float32 metres in which every pixel without a measurement is 0."""
    xp = jnp if isinstance(raw, jax.Array) else np
    return xp.where(xp.isfinite(raw) & (raw > 0), raw, np.float32(0))

  def store(self, array: np.ndarray) -> np.ndarray:
    """Accepted values as data sets store them: unchanged."""
    return array

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


Signal = Image | Depth


def _channels(count: int) -> str:
  return f"{count} channel{'s' * (count != 1)}"


def check_kind(kind: str, field: str) -> str:
  """The canonical name of a kind (`picture` is an older word for `image`).

  Raises:
    UsageError: an unknown kind; the message starts with `field`.
  """
  kind = ALIASES.get(kind, kind)
  if kind not in KINDS:
    raise UsageError(f"{field} is {kind!r}; the kinds are {' and '.join(KINDS)}.")
  return kind


def choose_kind(kind: str, dtype: np.dtype, field: str, name: str) -> str:
  """The kind of raw data: `kind` itself, or for `"auto"` an image if the numbers are unsigned integers or bool.

  Raises:
    UsageError: `"auto"` for other numbers, which could mean several things, or an unknown kind.
  """
  if kind != "auto":
    return check_kind(kind, field)
  if dtype.kind in "ub":
    return "image"
  raise UsageError(
    f"{name} holds {dtype} numbers, which could mean several things. Set {field}: 'image' for intensities in [0, 1], "
    "'depth' for metres with 0 where nothing was measured."
  )


def make(
  kind: str,
  *,
  channels: int,
  dtype: Any = "uint8",
  depth_range: tuple[float, float] = (0.0, 80.0),
  scale: float = 0.0,
  resampling: str = "auto",
) -> Signal:
  """A signal of `kind` for raw data of `dtype`; images are 8-bit if the data is, else 16-bit, and bicubic if `auto`."""
  if kind == "depth":
    return Depth(channels, (float(depth_range[0]), float(depth_range[1])), float(scale))
  dtype = "uint8" if np.dtype(dtype) in (np.uint8, np.bool_) else "uint16"
  return Image(channels, dtype, "nearest" if resampling == "nearest" else "bicubic")


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
