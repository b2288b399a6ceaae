"""Using a trained generator: pictures in, pictures out. Imports neither TensorFlow nor CLU.

translator = Translator.load("runs/facades")
photo = translator(labels)                        # uint8 (H, W, 3) of any size
photos = translator(labels, num_samples=4, seed=1)
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax.data import images
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import steps
from pix2pix_jax.run import checkpoint


class Translator:
  """A generator with its weights and the value ranges it was trained on.

  Compiles once for each padded size and batch size, and keeps the programs.
  """

  def __init__(self, config: ml_collections.ConfigDict, variables: dict[str, Any]):
    """`config` is resolved, as in a workdir's config.json; `variables` are the generator's `params` and `batch_stats`."""
    self.config = config
    self._variables = jax.device_put(variables)  # once, not at every call
    self._generator, _ = models.make_networks(config.model, dtype=config.train.dtype)
    self._translate = jax.jit(self._apply, static_argnames=("dropout", "norm_stats"))

  @classmethod
  def load(cls, workdir: str | Path, step: str | int = "best") -> "Translator":
    """The generator of a workdir at `"best"` (by validation L1), `"latest"` or a numbered checkpoint.

    Raises:
      UsageError: no config.json, no checkpoint, or not this one.
    """
    config = checkpoint.load_config(Path(workdir))
    steps.use_compilation_cache(config.train.compilation_cache)
    checkpointer = checkpoint.Checkpointer(Path(workdir), read_only=True)
    number = checkpointer.resolve_step(step)
    return cls(config, checkpointer.restore_generator(number))

  def _apply(self, variables, x, key, dropout, norm_stats):
    # Every image of a batch draws the same noise, so that a picture does not depend on its place.
    return self._generator.apply(
      variables,
      x,
      dropout=dropout,
      norm_stats=norm_stats,
      noise_ids=jnp.zeros(x.shape[0], jnp.int32),
      rngs={"dropout": key},
    )

  def __call__(
    self,
    pictures: np.ndarray,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    dropout: bool | None = None,
    norm_stats: str | None = None,
    tile: int | None = None,
    batch_size: int = 8,
  ) -> np.ndarray:
    """Translates one picture or a batch.

    Args:
      pictures: (H, W), (H, W, C) or (N, H, W, C) of any height and width. uint8 or uint16 over their full range or float
        in [0, 1]; where the model takes depth, float32 metres with 0 for holes.
      num_samples: how many answers to draw; None for one without an axis of its own.
      seed: of the dropout noise; the same seed gives the same picture.
      dropout: whether the noise is on; None: as `evaluation.dropout` of the training, by default on.
      norm_stats: `"image"`, `"batch"` or `"running"`; None: as `evaluation.norm_stats`, by default `"image"`.
      tile: side in pixels of overlapping tiles for pictures that are too large for the memory; None: the whole picture at once.
        Tiles have their own norm statistics, unless they are `"running"`.
      batch_size: pictures (or tiles) computed at once.

    Returns:
      The translations, in the shape of `pictures` with the target's channels, after a leading axis of `num_samples` if given.
      Depth is float32 metres (0 where a model with a validity channel expects no measurement); else float pictures give
      float32 in [0, 1], integers give integers of the kind that the model was trained on.

    Raises:
      UsageError: another number of channels, values outside the range, an empty picture.
    """
    pictures = np.asarray(pictures)
    single = pictures.ndim < 4
    batch = pictures[..., None] if pictures.ndim == 2 else pictures
    batch = batch[None] if single else batch
    encoded = self._encode(batch)
    dropout = self.config.evaluation.dropout if dropout is None else dropout
    norm_stats = norm_stats or self.config.evaluation.norm_stats
    samples = []
    for sample in range(num_samples or 1):
      key = jax.random.fold_in(jax.random.key(seed), sample)
      run = functools.partial(self._run, key=key, dropout=dropout, norm_stats=norm_stats, batch_size=batch_size)
      output = run(encoded) if tile is None else self._run_tiled(encoded, tile, run)
      output = self._decode(output, as_float=np.issubdtype(pictures.dtype, np.floating))
      samples.append(output[0] if single else output)
    return np.stack(samples) if num_samples is not None else samples[0]

  @property
  def multiple(self) -> int:
    """Heights and widths that are multiples of this are not padded."""
    return 2**self.config.model.levels

  def _encode(self, batch: np.ndarray) -> np.ndarray:
    channels, kind = self.config.model.input_channels, self.config.data.input_dtype
    if batch.ndim != 4 or 0 in batch.shape:
      raise UsageError(f"Pictures are (H, W), (H, W, C) or (N, H, W, C) and not empty; these have shape {batch.shape}.")
    if batch.shape[-1] != channels:
      raise UsageError(
        f"This model takes pictures of {channels} channels; these have {batch.shape[-1]} (shape {batch.shape})."
      )
    if kind == "float32":
      if not np.issubdtype(batch.dtype, np.floating):
        raise UsageError(
          f"This model takes depth as float32 metres; this array is {batch.dtype}. Divide KITTI's uint16 by 256 (depth.read_png does)."
        )
      return images.normalise(batch.astype(np.float32), self.config.data.depth_range)
    if batch.dtype in (np.uint8, np.uint16):
      return images.normalise(batch, self.config.data.depth_range)
    if not np.issubdtype(batch.dtype, np.floating):
      raise UsageError(f"Pictures are uint8, uint16 or float in [0, 1]; this array is {batch.dtype}.")
    if not (batch.min() >= 0 and batch.max() <= 1):
      raise UsageError(
        f"Float pictures lie in [0, 1]; these go from {batch.min():g} to {batch.max():g}. Give uint8, or divide by 255."
      )
    return batch.astype(np.float32) * 2 - 1

  def _decode(self, output: np.ndarray, as_float: bool) -> np.ndarray:
    data = self.config.data
    channels = output.shape[-1] - data.validity_channel
    output, validity = output[..., :channels], output[..., channels:]
    decoded = images.denormalise(output, data.target_dtype, data.depth_range)
    if data.target_dtype == "float32":
      return np.where(validity > 0, decoded, 0) if data.validity_channel else decoded
    return (np.clip(output, -1, 1) + 1) / 2 if as_float else decoded

  def _run(self, batch: np.ndarray, *, key, dropout: bool, norm_stats: str, batch_size: int) -> np.ndarray:
    """Pads to the multiple by reflection, translates in chunks, crops back. [-1, 1] in and out."""
    count, height, width, _ = batch.shape
    pad = [(0, -size % self.multiple) for size in (height, width)]
    batch = np.pad(batch, [(0, 0), *pad, (0, 0)], mode="reflect") if any(after for _, after in pad) else batch
    size = min(batch_size, count)
    chunks = []
    for start in range(0, count, size):
      chunk = batch[start : start + size]
      filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])  # one program for all chunks
      filled = jax.block_until_ready(
        jax.device_put(filled)
      )  # a program that waits for its input does so in another thread (launch.keep_memory)
      chunks.append((len(chunk), self._translate(self._variables, filled, key, dropout=dropout, norm_stats=norm_stats)))
    return np.concatenate([np.asarray(output)[:length, :height, :width] for length, output in chunks])

  def _run_tiled(self, batch: np.ndarray, tile: int, run) -> np.ndarray:
    """Overlapping tiles, blended by weights that fall off linearly over the overlap (a quarter of a tile)."""
    tile = -(-tile // self.multiple) * self.multiple
    outputs = []
    for picture in batch:
      rows, columns = (_tile_starts(size, tile) for size in picture.shape[:2])
      corners = [(row, column) for row in rows for column in columns]
      total, weights = None, np.zeros((*picture.shape[:2], 1), np.float32)
      for start in range(0, len(corners), 4):  # few at a time: the point of tiles is a small memory
        group = corners[start : start + 4]
        pieces = run(np.stack([picture[row : row + tile, column : column + tile] for row, column in group]))
        ramp = [_ramp(size, tile) for size in pieces.shape[1:3]]
        weight = (ramp[0][:, None] * ramp[1])[..., None]
        if total is None:
          total = np.zeros((*picture.shape[:2], pieces.shape[-1]), np.float32)
        for (row, column), piece in zip(group, pieces):
          total[row : row + tile, column : column + tile] += weight * piece
          weights[row : row + tile, column : column + tile] += weight
      outputs.append(total / weights)
    return np.stack(outputs)


def _tile_starts(size: int, tile: int) -> list[int]:
  """Where tiles begin along one side: steps of three quarters of a tile, the last one flush with the end."""
  step = tile * 3 // 4
  return [*range(0, max(size - tile, 0), step), max(size - tile, 0)]


def _ramp(size: int, tile: int) -> np.ndarray:
  """Weights along a tile's side: 1 inside, falling linearly towards both ends over the overlap."""
  overlap = max(tile // 4, 1)
  inside = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
  return np.minimum(inside / overlap, 1).astype(np.float32)
