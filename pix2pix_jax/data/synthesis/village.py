"""Built-in stand-in for winter→summer: one view of a village in both seasons."""

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.outdoors import house, leaves, plain, tree
from pix2pix_jax.data.synthesis.paint import mix, noise, rgb, visible_share
from pix2pix_jax.data.synthesis.raytrace import Camera, Hits, Light, Paint, Sky, Solid, shade, tent, trace


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws village `index` of the sequence `seed` at `size` = (height, width).

  The scene depends on (seed, index) only, never on the size.

  Returns:
    input: uint8 (H, W, 3), the village in winter.
    target: uint8 (H, W, 3), the same view in summer.
  """
  solids, first_crown, camera = scene(np.random.default_rng([seed, index]), winter=False)
  snowed_in, _, _ = scene(np.random.default_rng([seed, index]), winter=True)
  rng = np.random.default_rng([seed, index, 1])
  sun, shift = np.array([-np.sin(rng.uniform(0.9, 1.4)), 0.75, -0.6]), rng.uniform(0, 10)
  sun /= np.linalg.norm(sun)
  sample_width = 0.5 / camera.focal(size)
  bare = trace(solids[:first_crown], camera, size, 0.5)
  full = trace(solids[first_crown:], camera, size, 0.5, bare.copy(), first_crown)
  light = Light(sun, float32(0.8) * rgb("fff0d8"), float32(0.62) * rgb("cfdcf0"), rgb("c3d5e6"), 600)
  summer, _ = shade(solids, full, light, _mountains(shift, False), sample_width)
  light = Light(sun, float32(0.25) * rgb("fff4e4"), float32(0.84) * rgb("dfe6f2"), rgb("ccd3da"), 350, shadows=False)
  winter, _ = shade(snowed_in[:first_crown], bare, light, _mountains(shift, True), sample_width)
  _draw_branches(winter, solids, full, first_crown)
  return {"input": tent(winter), "target": tent(summer)}


def scene(rng: np.random.Generator, winter: bool) -> tuple[list[Solid], int, Camera]:
  """A village below a fixed camera. Both seasons have the same solids, painted differently.

  Returns:
    The solids, the index of the first crown (crowns come last; they are bare in winter), and the camera.
  """
  camera = Camera(rng.uniform(4, 8), 0.42, 0.95, rng.uniform(0.02, 0.08))
  middle, swing, wave, phase, width = (float32(rng.uniform(*r)) for r in ((-4, 4), (1, 6), (9, 18), (0, 6), (0.9, 1.8)))
  taken: list[tuple[float, float, float]] = []  # (x, z, radius)

  def path(z: float | np.ndarray) -> np.ndarray:
    """x of the middle of the path."""
    return middle + swing * np.sin(z / wave + phase)

  def find_spot(near: float, far: float, radius: float) -> tuple[float, float] | None:
    """A free (x, z) beside the path, at a distance from `near` to `far`; None if 30 attempts fail."""
    for _ in range(30):
      z = near * (far / near) ** rng.random()
      x = rng.uniform(-0.62, 0.62) * (z + 4)
      if abs(x - path(z)) > radius + width and all(np.hypot(x - a, z - b) > radius + c for a, b, c in taken):
        taken.append((x, z, radius))
        return x, z
    return None

  solids = [Solid("ground", (0, -1, 0), (300, 1, 300), _meadow, flat=True, path=path, width=width, winter=winter)]
  for _ in range(int(rng.integers(4, 9))):
    spot, half = find_spot(19, 70, 6.5), (rng.uniform(3.5, 5), rng.uniform(4.5, 7))
    yaw = rng.choice([0, np.pi / 2])
    if spot:
      solids += _house_with_chimney(rng, *spot, half, yaw)
  for _ in range(int(rng.integers(8, 16))):
    spot, height = find_spot(13, 90, 2.2), rng.uniform(5, 9)
    if spot and rng.random() < 0.4:
      solids += _spruce(rng, *spot, height)
    elif spot:
      solids += tree(rng, *spot, height, 5 if spot[1] < 50 else 3)
  if winter:
    for s in solids[1:]:
      s.paint = _snowed(s.paint, 0.6 if s.paint is leaves else 0.7)
  solids.sort(key=lambda s: "crown" in s.details)
  return solids, sum("crown" not in s.details for s in solids), camera


def _house_with_chimney(
  rng: np.random.Generator, x: float, z: float, half: tuple[float, float], yaw: float
) -> list[Solid]:
  """A house of one or two storeys at (x, z)."""
  walls, roof = house(rng, x, z, half, int(rng.integers(1, 3)), yaw + rng.uniform(-0.35, 0.35))
  top = roof.centre + roof.rotation @ [0.35 * half[0], 0.25 * roof.half[1], rng.uniform(-0.6, 0.6) * half[1]]
  return [walls, roof, Solid("box", top, (0.4, 0.5 * roof.half[1] + 0.5, 0.4), plain, "8a5a48", roof.yaw)]


def _spruce(rng: np.random.Generator, x: float, z: float, height: float) -> list[Solid]:
  """An evergreen: a trunk and five cones."""
  green = rgb("3a5236") * float32(rng.uniform(0.8, 1.1))
  solids = [Solid("post", (x, 0.5, z), (0.2, 0.5, 0.2), plain, "4d4036")]
  for k, y in enumerate((0.24, 0.46, 0.65, 0.81, 0.93)):
    r = height * (0.25 - 0.04 * k)
    solids.append(Solid("spire", (x, height * y, z), (r, 0.7 * r, r), leaves, green, 0.3 * k, fray=0.3 * r))
  return solids


def _meadow(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Grass and a path; in winter snow, trodden on the path."""
  x, z, path, width = p[0], p[2], solid.details["path"], solid.details["width"]
  on_path = abs(x - path(z)) < width + 0.2 * noise(x, z, 0.4, True)
  grain = 0.05 * noise(x, z, 0.3) + 0.05 * noise(x, z, 0.06, True)
  grain = grain + 0.08 * visible_share(0.1, sample_width) * noise(z, x, 1.5)
  if solid.details["winter"]:
    thin = np.clip(noise(z, x, 0.25, True) - 1.4, 0, 0.6)  # grass shows where the snow is thin
    ground, trodden = mix(rgb("e9edf2") * (1 + 0.4 * grain), rgb("a8a382"), thin), rgb("b5aea3") * (1 + grain)
  else:
    lush = np.clip(0.5 + 0.35 * noise(z, x, 0.12, True), 0, 1)
    ground, trodden = mix(rgb("5f8a37"), rgb("84994a"), lush) * (1 + 1.2 * grain), rgb("b39a74") * (1 + 1.2 * grain)
  return np.where(on_path, trodden, ground)


def _snowed(paint: Paint, steep: float) -> Paint:
  """`paint` under snow: on surfaces whose normal's y exceeds about `steep`."""

  def snowed(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
    snow = normals[1] + 0.13 * (noise(p[0], p[2], 0.3, True) + noise(p[1], p[0] - p[2], 0.6)) > steep
    white = rgb("eceff4") * (1 + 0.03 * noise(p[0], p[2], 0.3))
    return np.where(snow, white, paint(solid, p, normals, sample_width))

  return snowed


def _mountains(shift: float, winter: bool) -> Sky:
  """The sky above two mountain ridges; `shift` selects the stretch of the ridges."""

  def sky(d: np.ndarray) -> np.ndarray:
    a, e = float32(shift) + d[0] / d[2], np.maximum(d[1] / d[2], 0)
    clouds = noise(a / (e + 0.4), 0.6 / (e + 0.4), 0.7, True)
    if winter:
      colour = mix(rgb("dde1e6"), rgb("b9c1cb"), np.clip(2 * e + 0.1 * clouds, 0, 1))
    else:
      blue = mix(rgb("cfe2f2"), rgb("5c96d8"), np.clip(2 * e, 0, 1))
      colour = mix(blue, rgb("fafbfc"), np.clip(0.5 * clouds, 0, 0.8))
    for far, base, rise, k, stone, veil in (
      (True, 0.17, 0.05, 1.0, "8b95a3", 0.35),
      (False, 0.05, 0.02, 1.7, "5d7355", 0.25),
    ):
      crest = np.sin(3.1 * k * a) + 0.5 * np.sin(7.7 * k * a + 1) + 0.3 * noise(a, 0 * a, 2.5 * k, True)
      top = base + rise * crest
      slope = noise(a + 0.7 * e, e - 0.4 * a, 4 * k, True)
      high = np.clip((e - top) / rise + 1.2, 0, 1) if far else 0  # snow stays on the far peaks all year
      snow_line = 1.9 if not winter else -0.4 if far else 0.6
      snow = np.clip(0.8 * slope + 2 * high - snow_line, 0, 1)
      rock = mix(rgb(stone) * (1 + 0.1 * slope), rgb("e9edf2"), snow)
      colour = np.where(e < top, mix(rock, rgb("ccd3da" if winter else "c3d5e6"), veil), colour)
    return colour

  return sky


def _draw_branches(samples: np.ndarray, solids: list[Solid], hits: Hits, first_crown: int) -> None:
  """Draws bare branches over `samples` (3, rows, cols), in place, where `hits` shows crowns."""
  i = np.flatnonzero(hits.solid.ravel() >= first_crown)
  root = np.array([s.details.get("crown", (0, 0, 0, 1)) for s in solids], float32)[hits.solid.ravel()[i]].T
  p = hits.points(i)
  x, y = (p[0] - root[0]) / root[3], (p[1] - root[1]) / root[3]
  angle, far = np.arctan2(x, y + 0.05) + root[0], np.sqrt(x * x + y * y)  # branches fan out from the top of the trunk
  bough = 1.2 - abs(noise(angle, 0.5 * far, 0.9, True)) / (0.45 - 0.3 * far)
  shoots = 1.1 - abs(noise(angle + 3, 0.8 * far, 2.2, True)) / 0.45
  alpha = 0.1 + np.maximum(np.clip(bough, 0, 0.75), np.clip(0.8 * shoots, 0, 0.6)) * np.clip(2.2 - 1.6 * far, 0.4, 1)
  snow = np.clip(noise(angle + 0.03, 0.5 * far, 0.9, True), 0, 0.4)  # on one side of each branch
  bare = samples.reshape(3, -1)
  bare[:, i] = mix(bare[:, i], mix(rgb("564b44"), rgb("e4e7ec"), snow), alpha)
