"""Built-in stand-in for paired MR and CT: axial slices of heads, as T1-weighted MR and as CT in Hounsfield units.

A head is a set of layers below its outline (skin, fat, muscle, skull, fluid, brain) and of round structures in the
brain, in centimetres. Both images are computed from the same map of tissues, by one table of their typical numbers.
Neither tells everything:

* Compact bone, air and calcifications are all dark in the MR. Whether a dark pixel has -1000 or 1500 HU follows from
  its place: the skull surrounds the brain, air fills the outside, the frontal sinus and the cells of the mastoid.
* Grey and white matter, far apart in the MR, differ by 9 HU, about as much as the noise of the CT.
* Random: the density of the bone, noise, and the receiver's gain and bias field, which only the MR shows.

The numbers are rounded from textbooks of radiology; the shapes are drawn by hand and no basis for medical conclusions.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.paint import noise

FIELD = 21.0  # centimetres along the shorter side of the image


class Tissue(NamedTuple):
  """Typical numbers of a tissue.

  Attributes:
    hounsfield: mean in the CT, in HU.
    spread: variation of the CT within the tissue, in HU.
    signal: mean in the T1-weighted MR; 1 is white matter.
  """

  hounsfield: float
  spread: float
  signal: float


TISSUES = {
  "air": Tissue(-1000, 0, 0.0),
  "skin": Tissue(45, 10, 0.55),
  "fat": Tissue(-90, 8, 1.25),
  "muscle": Tissue(55, 8, 0.5),
  "compact_bone": Tissue(1450, 110, 0.04),
  "spongy_bone": Tissue(620, 110, 0.16),
  "fluid": Tissue(8, 2, 0.22),
  "grey": Tissue(37, 2, 0.68),
  "white": Tissue(28, 2, 1.0),
  "calcification": Tissue(380, 60, 0.08),
  "tumour": Tissue(46, 4, 0.45),
  "oedema": Tissue(19, 2, 0.72),
  "blood": Tissue(68, 4, 0.8),
}
NAMES = tuple(TISSUES)
_TABLE = np.array([*TISSUES.values()], float32)


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws slice `index` of the sequence `seed` at `size` = (height, width).

  The anatomy depends on (seed, index) only, never on the size; noise is drawn for each pixel. The front of the head is
  at the top.

  Returns:
    input: float32 (H, W, 1), T1-weighted MR in arbitrary units, at least 0 and about 500 in white matter.
    target: int16 (H, W, 1), CT in HU, between -1000 and about 1800.
  """
  rng = np.random.default_rng([seed, index])
  head, scanner = scene(rng), _Scanner(rng)
  # Drawn at 2 to 4 times the size and averaged: a pixel at the border of two tissues shows a mixture, as in a scanner.
  k = int(np.clip(np.ceil(256 / max(size)), 2, 4))
  x, y = pixel_centres((k * size[0], k * size[1]))
  tissue = tissues(head, x, y)
  mean, spread, signal = (column.take(tissue) for column in _TABLE.T)
  texture = _averaged(1 + 0.05 * head.noise(x, y, 0.5), k)
  is_bone = (tissue == NAMES.index("compact_bone")) | (tissue == NAMES.index("spongy_bone"))
  hounsfield = np.where(is_bone, head.density * mean, mean) + spread * head.noise(x, y, 1.5)
  mr = scanner.mr(rng, texture * _averaged(signal, k), *pixel_centres(size))
  ct = scanner.ct(rng, _averaged(hounsfield, k))
  return {"input": mr[..., None], "target": ct[..., None]}


def pixel_centres(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """x to the right, (1, W), and y downwards, (H, 1), of the pixel centres in centimetres from the image centre."""
  x, y = ((np.arange(n, dtype=float32) + float32(0.5 - n / 2)) * float32(FIELD / min(size)) for n in size[::-1])
  return x[None], y[:, None]


def _averaged(image: np.ndarray, k: int) -> np.ndarray:
  height, width = image.shape
  return image.reshape(height // k, k, width // k, k).mean((1, 3))


# --- Anatomy ----------------------------------------------------------------------------------------------------------


class _Wave:
  """A smooth random function of the angle around the head, within about ±1."""

  def __init__(self, rng: np.random.Generator, harmonics: int):
    self.terms = [(k, rng.normal() / (1 + k), rng.uniform(0, 2 * np.pi)) for k in range(1, harmonics + 1)]

  def __call__(self, angle: np.ndarray) -> np.ndarray:
    return sum((a * np.cos(k * angle + phase) for k, a, phase in self.terms), np.zeros_like(angle))


class _Bulge(NamedTuple):
  """Thickened bone with air inside: a frontal sinus, which a septum divides, or a mastoid with many small cells.

  Attributes:
    angle, width: its direction, and its half width, in radians.
    height: additional thickness of the bone in centimetres.
    cells: whether it consists of small cells.
  """

  angle: float
  width: float
  height: float
  cells: bool

  def away(self, angle: np.ndarray) -> np.ndarray:
    """Distance from its direction, in radians, with a sign."""
    return (angle - float32(self.angle) + float32(np.pi)) % float32(2 * np.pi) - float32(np.pi)

  def rise(self, angle: np.ndarray) -> np.ndarray:
    """Share of its height in a direction, in [0, 1]."""
    return np.exp(-((self.away(angle) / float32(self.width)) ** 2))


class _Blob(NamedTuple):
  """An ellipse in the brain with an uneven border; x0, y0, half axes in centimetres, angle in radians."""

  tissue: str
  x: float
  y: float
  wide: float
  high: float
  angle: float = 0.0


@dataclasses.dataclass
class Head:
  """A slice of a head. Lengths are in centimetres and angles in radians: 0 at the front, positive to the right.

  Attributes:
    level: height of the slice: 0 at the skull base, 1 below the vertex.
    centre, tilt: position and rotation in the image.
    wide, long: half axes of the outline.
    skin, fat, bone, gap: mean thickness of these layers; `gap` is the fluid between skull and brain.
    temple: thickness of the muscle at the temples.
    density: factor of the bone's HU.
    origin: where the head lies in the endless pattern of the noise.
    outline, fat_wave, bone_wave: their variation around the head.
    bulges: bone with air inside.
    blobs: structures of the brain; later ones cover earlier ones.
  """

  level: float
  centre: tuple[float, float]
  tilt: float
  wide: float
  long: float
  skin: float
  fat: float
  bone: float
  gap: float
  temple: float
  density: float
  origin: tuple[float, float]
  outline: _Wave
  fat_wave: _Wave
  bone_wave: _Wave
  bulges: list[_Bulge]
  blobs: list[_Blob]

  def noise(self, x: np.ndarray, y: np.ndarray, per_cm: float) -> np.ndarray:
    """Fractal noise of this head; see `paint.noise`."""
    return noise(x + float32(self.origin[0]), y + float32(self.origin[1]), per_cm)

  def radius(self, angle: np.ndarray) -> np.ndarray:
    """Distance from the centre to the surface."""
    across, along = np.abs(np.sin(angle)) / float32(self.wide), np.abs(np.cos(angle)) / float32(self.long)
    return (across**2.2 + along**2.2) ** (-1 / 2.2) * (1 + 0.015 * self.outline(angle))


def scene(rng: np.random.Generator) -> Head:
  """A head of 13.0-15.4 by 17.2-19.2 cm, smaller near the vertex, somewhere between skull base and vertex."""
  u = rng.uniform
  level = u(0, 1)
  size = 1 - 0.9 * max(0.0, level - 0.7)
  return Head(
    level=level,
    centre=(u(-0.5, 0.5), u(-0.5, 0.5)),
    tilt=rng.normal(0, 0.06),
    wide=size * u(6.5, 7.7),
    long=size * u(8.6, 9.6),
    skin=u(0.18, 0.28),
    fat=u(0.2, 0.55),
    bone=u(0.55, 0.85),
    gap=u(0.1, 0.3),
    temple=u(0.6, 1.3) * max(0.0, 1 - 1.4 * level),
    density=u(0.9, 1.12),
    origin=(u(0, 300), u(0, 300)),
    outline=_Wave(rng, 5),
    fat_wave=_Wave(rng, 6),
    bone_wave=_Wave(rng, 7),
    bulges=_bulges(rng, level),
    blobs=[*_structures(rng, level), *_lesion(rng, size)],
  )


def _bulges(rng: np.random.Generator, level: float) -> list[_Bulge]:
  u, bulges = rng.uniform, []
  if level < 0.45 and rng.random() < 0.8:
    bulges.append(_Bulge(rng.normal(0, 0.03), u(0.22, 0.36), u(0.7, 1.5) * (1 - level), False))
  if level < 0.3:
    reach, at = u(1.8, 3.0) * (1 - 2 * level), u(1.85, 2.1)
    bulges += [_Bulge(side * at, u(0.24, 0.34), reach * u(0.85, 1.15), True) for side in (-1, 1)]
  return bulges


def _structures(rng: np.random.Generator, level: float) -> list[_Blob]:
  """Ventricles, deep grey matter, brain stem and calcifications at this height."""
  u, blobs = rng.uniform, []
  full = float(np.exp(rng.normal(0, 0.2)))  # how wide the ventricles are
  if level < 0.3:
    blobs += [
      _Blob("white", 0, 0.9, u(1.3, 1.7), u(1.0, 1.3)),  # brain stem
      _Blob("fluid", 0, -0.9, u(0.7, 1.2), u(0.5, 0.8)),  # cistern in front of it
      _Blob("fluid", 0, 2.3, 0.7 * full, 0.45 * full),  # fourth ventricle
    ]
  for side in (-1, 1):
    if 0.3 <= level < 0.6:
      blobs += [
        _Blob("grey", side * 2.7, -0.3, u(0.55, 0.8), u(1.3, 1.8), side * -0.25),  # putamen
        _Blob("grey", side * 1.1, 1.0, u(0.75, 0.95), u(1.1, 1.4), side * -0.4),  # thalamus
        _Blob("grey", side * 1.6, -2.0, u(0.4, 0.6), u(0.8, 1.1), side * 0.3),  # caudate nucleus
        _Blob("fluid", side * 0.8, -2.3, 0.4 * full, 1.1, side * -0.35),  # frontal horn
        _Blob("fluid", side * 2.1, 3.2, 0.5 * full, 1.5, side * -0.3),  # posterior horn
      ]
      if rng.random() < 0.4:  # choroid plexus
        blobs.append(_Blob("calcification", side * 2.0, 2.7, u(0.2, 0.32), u(0.2, 0.4)))
    elif 0.6 <= level < 0.85:
      blobs.append(_Blob("fluid", side * 1.1, 0.2, 0.5 * full, u(2.3, 3.0), side * -0.15))  # body of the ventricle
  if 0.3 <= level < 0.6:
    blobs.append(_Blob("fluid", 0, 0.4, 0.16 * full, 1.1))  # third ventricle
    if rng.random() < 0.6:  # pineal gland
      blobs.append(_Blob("calcification", u(-0.1, 0.1), 2.3, u(0.22, 0.35), u(0.22, 0.35)))
  return blobs


def _lesion(rng: np.random.Generator, size: float) -> list[_Blob]:
  """In a third of the heads: a tumour within an oedema, or a haemorrhage, somewhere in the brain."""
  u = rng.uniform
  angle, distance = u(0, 2 * np.pi), size * u(1.5, 4.5)
  x, y = distance * np.sin(angle), 1.2 * distance * np.cos(angle)
  wide, high, turn = u(0.4, 1.0), u(0.4, 1.0), u(0, np.pi)
  kind = rng.random()
  if kind < 0.2:
    return [_Blob("oedema", x, y, wide + 0.7, high + 0.7, turn), _Blob("tumour", x, y, wide, high, turn)]
  return [_Blob("blood", x, y, wide, high, turn)] if kind < 0.33 else []


def tissues(head: Head, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The tissue at the points (x, y), in centimetres from the image centre: indices into NAMES, uint8."""
  c, s = float32(np.cos(head.tilt)), float32(np.sin(head.tilt))
  x, y = x - float32(head.centre[0]), y - float32(head.centre[1])
  x, y = c * x + s * y, c * y - s * x
  angle = np.arctan2(x, -y)
  depth = head.radius(angle) - np.hypot(x, y)  # below the surface
  out = np.zeros(depth.shape, np.uint8)

  def fill(name: str, where: np.ndarray) -> None:
    out[where] = NAMES.index(name)

  fill("skin", depth > 0)
  fat = head.fat * (1 + 0.35 * head.fat_wave(angle) - 0.25 * np.cos(angle))  # thicker at the back
  fill("fat", depth > head.skin)
  temples = np.exp(-(((np.abs(angle) - float32(1.3)) / float32(0.42)) ** 2))
  depth -= head.skin + np.maximum(fat, 0.1)  # below the fat
  fill("muscle", depth > 0)
  depth -= head.temple * temples  # below the muscle
  rises = [bulge.height * bulge.rise(angle) for bulge in head.bulges]
  shape = 1 + 0.2 * head.bone_wave(angle) + 0.15 * np.cos(2 * angle) - 0.25 * temples
  bone = head.bone * np.clip(shape, 0.6, 1.6) + sum(rises, np.zeros_like(depth))
  fill("compact_bone", depth > 0)
  share = depth / bone  # of the way through the bone
  fill("spongy_bone", (share > 0.32) & (share < 0.68) & (bone > 0.5))
  for bulge, rise in zip(head.bulges, rises, strict=True):
    hollow = (rise > 0.3 * bulge.height) & (share > 0.2) & (share < 0.82)
    walls = head.noise(x, y, 0.8) < -0.2 if bulge.cells else np.abs(bulge.away(angle)) < 0.03
    fill("compact_bone" if not bulge.cells else "spongy_bone", hollow)
    fill("air", hollow & ~walls)
  depth -= bone  # below the skull
  inside = depth > 0
  fill("fluid", inside)
  depth -= head.gap  # below the surface of the brain
  _fill_brain(head, x, y, depth, inside, out)
  return out


def _fill_brain(
  head: Head, x: np.ndarray, y: np.ndarray, depth: np.ndarray, inside: np.ndarray, out: np.ndarray
) -> None:
  """Fills the brain into `out`, at points `inside` the skull whose `depth` below its surface is known."""
  folds = np.abs(head.noise(x, y, 0.3))  # 0 along the sulci
  middle = np.abs(x - 0.12 * np.sin(y + float32(head.origin[0])))  # the fissure between the hemispheres
  apart = (np.abs(y) > 0.42 * head.long) | (head.level > 0.85)
  cortex = np.clip(0.45 + 0.2 * head.noise(x, y, 0.9), 0.2, 0.8)
  grey = (depth < cortex) | (folds < 0.5 * (1 - depth / 2.4)) | (apart & (middle < cortex))
  fluid = (folds < 0.12 * (1 - depth / 1.8)) | (apart & (middle < 0.07))
  brain = inside & (depth > 0)
  for name, where in (("white", brain), ("grey", brain & grey), ("fluid", brain & fluid)):
    out[where] = NAMES.index(name)
  uneven = 1 + 0.16 * head.noise(x, y, 0.6)
  for blob in head.blobs:
    c, s = float32(np.cos(blob.angle)), float32(np.sin(blob.angle))
    u, v = x - float32(blob.x), y - float32(blob.y)
    ellipse = ((c * u + s * v) / blob.wide) ** 2 + ((c * v - s * u) / blob.high) ** 2
    out[(ellipse < uneven) & brain] = NAMES.index(blob.tissue)


# --- Scanners ---------------------------------------------------------------------------------------------------------


class _Scanner:
  """The settings of both scanners: the gain, noise and bias field of the MR, the noise of the CT."""

  def __init__(self, rng: np.random.Generator):
    self.gain = rng.uniform(420, 580)
    self.mr_noise = rng.uniform(0.015, 0.035)
    self.ct_noise = rng.uniform(5, 10)
    self.slope = rng.normal(0, 0.08, 2)  # of the logarithm of the bias field, over FIELD / 2
    self.bowl = rng.uniform(-0.05, 0.25)  # coils around the head receive less from its centre

  def bias(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The receiver's sensitivity at the points (x, y), about 1."""
    x, y = x / float32(FIELD / 2), y / float32(FIELD / 2)
    return np.exp(float32(self.slope[0]) * x + float32(self.slope[1]) * y + self.bowl * (x * x + y * y - 0.3))

  def mr(self, rng: np.random.Generator, signal: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The magnitude of a complex signal with normal noise in both parts (Rician), float32."""
    real, imaginary = self.mr_noise * rng.standard_normal((2, *signal.shape), float32)
    return self.gain * np.hypot(signal * self.bias(x, y) + real, imaginary)

  def ct(self, rng: np.random.Generator, hounsfield: np.ndarray) -> np.ndarray:
    """Whole Hounsfield units, int16; like many scanners, it reports nothing below air."""
    noisy = hounsfield + self.ct_noise * rng.standard_normal(hounsfield.shape, float32)
    return np.maximum(np.rint(noisy), -1000).astype(np.int16)
