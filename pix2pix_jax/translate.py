"""Translates files with a trained model.

    python -m pix2pix_jax.translate --workdir=DIR --input=FILE|DIR|GLOB --output=FILE|DIR [--samples=N] [--seed=S] [--tile=PIXELS]

Reads png, jpg, tiff and npy. Pictures keep their name and format (jpg becomes png: it would lose), subfolders are kept. Depth is read
from and written to 16-bit PNGs of KITTI's encoding (metres · 256), or npy in metres. A file that cannot be read is reported at the
end, when all others are done, and the exit status is then 1.

Pictures of equal size are computed together. Their noise does not depend on their company, but how sums are rounded does: a
value may differ by one grey level from that of the picture alone. With --batch_size=1 it does not.
"""

if __name__ == "__main__":
  from pix2pix_jax import launch

  launch.keep_memory()

import argparse
import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import functools
import glob
from pathlib import Path
import sys

import numpy as np
from PIL import Image
import tifffile
from tqdm import tqdm

from pix2pix_jax import depth
from pix2pix_jax.data import images
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import viz

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
BATCH_PIXELS = 2**21  # of larger pictures fewer are computed together; so many take about 1.5 GiB with 64 features


def read(path: Path, channels: int, is_depth: bool) -> np.ndarray:
  """A file as the model takes it: uint8 or uint16 (H, W, channels), float in [0, 1] from npy, or float32 metres (H, W, 1)."""
  if path.suffix.lower() == ".npy":
    try:
      array = np.load(path, allow_pickle=False)
    except Exception as error:  # what a damaged file raises depends on where the damage is
      raise UsageError(f"{path} cannot be read as a NumPy array ({error}).") from error
  elif is_depth:
    return depth.read_png(path)
  elif path.suffix.lower() in (".tif", ".tiff"):
    try:
      array = tifffile.imread(path)
    except Exception as error:  # of zlib, struct, …
      raise UsageError(f"{path} cannot be read as a TIFF ({error}).") from error
  else:
    array = images.read_image(path, lambda image: _with_channels(image, channels))
    array = array.astype(np.uint16) if array.dtype == np.int32 else array  # Pillow's older mode of 16-bit PNGs
  return array[..., None] if array.ndim == 2 else array


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
  """Palettes, grey and alpha to what the model takes; 16-bit grey stays as it is."""
  mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
  return image if mode is None or image.mode.startswith("I") else image.convert(mode)


def write(path: Path, picture: np.ndarray) -> None:
  """uint8 and uint16 pictures as PNG or TIFF, float32 metres as 16-bit PNG; anything as npy. Written under a temporary name first."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  squeezed = picture[..., 0] if picture.shape[-1] == 1 else picture
  if path.suffix.lower() == ".npy":
    with part.open("wb") as file:
      np.save(file, picture)
  elif path.suffix.lower() in (".tif", ".tiff"):
    tifffile.imwrite(part, squeezed)
  elif picture.dtype == np.float32:
    depth.write_png(part, picture)
  elif picture.dtype == np.uint16 and picture.shape[-1] > 1 or picture.shape[-1] not in (1, 3, 4):
    raise UsageError(f"PNG cannot hold {picture.shape[-1]} channels of {picture.dtype}; name the output .tiff or .npy.")
  else:
    Image.fromarray(squeezed).save(part, format="png")
  part.replace(path)


def find_inputs(pattern: str) -> dict[Path, Path]:
  """Input files of a file, folder or glob, with their names relative to the folder."""
  path = Path(pattern)
  if path.is_file():
    return {path: Path(path.name)}
  if path.is_dir():
    files = {
      file: file.relative_to(path) for file in images.numeric_order(path.rglob("*")) if file.suffix.lower() in SUFFIXES
    }
  else:
    files = {
      Path(name): Path(Path(name).name)
      for name in sorted(glob.glob(pattern, recursive=True))
      if Path(name).suffix.lower() in SUFFIXES
    }
  if not files:
    raise UsageError(f"--input {pattern!r} is no file, folder or pattern with any {', '.join(SUFFIXES)}.")
  return files


def name_outputs(inputs: dict[Path, Path], output: Path, samples: int, suffix: str = "") -> dict[Path, list[Path]]:
  """For each input the files to write: `output` itself for a single picture, else the same names below the folder `output`."""
  to_file = len(inputs) == 1 and output.suffix.lower() in SUFFIXES
  outputs = {}
  for path, relative in inputs.items():
    target = output if to_file else output / relative
    kept = target.suffix.lower() if target.suffix.lower() in (".png", ".tif", ".tiff", ".npy") else ".png"
    target = target.with_suffix(suffix or kept)
    outputs[path] = [target] if samples == 1 else [target.with_stem(f"{target.stem}_{n}") for n in range(samples)]
  claimed = [name for names in outputs.values() for name in names]
  if len(set(claimed)) < len(claimed):
    raise UsageError(
      "Several inputs would be written to one output, because they differ in folder or suffix alone. Translate them folder by folder."
    )
  return outputs


def _read_ahead(
  pool: concurrent.futures.Executor, reading: Callable[[Path], np.ndarray], paths: Iterable[Path], ahead: int
) -> Iterator[tuple[Path, concurrent.futures.Future]]:
  """Each path with its picture to be, while the next `ahead` are read."""
  jobs = collections.deque()
  for path in paths:
    jobs.append((path, pool.submit(reading, path)))
    if len(jobs) > ahead:
      yield jobs.popleft()
  while jobs:
    yield jobs.popleft()


def _room(picture: np.ndarray, batch_size: int) -> int:
  """How many of its kind are computed together; what is no picture stays alone, to be refused by itself."""
  return (
    max(1, min(batch_size, BATCH_PIXELS // max(1, picture[..., 0].size))) if picture.ndim == 3 and picture.size else 1
  )


def _batches(pictures: Iterable[tuple[Path, np.ndarray]], batch_size: int) -> Iterator[list[tuple[Path, np.ndarray]]]:
  """Puts pictures of equal shape and type together. At most four batches' worth wait for company."""
  waiting = collections.defaultdict(list)
  for path, picture in pictures:
    kind = picture.shape, picture.dtype
    waiting[kind].append((path, picture))
    if len(waiting[kind]) == _room(picture, batch_size):
      yield waiting.pop(kind)
    elif sum(map(len, waiting.values())) == 4 * batch_size:
      yield waiting.pop(max(waiting, key=lambda kind: len(waiting[kind])))
  yield from waiting.values()


def translate(
  translator: Translator,
  inputs: dict[Path, Path],
  outputs: dict[Path, list[Path]],
  *,
  seed: int = 0,
  tile: int | None = None,
  side_by_side: bool = False,
  dropout: bool | None = None,
  norm_stats: str | None = None,
  batch_size: int = 8,
) -> dict[Path, str]:
  """Translates files; reading, computing and writing overlap, and a few batches at most are held in memory.

  Args:
    inputs: files, as of `find_inputs`.
    outputs: the files to write for each, equally many, as of `name_outputs`.
    seed, tile, dropout, norm_stats: as of `Translator.__call__`.
    side_by_side: whether input and output are written beside each other.
    batch_size: pictures of equal shape computed together; 1 with tiles, and with `norm_stats="batch"`, which would blend the pictures.

  Returns:
    What went wrong, by file.
  """
  config, failed, filled = translator.config, {}, set()
  if tile is not None or (norm_stats or config.evaluation.norm_stats) == "batch":
    batch_size = 1
  compute = functools.partial(
    translator,
    num_samples=len(next(iter(outputs.values()))),
    seed=seed,
    tile=tile,
    dropout=dropout,
    norm_stats=norm_stats,
  )

  def load(path):
    return read(path, config.model.input_channels, config.data.input_dtype == "float32")

  def save(path, picture, results):
    for target, result in zip(outputs[path], results):
      if side_by_side:
        shown = [
          viz.display_raw(array, dtype, config.data.depth_range)
          for array, dtype in ((picture, config.data.input_dtype), (result, config.data.target_dtype))
        ]
        result = np.concatenate(shown, axis=1)
      write(target, result)

  def pictures(pool):
    for path, job in _read_ahead(pool, load, inputs, ahead=batch_size + 3):
      try:
        yield path, job.result()
      except UsageError as error:
        failed[path] = str(error)
        bar.update()

  def answers(batch):
    """(path, picture, samples) for each of a batch; if there is one that cannot be translated, for the others."""
    picture = batch[0][1]
    kind, room = (picture.shape, picture.dtype), _room(picture, batch_size)
    if len(batch) == room:
      filled.add(kind)
    size = room if kind in filled else len(batch)  # filled up, the last few need no program of their own
    try:
      if size == 1:
        return [(*batch[0], compute(picture))]
      stacked = np.stack([*(picture for _, picture in batch), *[picture] * (size - len(batch))])
      return [(*one, results) for one, results in zip(batch, compute(stacked, batch_size=size).swapaxes(0, 1))]
    except UsageError as error:
      if len(batch) == 1:
        failed[batch[0][0]] = str(error)
        return []
      return [answer for one in batch for answer in answers([one])]

  def settle(path, job):
    try:
      job.result()
    except (UsageError, OSError) as error:
      failed[path] = str(error)

  with (
    concurrent.futures.ThreadPoolExecutor(4) as pool,
    tqdm(total=len(inputs), unit="picture", disable=not sys.stderr.isatty()) as bar,
  ):
    writing = collections.deque()
    for batch in _batches(pictures(pool), batch_size):
      for path, picture, results in answers(batch):
        writing.append((path, pool.submit(save, path, picture, results)))
      bar.update(len(batch))
      while len(writing) > 2 * batch_size:
        settle(*writing.popleft())
    while writing:
      settle(*writing.popleft())
  return failed


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m pix2pix_jax.translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--input", required=True, help="a file, a folder (with subfolders) or a pattern in quotes")
  parser.add_argument("--output", type=Path, required=True, help="a file for a single picture, else a folder")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument(
    "--samples", type=int, default=1, help="answers to draw for each picture, written as NAME_0, NAME_1, … (default: 1)"
  )
  parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
  parser.add_argument(
    "--tile", type=int, help="side in pixels of overlapping tiles, for pictures larger than the memory allows"
  )
  parser.add_argument(
    "--batch_size",
    type=int,
    default=8,
    help="pictures of equal size computed together, of large ones fewer; with "
    "--norm_stats=batch each is computed alone (default: 8)",
  )
  parser.add_argument("--dropout", choices=("on", "off"), help="whether the noise is on (default: as in training)")
  parser.add_argument(
    "--norm_stats", choices=("image", "batch", "running"), help="statistics of batch norm (default: as in training)"
  )
  parser.add_argument(
    "--side-by-side", action="store_true", help="write input and output beside each other, as 8-bit PNG to look at"
  )
  parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
  options = parser.parse_args(argv)
  for name in ("samples", "batch_size"):
    if getattr(options, name) < 1:
      raise UsageError(f"--{name} is {getattr(options, name)}; it is at least 1.")
  inputs = find_inputs(options.input)
  outputs = name_outputs(inputs, options.output, options.samples, ".png" if options.side_by_side else "")
  existing = [str(name) for names in outputs.values() for name in names if name.exists()]
  if existing and not options.overwrite:
    raise UsageError(
      f"{len(existing)} outputs exist, {existing[0]} for one. Choose another --output, or allow --overwrite."
    )
  translator = Translator.load(options.workdir, step=options.step)
  failed = translate(
    translator,
    inputs,
    outputs,
    seed=options.seed,
    tile=options.tile,
    side_by_side=options.side_by_side,
    dropout=None if options.dropout is None else options.dropout == "on",
    norm_stats=options.norm_stats,
    batch_size=options.batch_size,
  )
  print(f"{len(inputs) - len(failed)} of {len(inputs)} pictures translated to {options.output}.")
  for path, reason in failed.items():
    print(f"not translated: {path}: {reason}", file=sys.stderr)
  if failed:
    sys.exit(1)


if __name__ == "__main__":
  run_command(main)
