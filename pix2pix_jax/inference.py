"""Translates images with a trained generator. Imports no TensorFlow.

translator = Translator.load("runs/facades")
photo = translator(labels)                        # uint8 (H, W, 3) of any size
photos = translator(labels, num_samples=4, seed=1)
"""

from collections.abc import Callable, Iterator, Mapping
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import prng
from pix2pix_jax.errors import UsageError, require_integer, user_path
from pix2pix_jax.model import layers, networks
from pix2pix_jax.run import checkpoint, experiment
from pix2pix_jax.signals import Stack

Run = Callable[[np.ndarray], np.ndarray]  # encoded images (N, H, W, C) → encoded answers


def generate(
  generator: Any,
  variables: dict[str, Any],
  x: jax.Array,
  key: jax.Array | None,
  *,
  dropout: bool,
  norm_stats: str,
  is_real: jax.Array | None = None,
) -> jax.Array:
  """The generator's output for encoded images. `Translator` compiles this function, `export` serialises it.

  All images of a batch share the same noise, so that a result does not depend on the image's position.

  Args:
    generator: the module.
    variables: its `params` and `batch_stats`.
    x: (N, H, W, C) in [-1, 1]; H and W are multiples of `config.multiple`.
    key: PRNG key of the noise; None if `dropout` is off.
    dropout, norm_stats: as in `model.layers`.
    is_real: bool (N,), False for images that only fill the batch; None: all are real.
  """
  rngs = {} if key is None else {"dropout": key}
  noise_ids = jnp.zeros(x.shape[0], jnp.int32)
  return generator.apply(
    variables, x, dropout=dropout, norm_stats=norm_stats, noise_ids=noise_ids, is_real=is_real, rngs=rngs
  )


def noise_key(seed: int | jax.Array, sample: int = 0) -> jax.Array:
  """The key of a sample's dropout noise."""
  return jax.random.fold_in(prng.key(seed, "dropout"), sample)


class Translator:
  """A generator with its weights and the signals it was trained on.

  Compiles once for each padded size and batch size, and keeps the programs.

  Attributes:
    config: resolved configuration of the run.
    input_signal, target_signal: signals of the two sides.
    step: step of the checkpoint; None if the weights were passed directly.
  """

  def __init__(self, config: ml_collections.ConfigDict, variables: dict[str, Any], *, step: int | None = None):
    """Accepts a resolved config, as in a workdir's config.json, and the generator's `params` and `batch_stats`."""
    self.config, self.step = config, step
    self.input_signal, self.target_signal = config_lib.signals_of(config)
    self._variables = jax.device_put(variables)  # once, not at every call
    generator, _ = networks.make_networks(config.model, dtype=config.train.dtype)
    self._generate = jax.jit(functools.partial(generate, generator), static_argnames=("dropout", "norm_stats"))

  @classmethod
  def load(cls, workdir: str | Path, step: str | int = "best") -> "Translator":
    """Loads a workdir's generator at the `"best"` (by `train.best_metric`), the `"latest"` or a numbered checkpoint.

    Raises:
      UsageError: there is no config.json, no checkpoint, or no checkpoint of this step.
    """
    workdir = user_path("workdir", workdir)
    config = config_lib.read(workdir)
    experiment.use_compilation_cache(config.train.compilation_cache)
    with checkpoint.Checkpointer(workdir, config=config, read_only=True) as checkpointer:
      number, variables = checkpointer.load_variables(
        step, experiment.Experiment.read(workdir).abstract(), ["generator"]
      )
    return cls(config, variables["generator"], step=number)

  def __call__(
    self,
    images: np.ndarray | Mapping[str, np.ndarray],
    *,
    num_samples: int | None = None,
    seed: int = 0,
    dropout: bool | None = None,
    norm_stats: str | None = None,
    tile: int | None = None,
    batch_size: int = 8,
    check_range: bool = True,
  ) -> np.ndarray:
    """Translates one image or a batch.

    Args:
      images: (H, W), (H, W, C) or (N, H, W, C) of any height and width. Images are uint8 or uint16 over their full
        range, bool, or float in [0, 1]; depth is float metres, where zero, negative, NaN and infinite values are holes;
        quantities are in the unit of the training data, where NaN is a hole; classes are indices, or colours of the
        palette. Several inputs are given by name, `{"rgb": …, "lidar": …}`, or as one array with their channels.
      num_samples: number of results to draw per image; None: one, without the leading axis.
      seed: seed of the dropout noise, in [0, 2**32); the same seed gives the same result.
      dropout: whether the noise is on; None: as in the run (`evaluation.dropout`, on by default).
      norm_stats: statistics of batch norm, `"image"`, `"batch"` or `"running"`; None: as in the run
        (`evaluation.norm_stats`). They do not matter to other norms.
      tile: side in pixels of overlapping tiles, for images too large for memory; None: the whole image at once. All
        tiles share the same noise. Each has its own norm statistics, unless they are `"running"`.
      batch_size: number of images (or tiles) computed at once; tiles with statistics of a batch are computed alone.
      check_range: whether depth and quantities are refused if none of them is a value, or most lie outside the range of
        the model and so have probably another unit.

    Returns:
      The translations, in the shape of `images` but with the target's channels; `num_samples` adds a leading axis.
      Depth is float32 metres. Quantities are in their unit, float32 or the integer type of the training data; classes
      are indices, uint8 with one channel. Images are float32 in [0, 1] if `images` were float images, else integers of
      the type that the model was trained on. Where a model with a validity channel expects no value, depth is 0, and
      quantities and classes have their mark: NaN or a `nodata` number, or the ignored index.

    Raises:
      UsageError: invalid shapes, dtypes, values or options; the message says what is accepted.
    """
    if isinstance(images, Mapping):
      images = self._join(images)
    images = as_array("The input", images)
    single = images.ndim < 4
    batch = images[..., None] if images.ndim == 2 else images
    batch = batch[None] if single else batch
    raw = self._accept(batch)
    if check_range:
      self.input_signal.check_range(raw, "The input")
    encoded = self.input_signal.encode(raw)
    as_float = self.input_signal.kind == "image" and raw.dtype.kind == "f"
    tile = None if tile is None else require_integer("tile", tile, 1)
    samples = []
    for sample in range(1 if num_samples is None else require_integer("num_samples", num_samples, 1)):
      run = self._runner(seed, sample, dropout, norm_stats, batch_size, tiled=tile is not None)
      if tile is None:
        output = run(encoded)
      else:
        output = np.stack([self._whole(image, tile, run) for image in encoded])
      output = self._decode(output, as_float=as_float)
      samples.append(output[0] if single else output)
    return np.stack(samples) if num_samples is not None else samples[0]

  def stream(
    self,
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    *,
    tile: int,
    accept: Callable[[np.ndarray], np.ndarray] | None = None,
    sample: int = 0,
    seed: int = 0,
    dropout: bool | None = None,
    norm_stats: str | None = None,
    batch_size: int = 8,
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Translates an image that is larger than memory, in rows of tiles.

    Args:
      read: function from (row, number of rows) to these rows of the image, (rows, W, C), in any form.
      accept: function from such arrays of tiles, (N, H, W, C), to what `__call__` accepts; None: they are that. Only a
        few tiles at a time take the memory of floats.
      shape: (H, W) of the image.
      tile, seed, dropout, norm_stats, batch_size: as for `__call__`.
      sample: number of the sample, from 0, as in the leading axis that `num_samples` adds.

    Yields:
      (row, translated rows (rows, W, C)) from top to bottom; together they equal the answer of `__call__` with the same
      `tile`, but float images become integers.

    Raises:
      UsageError: as `__call__`.
    """
    run = self._runner(seed, require_integer("sample", sample, 0), dropout, norm_stats, batch_size, tiled=True)

    def translate(tiles: np.ndarray) -> np.ndarray:
      return run(self.input_signal.encode(self._accept(tiles if accept is None else accept(tiles))))

    for row, output in self._tiles(read, shape, require_integer("tile", tile, 1), translate):
      yield row, self._decode(output, as_float=False)

  def _runner(
    self, seed: int, sample: int, dropout: bool | None, norm_stats: str | None, batch_size: int, *, tiled: bool
  ) -> Run:
    """A function that translates encoded images or tiles with the noise of a sample; the options are checked."""
    seed = require_integer("seed", seed, 0, 2**32 - 1)
    dropout = self.config.evaluation.dropout if dropout is None else dropout
    if not isinstance(dropout, bool | np.bool_):
      raise UsageError(f"dropout is {dropout!r}; it has to be True, False or None.")
    norm_stats = norm_stats or self.config.evaluation.norm_stats
    if norm_stats not in layers.NORM_STATS:
      raise UsageError(f"norm_stats is {norm_stats!r}; it has to be one of {', '.join(layers.NORM_STATS)}.")
    batch_size = require_integer("batch_size", batch_size, 1)
    return functools.partial(
      self._run,
      key=noise_key(seed, sample),
      dropout=bool(dropout),
      norm_stats=norm_stats,
      batch_size=1 if tiled and norm_stats == "batch" else batch_size,  # each tile has its own statistics
    )

  @property
  def variables(self) -> dict[str, Any]:
    """The generator's `params` and `batch_stats`."""
    return self._variables

  def forget_programs(self) -> None:
    """Frees the memory of the compiled programs, for servers whose clients send images of many sizes."""
    self._generate.clear_cache()  # type: ignore[attr-defined]  # the stubs of jit lack it

  @property
  def multiple(self) -> int:
    """Heights and widths that are multiples of this are not padded."""
    return config_lib.multiple(self.config.model)

  def _join(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    if not isinstance(self.input_signal, Stack):
      raise UsageError("This model has one input; pass its array alone.")
    return self.input_signal.join(parts)

  def _accept(self, batch: np.ndarray) -> np.ndarray:
    channels = self.input_signal.raw_channels
    if batch.ndim != 4 or 0 in batch.shape:
      raise UsageError(f"Images are (H, W), (H, W, C) or (N, H, W, C) and not empty; these have shape {batch.shape}.")
    is_color_map = self.input_signal.kind == "classes" and batch.shape[-1] == 3
    if batch.shape[-1] != channels and not is_color_map:
      hint = " Are the channels first? They belong last." if batch.shape[1] == channels else ""
      raise UsageError(
        f"This model expects images of {channels} channel{'s' * (channels != 1)}; these have {batch.shape[-1]} "
        f"(shape {batch.shape}).{hint}"
      )
    return self.input_signal.accept(batch, "The input")

  def _decode(self, output: np.ndarray, as_float: bool) -> np.ndarray:
    channels = self.target_signal.channels
    output, validity = output[..., :channels], output[..., channels:]
    decoded = self.target_signal.decode_float(output) if as_float else self.target_signal.decode(output)
    if not validity.shape[-1]:
      return decoded
    return np.where(validity > 0, decoded, np.asarray(self.target_signal.missing, decoded.dtype))

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
      is_real = np.arange(size) < len(chunk) if norm_stats == "batch" else None
      # A program that waits for its input does so in another thread (launch.keep_memory).
      filled = jax.block_until_ready(jax.device_put(filled))
      answer = self._generate(self._variables, filled, key, is_real=is_real, dropout=dropout, norm_stats=norm_stats)
      chunks.append((len(chunk), answer))
    return np.concatenate([np.asarray(output)[:length, :height, :width] for length, output in chunks])

  def _whole(self, image: np.ndarray, tile: int, run: Run) -> np.ndarray:
    """An encoded image (H, W, C), translated in tiles."""
    bands = self._tiles(lambda row, rows: image[row : row + rows], image.shape[:2], tile, run)
    return np.concatenate([rows for _, rows in bands])

  def _tiles(
    self, read: Callable[[int, int], np.ndarray], shape: tuple[int, int], tile: int, run: Run
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Overlapping tiles, blended by weights that fall off linearly over the overlap (a quarter of a tile).

    Args:
      read: (row, rows) → rows of the image, (rows, W, C).
      shape: (H, W) of the image.
      tile: side of a tile; it is rounded up to the multiple.
      run: translates tiles of these rows.

    Yields:
      (row, encoded rows) from top to bottom. Only the rows of one row of tiles are in memory.
    """
    tile = -(-tile // self.multiple) * self.multiple
    rows, columns = (_tile_starts(size, tile) for size in shape)
    total = weights = np.empty(0)
    for row, following in zip(rows, [*rows[1:], shape[0]]):
      band = read(row, min(tile, shape[0]))
      for start in range(0, len(columns), 4):  # few at a time, because tiles are meant to save memory
        group = columns[start : start + 4]
        pieces = run(np.stack([band[:, column : column + tile] for column in group]))
        ramp = [_ramp(size, tile) for size in pieces.shape[1:3]]
        weight = (ramp[0][:, None] * ramp[1])[..., None]
        if not total.size:
          total, weights = (np.zeros((*band.shape[:2], each), np.float32) for each in (pieces.shape[-1], 1))
        for column, piece in zip(group, pieces):
          total[:, column : column + tile] += weight * piece
          weights[:, column : column + tile] += weight
      done = following - row
      yield row, total[:done] / weights[:done]
      total, weights = (np.concatenate([each[done:], np.zeros_like(each[:done])]) for each in (total, weights))


def as_array(name: str, value: Any) -> np.ndarray:
  """An argument as an array; `name` is how messages call it.

  Raises:
    UsageError: it is none, such as a path, or the mask of a masked array would be lost.
  """
  first = value[0] if isinstance(value, list | tuple) and value else value
  if isinstance(first, str | Path):
    raise UsageError(
      f"{name} names files, such as {str(first)!r}, but should be an array. Read each file with "
      'pix2pix_jax.data.files.read, or use the commands "pix2pix_jax train" and "pix2pix_jax translate" for folders.'
    )
  if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
    raise UsageError(f"{name} is a masked array, whose mask would be lost. Fill it, by its method filled(VALUE).")
  try:
    return np.asarray(value)
  except (TypeError, ValueError) as error:
    raise UsageError(
      f"{name} cannot be made one array ({error}). Images of several sizes are passed one by one, or resized first."
    ) from error


def _tile_starts(size: int, tile: int) -> list[int]:
  """Where tiles begin along one side: steps of three quarters of a tile, the last one flush with the end."""
  step = tile * 3 // 4
  return [*range(0, max(size - tile, 0), step), max(size - tile, 0)]


def _ramp(size: int, tile: int) -> np.ndarray:
  """Weights along a tile's side: 1 inside, falling linearly towards both ends over the overlap."""
  overlap = max(tile // 4, 1)
  inside = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
  return np.minimum(inside / overlap, 1).astype(np.float32)
