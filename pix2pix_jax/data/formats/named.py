"""Files that hold several arrays by name, of which one is the image."""

from collections.abc import Mapping
from pathlib import Path

from pix2pix_jax.errors import UsageError, few


def choose(path: Path, shapes: Mapping[str, tuple[int, ...]], key: str | None) -> str:
  """The name of the array to read.

  Args:
    path: the file, for messages.
    shapes: shape of each array of numbers by its name.
    key: the wanted name, or None for the only array that has the shape of an image, (H, W) or (H, W, C).

  Raises:
    UsageError: no such name, or not exactly one image; the message lists names and shapes.
  """
  images = [name for name, shape in shapes.items() if len(shape) in (2, 3)]
  listed = few((f"{name} {shapes[name]}" for name in shapes), 20)
  if key is not None:
    if key not in shapes:
      raise UsageError(f"{path} holds no array named {key!r}; it holds {listed or 'no arrays of numbers'}.")
    return key
  if len(images) == 1:
    return images[0]
  if not images:
    raise UsageError(
      f"{path} holds no image, which is an array (height, width) or (height, width, channels); it holds "
      f"{listed or 'no arrays of numbers'}."
    )
  raise UsageError(
    f"{path} holds {len(images)} images: {listed}. Name one of them as the key, as in key={images[0]!r}."
  )
