"""Random changes of training pairs beyond crop and mirror: zoom, rotations, flips, brightness and contrast.

Each is off by default, and a function of numbers drawn from (seed, number of the example). Zoom and rotation by any
angle are one affine warp, each array with its own resampling; the others are exact rearrangements of pixels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pix2pix_jax.data.resizing import Window
from pix2pix_jax.data.source import import_tensorflow
from pix2pix_jax.signals import Classes, DataSpec, Signal, Stack

DRAWS = 6  # uniform numbers that `Change.draw` uses


class Change(NamedTuple):
  """What is done to one pair.

  Attributes:
    zoom: factor by which it is enlarged before the crop.
    degrees: rotation, anticlockwise.
    quarter_turns: further rotation by right angles, as `numpy.rot90` counts them.
    upside_down: whether it is mirrored top to bottom.
    brightness: added to an input image on [0, 1].
    contrast: factor for the differences of an input image from its mean.
  """

  zoom: float = 1.0
  degrees: float = 0.0
  quarter_turns: int = 0
  upside_down: bool = False
  brightness: float = 0.0
  contrast: float = 1.0

  @classmethod
  def draw(cls, data: Any, uniform: np.ndarray) -> "Change":
    """The change of the config's `data` section for `DRAWS` numbers, uniform in [0, 1)."""
    zoom, angle, turns, flip, brightness, contrast = map(float, uniform)
    low, high = data.scale
    return cls(
      zoom=low + zoom * (high - low),
      degrees=(2 * angle - 1) * data.rotate_degrees,
      quarter_turns=int(4 * turns) if data.rotate_right_angles else 0,
      upside_down=data.mirror_vertical and flip < 0.5,
      brightness=(2 * brightness - 1) * data.brightness,
      contrast=1 + (2 * contrast - 1) * data.contrast,
    )

  @property
  def warps(self) -> bool:
    """Whether pixels have to be resampled."""
    return self.zoom != 1 or self.degrees != 0

  def before_turns(self, shape: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a crop that the quarter turns bring to `shape`."""
    return shape if self.quarter_turns % 2 == 0 else (shape[1], shape[0])

  def rearrange(self, array: np.ndarray) -> np.ndarray:
    """Quarter turns, then the mirror, of an array (H, W, C)."""
    turned = np.rot90(array, self.quarter_turns)
    return turned[::-1] if self.upside_down else turned

  def recolor(self, image: np.ndarray, signal: Signal) -> np.ndarray:
    """Contrast and brightness of an encoded image, or of the images among several inputs."""
    if self.contrast == 1 and self.brightness == 0:
      return image
    if isinstance(signal, Stack):
      pieces = zip(signal.parts, signal.split_encoded(image))
      return np.concatenate(
        [self.recolor(piece, part) if part.kind == "image" else piece for part, piece in pieces], axis=-1
      )
    mean = image.mean(dtype=np.float32)
    return ((image - mean) * np.float32(self.contrast) + mean + np.float32(2 * self.brightness)).clip(-1, 1)

  def warp(
    self, example: dict[str, np.ndarray], spec: DataSpec, place: tuple[float, float], shape: tuple[int, int]
  ) -> dict[str, np.ndarray]:
    """A crop of the zoomed and rotated arrays of an example.

    Pixels outside them are holes in arrays that have holes, else reflections.

    Args:
      example: raw `input`, `target` and perhaps `mask`, (H, W, C) of one size.
      spec: their signals.
      place: where the crop lies between the first and the last row and column that it can have, each in [0, 1).
      shape: (height, width) of the crop.
    """
    transform = self._transform(example["input"].shape[:2], place, shape)
    warped = {name: _warp(example[name], getattr(spec, name), transform, shape) for name in ("input", "target")}
    if "mask" in example:
      valid = spec.target.valid(warped["target"])
      assert valid is not None
      if spec.target.resampling == "nearest":
        valid &= _project(example["mask"], transform, shape, "NEAREST", hole=0)
      warped["mask"] = valid
    return warped

  def _transform(self, size: tuple[int, int], place: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """(8,) parameters of the projection from a pixel (x, y) of the crop to one of the array."""
    centers = []
    for length, at, cropped in zip(size, place, shape):
      seen = cropped / self.zoom  # pixels of the array that the crop shows
      centers.append((at * (length - seen) if length > seen else (length - seen) / 2) + seen / 2 - 0.5)
    angle = np.deg2rad(self.degrees)
    cosine, sine = np.cos(angle) / self.zoom, np.sin(angle) / self.zoom
    middle_y, middle_x = ((cropped - 1) / 2 for cropped in shape)
    return np.array(
      [
        *(cosine, -sine, centers[1] - cosine * middle_x + sine * middle_y),
        *(sine, cosine, centers[0] - sine * middle_x - cosine * middle_y),
        *(0, 0),
      ],
      np.float32,
    )


def _warp(array: np.ndarray, signal: Signal, transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """One array with the resampling of its signal; each of several inputs with its own."""
  if isinstance(signal, Stack):
    pieces = zip(signal.parts, signal.split(array))
    return np.concatenate([_warp(piece, part, transform, shape).astype(np.float32) for part, piece in pieces], axis=-1)
  if signal.resampling == "nearest":
    return _project(array, transform, shape, "NEAREST", _hole(signal))
  if signal.resampling == "area":
    valid = np.isfinite(array)
    weight = _project(valid.astype(np.float32), transform, shape, "BILINEAR", hole=0)
    total = _project(np.where(valid, array, 0), transform, shape, "BILINEAR", hole=0)
    return np.where(weight >= 0.5, total / np.maximum(weight, np.float32(0.5)), np.float32(np.nan))
  blended = _project(array.astype(np.float32), transform, shape, "BILINEAR", hole=None)
  return np.rint(blended).clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def _hole(signal: Signal) -> float | None:
  """The value of pixels without one; None if every pixel has one."""
  if isinstance(signal, Classes):
    return signal.ignore if signal.has_holes else None
  return {"depth": 0.0, "quantity": np.nan}.get(signal.kind)


def _project(
  array: np.ndarray, transform: np.ndarray, shape: tuple[int, int], interpolation: str, hole: float | None
) -> np.ndarray:
  """The array at the places that the transform names; outside, a value for holes or (None) reflections."""
  tf = import_tensorflow()
  with tf.device("CPU"):
    projected = tf.raw_ops.ImageProjectiveTransformV3(
      images=array.astype(np.float32)[None],
      transforms=transform[None],
      output_shape=shape,
      fill_value=np.float32(0 if hole is None else hole),
      interpolation=interpolation,
      fill_mode="REFLECT" if hole is None else "CONSTANT",
    )
  return projected.numpy()[0].astype(array.dtype)


def is_active(data: Any) -> bool:
  """Whether the config's `data` section asks for any of these changes."""
  return (
    tuple(data.scale) != (1, 1)
    or bool(data.rotate_degrees or data.brightness or data.contrast)
    or data.rotate_right_angles
    or data.mirror_vertical
  )


def corner(place: np.ndarray, size: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """(..., 2): the first row and column of crops.

  Args:
    place: (..., 2), where they lie, as in `Change.warp`, float32.
    size: (..., 2), (height, width) of the arrays.
    shape: (height, width) of the crops.
  """
  return (place * (size - shape + 1).astype(np.float32)).astype(np.int64)


def crop(
  read: Callable[[Window | None], dict[str, np.ndarray]],
  change: Change,
  spec: DataSpec,
  size: np.ndarray,
  place: np.ndarray,
  shape: tuple[int, int],
) -> dict[str, np.ndarray]:
  """The raw crop of a pair, changed.

  Args:
    read: function from a window, or None for all, to the raw arrays of the pair.
    change: the change.
    spec: signals of the data.
    size: (height, width) of the arrays.
    place: where the crop lies, as in `Change.warp`, float32.
    shape: (height, width) of the crop.
  """
  uncut = change.before_turns(shape)
  if change.warps:
    example = change.warp(read(None), spec, (float(place[0]), float(place[1])), uncut)
  else:
    y, x = corner(place, size, uncut)
    window: Window = (int(y), int(x), *uncut)
    example = read(window)
  return {name: change.rearrange(array) for name, array in example.items()}
