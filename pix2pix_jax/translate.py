"""Translates image and depth files with a trained model.

    python -m pix2pix_jax.translate --workdir=DIR --input=FILE|DIR|PATTERN --output=FILE|DIR

Reads every format that training reads and writes PNG, TIFF and npy. Outputs keep the names and subfolders of their
inputs; lossy formats become PNG. Depth is written as 16-bit PNG (metres times the scale of the
run's depth files, or 256 as in KITTI), or as float metres in TIFF or npy. Unreadable files are skipped and listed at
the end, and the exit status is then 1.

Networks expect objects at the scale of their training images. --resize=256 first resizes inputs to that height and
keeps their proportions; --resize=256x512 resizes to exactly that height and width, as training does with images of
another shape. Images are resampled as in training, and outputs keep the new size.

Images of equal size are computed in batches. Each image gets the same noise as it would alone, but sums are rounded in
another order, so batching can change a pixel by one grey level. --batch_size=1 avoids that.
"""

import argparse
import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import functools
import glob
import os
from pathlib import Path
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pix2pix_jax import launch
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError, few, require_integer, run_command
from pix2pix_jax.output import counted

if TYPE_CHECKING:  # imports JAX: slow
  from pix2pix_jax.inference import Translator
  from pix2pix_jax.signals import Signal

BATCH_PIXELS = 2**21  # limits batches of large images; this many pixels need about 1.5 GiB with 64 features


# --- Names


def find_inputs(pattern: str, output: Path | None = None) -> tuple[dict[Path, Path], list[Path]]:
  """({input file: its name relative to the input folder}, files that were left out).

  Args:
    pattern: a file, a folder, or a pattern with `*`, `?`, `[...]` and `**`; an existing path of this
      exact name is not treated as a pattern.
    output: folder whose files are left out if it lies inside the input folder.

  Raises:
    UsageError: nothing to read.
  """
  path = Path(pattern).expanduser()
  if path.is_file():
    return {path: Path(path.name)}, []
  left_out: list[Path] = []
  if path.is_dir():
    base = path
    found, left_out = files.find(path)
  else:
    found = _match(path)
    base = Path(os.path.commonpath([match.parent for match in found])) if found else path
  if output is not None and output.resolve() != base.resolve() and output.resolve().is_relative_to(base.resolve()):
    found, left_out = (
      [each for each in paths if not each.resolve().is_relative_to(output.resolve())] for paths in (found, left_out)
    )
  if not found:
    others = f" It holds {few(left_out)}." if left_out else ""
    raise UsageError(
      f"--input {pattern!r} is no file, folder or pattern with images to read.{others} Images are PNG, JPEG, TIFF, "
      '.npy and others; "pix2pix_jax translate --help" lists every suffix.'
    )
  return {each: each.relative_to(base) for each in found}, left_out


def _match(pattern: Path) -> list[Path]:
  """The images that match a pattern. Its leading part that exists is used literally, even if it contains brackets."""
  literal = next(parent for parent in pattern.parents if parent.is_dir())
  names = glob.glob(str(pattern.relative_to(literal)), root_dir=literal, recursive=True)
  found = [literal / name for name in names if not any(map(files.is_junk, Path(name).parts))]
  return files.natural_order(path for path in found if path.is_file() and path.suffix.lower() in files.SUFFIXES)


def name_outputs(
  inputs: dict[Path, Path],
  output: Path,
  samples: int = 1,
  formats: Sequence[str] = files.WRITABLE,
  *,
  is_folder: bool = False,
) -> dict[Path, list[Path]]:
  """The files to write for each input: `output` itself for a single image, else the same names below that folder.

  If inputs would share an output, as `a.png` and `a.jpg` do, the names include their suffixes: `a_png.png` and
  `a_jpg.png`.

  Args:
    inputs: as `find_inputs` returns them.
    output: a file if its suffix is that of an image format and neither a folder exists nor `is_folder`; else a folder.
    samples: number of files for each input; if there are several, they are numbered, `NAME_0`, `NAME_1`, …
    formats: suffixes that outputs in a folder may have; the outputs of other inputs get the first of them.
    is_folder: whether `output` is a folder, whatever its suffix.

  Raises:
    UsageError: a format that cannot be written, one file for several inputs, a file in place of the folder, or names
      that still collide.
  """
  to_file = output.suffix.lower() in files.SUFFIXES and not (is_folder or output.is_dir())
  if to_file and len(inputs) > 1:
    raise UsageError(f"--output {str(output)!r} is one file, but there are {len(inputs)} inputs. Name a folder.")
  if to_file and output.suffix.lower() not in files.WRITABLE:
    raise UsageError(
      f"--output {str(output)!r}: {output.suffix} files would lose something and are not written. Choose one of "
      f"{', '.join(files.WRITABLE)}."
    )
  if not to_file and output.is_file():
    raise UsageError(
      f"--output {str(output)!r} is an existing file. Name a folder, or an image to write, which ends with "
      f"{', '.join(files.WRITABLE)}."
    )

  def names(path: Path, tagged: bool) -> list[Path]:
    if to_file:
      target = output
    else:
      relative = inputs[path]
      own = path.suffix.lower()
      suffix = own if own in formats else formats[0]
      tag = f"_{path.suffix[1:]}" if tagged else ""
      target = output / relative.with_name(f"{relative.stem}{tag}{suffix}")
    return [target] if samples == 1 else [target.with_stem(f"{target.stem}_{n}") for n in range(samples)]

  outputs = {path: names(path, tagged=False) for path in inputs}
  if shared := _shared(outputs):
    outputs = {path: names(path, tagged=path in shared) for path in inputs}
  if shared := _shared(outputs):
    raise UsageError(f"{few(shared)} would be written to one output. Rename one, or translate them one by one.")
  return outputs


def _shared(outputs: dict[Path, list[Path]]) -> list[Path]:
  """The inputs that share an output with another input."""
  count = collections.Counter(name for names in outputs.values() for name in names)
  return [path for path, names in outputs.items() if any(count[name] > 1 for name in names)]


def check_outputs(outputs: dict[Path, list[Path]], *, overwrite: bool) -> None:
  """Checks that no output replaces an input, and unless `overwrite` no other file.

  Raises:
    UsageError: an output would.
  """
  existing = [name for names in outputs.values() for name in names if os.path.lexists(name)]
  identity = lambda path: (path.stat().st_dev, path.stat().st_ino)  # the same for every link to a file
  inputs = {identity(path) for path in outputs}
  replaced = [name for name in existing if name.exists() and identity(name) in inputs]
  if replaced:
    raise UsageError(f"Outputs would replace inputs: {few(replaced)}. Choose another --output.")
  if existing and not overwrite:
    verb = "exists" if len(existing) == 1 else "exist"
    raise UsageError(f"{few(existing)} already {verb}. Choose another --output, or allow --overwrite.")


# --- Files and signals


def read_for(signal: "Signal", path: Path) -> np.ndarray:
  """Reads a file as the model accepts it, (H, W, C): with the model's channels, depth as float32 metres, 0 in holes,
  quantities in their unit, NaN in holes, label maps as class indices.

  Raises:
    UsageError: the file cannot be read, or holds another kind of numbers.
  """
  is_index_map = signal.kind == "classes" and not getattr(signal, "palette", ())
  array = files.read(path, colors=not is_index_map)
  if signal.kind == "image":
    array = files.with_channels(array, signal.channels, str(path))
  elif signal.kind == "depth" and array.dtype == np.uint16:
    array = array.astype(np.float32) / np.float32(_scale(signal))
  return signal.accept(array, str(path))


def write_for(signal: "Signal", path: Path, result: np.ndarray) -> None:
  """Writes a translation; PNG gets integers: depth by the signal's scale, float images in the model's number type, and
  class indices with the palette of their colours.
  """
  colors = getattr(signal, "color_table", None)  # of classes
  if colors is not None:
    files.write(path, result, palette=colors)
  elif path.suffix.lower() != ".png":
    files.write(path, result)
  elif signal.kind == "depth":
    files.write(path, result, depth_scale=_scale(signal))
  elif result.dtype.kind == "f":
    files.write(path, np.round(result.astype(np.float64) * np.iinfo(signal.dtype).max).astype(signal.dtype))
  else:
    files.write(path, result)


def _scale(depth: Any) -> float:
  """The divisor of a signal's integer depth; that of KITTI if the run has float depth."""
  return depth.scale or files.KITTI_SCALE


def check_formats(signal: "Signal", suffixes: Iterable[str]) -> None:
  """Checks that translations can be written with these suffixes.

  Raises:
    UsageError: one of them cannot hold the signal's channels.
  """
  for suffix in suffixes:
    in_png = np.uint16 if signal.kind == "depth" else signal.dtype
    files.check_writable(suffix, signal.raw_channels, in_png if suffix.lower() == ".png" else signal.dtype)


def _fits_png(signal: "Signal") -> bool:
  """Whether PNG can hold a signal's values; it holds neither floats nor negative numbers."""
  in_integers = signal.kind != "quantity" or signal.dtype in ("uint8", "uint16")
  return in_integers and signal.raw_channels in files.PNG_COLOR_TYPES


# --- Sizes


def parse_size(text: str) -> tuple[int, int | None]:
  """`--resize` as (height, width); the width is None if it follows from the image's proportions.

  Raises:
    UsageError: neither a height nor a height and width.
  """
  match = re.fullmatch(r"(\d+)(?:[x×X](\d+))?", text.strip())
  size = tuple(int(side) for side in match.groups() if side) if match else ()
  if not size or min(size) < 1:
    raise UsageError(f"--resize is {text!r}; give a height in pixels, as 256, or height and width, as 256x512.")
  return size[0], size[1] if len(size) > 1 else None


def resize(signal: "Signal", array: np.ndarray, size: tuple[int, int | None]) -> np.ndarray:
  """An accepted (H, W, C) array, resampled as in training: bicubic and antialiased, the mean of the pixels that have a
  value (quantities), or nearest (depth, label maps).

  Args:
    signal: signal of the array.
    array: as `read_for` returns it.
    size: (height, width); a width of None keeps the proportions.
  """
  height, width = size[0], size[1] or max(1, round(array.shape[1] * size[0] / array.shape[0]))
  if signal.resampling == "nearest":
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), array.shape))
    return array[rows[:, None], columns]
  if signal.resampling == "area":
    weight = _resample(np.isfinite(array), height, width, Image.Resampling.BILINEAR)
    total = _resample(np.nan_to_num(array), height, width, Image.Resampling.BILINEAR)
    return np.where(weight >= 0.5, total / np.maximum(weight, 0.5), np.float32(np.nan))
  resized = _resample(array, height, width, Image.Resampling.BICUBIC)
  if array.dtype.kind == "f":
    return resized.clip(0, 1)
  return resized.round().clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def _resample(array: np.ndarray, height: int, width: int, kernel: Image.Resampling) -> np.ndarray:
  """float32 (height, width, C). Pillow filters 8 bits in coarser steps, so they become floats first."""
  planes = np.moveaxis(array.astype(np.float32), -1, 0)
  return np.stack([np.asarray(Image.fromarray(plane).resize((width, height), kernel)) for plane in planes], axis=-1)


def is_far(size: tuple[int, int], usual: tuple[int, int]) -> bool:
  """Whether an image's (height, width) has less than half or more than twice the usual area or proportions."""
  (height, width), (usual_height, usual_width) = size, usual
  ratios = height * width / (usual_height * usual_width), height * usual_width / (width * usual_height)
  return any(not 1 / 2 <= ratio <= 2 for ratio in ratios)


def _size_hint(sizes: dict[Path, tuple[int, int]], usual: tuple[int, int]) -> str:
  """A line about images whose size is far from the run's; empty if there are none."""
  far = [f"{path.name} {width}×{height}" for path, (height, width) in sizes.items() if is_far((height, width), usual)]
  if not far:
    return ""
  height, width = usual
  return (
    f"Hint: {few(far)} (width × height) {'is' if len(far) == 1 else 'are'} far from the size of validation, "
    f"{width}×{height}. Results suffer if the scale differs from that in training. --resize={height} sets the height "
    f"and keeps the proportions; --resize={height}x{width} (height, width) resizes as validation does."
  )


# --- Translation


def _read_ahead(
  pool: concurrent.futures.Executor, reading: Callable[[Path], np.ndarray], paths: Iterable[Path], ahead: int
) -> Iterator[tuple[Path, concurrent.futures.Future]]:
  """Yields (path, future of its array) and keeps reading the next `ahead` files."""
  jobs: collections.deque[tuple[Path, concurrent.futures.Future]] = collections.deque()
  for path in paths:
    jobs.append((path, pool.submit(reading, path)))
    if len(jobs) > ahead:
      yield jobs.popleft()
  while jobs:
    yield jobs.popleft()


def _room(image: np.ndarray, batch_size: int) -> int:
  """The size of a batch of images like this one."""
  return max(1, min(batch_size, BATCH_PIXELS // (image.shape[0] * image.shape[1])))


def _batches(images: Iterable[tuple[Path, np.ndarray]], batch_size: int) -> Iterator[list[tuple[Path, np.ndarray]]]:
  """Groups images of equal shape and type, with at most four batches' worth of images waiting for a full group."""
  waiting: dict[Any, list[tuple[Path, np.ndarray]]] = collections.defaultdict(list)
  for path, image in images:
    form = image.shape, image.dtype
    waiting[form].append((path, image))
    if len(waiting[form]) == _room(image, batch_size):
      yield waiting.pop(form)
    elif sum(map(len, waiting.values())) == 4 * batch_size:
      yield waiting.pop(max(waiting, key=lambda form: len(waiting[form])))
  yield from waiting.values()


def translate_files(
  translator: "Translator",
  inputs: Iterable[Path],
  outputs: dict[Path, list[Path]],
  *,
  seed: int = 0,
  tile: int | None = None,
  side_by_side: bool = False,
  dropout: bool | None = None,
  norm_stats: str | None = None,
  batch_size: int = 8,
  resize_to: tuple[int, int | None] | None = None,
  sizes: dict[Path, tuple[int, int]] | None = None,
) -> dict[Path, str]:
  """Translates files, with a few batches in memory at a time; returns the error message of each file that failed.

  Args:
    translator: the trained generator.
    inputs: the files, as `find_inputs` returns them.
    outputs: the files to write for each, the same number for all, as `name_outputs` returns them.
    seed, tile, dropout, norm_stats: as for `Translator.__call__`.
    side_by_side: write input and output beside each other, in the colours of the samples.
    batch_size: number of images of equal shape computed together; 1 with `tile` and with `norm_stats="batch"`.
    resize_to: (height, width) as for `resize`; None: images keep their size.
    sizes: filled with the (height, width) of each file that was read, before any resize.
  """
  failed: dict[Path, str] = {}
  filled: set[Any] = set()
  paths = list(inputs)
  if tile is not None or (norm_stats or translator.config.evaluation.norm_stats) == "batch":
    batch_size = 1
  compute = functools.partial(
    translator,
    num_samples=len(next(iter(outputs.values()))),
    seed=seed,
    tile=tile,
    dropout=dropout,
    norm_stats=norm_stats,
  )

  def read(path: Path) -> np.ndarray:
    image = read_for(translator.input_signal, path)
    if sizes is not None:
      sizes[path] = (image.shape[0], image.shape[1])
    return image if resize_to is None else resize(translator.input_signal, image, resize_to)

  def save(path: Path, image: np.ndarray, results: np.ndarray) -> None:
    for target, result in zip(outputs[path], results):
      if side_by_side:
        files.write(target, _beside(translator, image, result))
      else:
        write_for(translator.target_signal, target, result)

  def images(pool: concurrent.futures.Executor) -> Iterator[tuple[Path, np.ndarray]]:
    for path, job in _read_ahead(pool, read, paths, ahead=batch_size + 3):
      try:
        yield path, job.result()
      except UsageError as error:
        failed[path] = str(error)
        bar.update()

  def answers(batch: list[tuple[Path, np.ndarray]]) -> list[tuple[Path, np.ndarray, np.ndarray]]:
    """(path, image, samples) of a batch. If it fails, its images are tried one by one, so that only bad ones fail."""
    image = batch[0][1]
    form, room = (image.shape, image.dtype), _room(image, batch_size)
    if len(batch) == room:
      filled.add(form)
    size = room if form in filled else len(batch)  # padding the last few saves compiling another program
    try:
      if size == 1:
        return [(*batch[0], compute(image))]
      stacked = np.stack([*(image for _, image in batch), *[image] * (size - len(batch))])
      return [(*one, results) for one, results in zip(batch, compute(stacked, batch_size=size).swapaxes(0, 1))]
    except UsageError as error:
      if len(batch) == 1:
        failed[batch[0][0]] = str(error)
        return []
      return [answer for one in batch for answer in answers([one])]

  def settle(path: Path, job: concurrent.futures.Future) -> None:
    try:
      job.result()
    except UsageError as error:
      failed[path] = str(error)

  with (
    concurrent.futures.ThreadPoolExecutor(4) as pool,
    tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty()) as bar,
  ):
    writing: collections.deque[tuple[Path, concurrent.futures.Future]] = collections.deque()
    for batch in _batches(images(pool), batch_size):
      for path, image, results in answers(batch):
        writing.append((path, pool.submit(save, path, image, results)))
      bar.update(len(batch))
      while len(writing) > 2 * batch_size:
        settle(*writing.popleft())
    while writing:
      settle(*writing.popleft())
  return failed


def _beside(translator: "Translator", image: np.ndarray, result: np.ndarray) -> np.ndarray:
  """Input and output side by side, as uint8 RGB."""
  from pix2pix_jax.run import viz  # imports JAX: slow

  sides = (translator.input_signal, image), (translator.target_signal, result)
  return np.concatenate([viz.show(signal, raw) for signal, raw in sides], axis=1)


# --- Command


def _parser() -> argparse.ArgumentParser:
  suffixes = textwrap.fill(" ".join(files.SUFFIXES), 100, break_on_hyphens=False)
  parser = argparse.ArgumentParser(
    prog="pix2pix_jax translate",
    description=__doc__,
    epilog=f"suffixes of inputs:\n{textwrap.indent(suffixes, '  ')}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a trained model")
  parser.add_argument("--input", required=True, help="a file, a folder (with its subfolders), or a pattern in quotes")
  parser.add_argument("--output", required=True, help="a file for a single image, else a folder (end it with /)")
  parser.add_argument("--step", default="best", help="checkpoint: best, latest or a step number (default: best)")
  parser.add_argument(
    "--samples", type=int, default=1, help="results to draw per image, written as NAME_0, NAME_1, … (default: 1)"
  )
  parser.add_argument("--seed", type=int, default=0, help="seed of the dropout noise (default: 0)")
  parser.add_argument(
    "--resize",
    metavar="SIZE",
    help="resize inputs to this height, or HEIGHTxWIDTH, in pixels before translation; outputs keep that size",
  )
  parser.add_argument("--tile", type=int, help="side in pixels of overlapping tiles, for images too large for memory")
  parser.add_argument(
    "--batch_size",
    type=int,
    default=8,
    help="images of equal size computed together, fewer if they are large; 1 with --tile and --norm_stats=batch "
    "(default: 8)",
  )
  parser.add_argument(
    "--dropout", choices=("on", "off"), help="turn dropout, the noise, on or off (default: as in the run)"
  )
  parser.add_argument(
    "--norm_stats", choices=("image", "batch", "running"), help="statistics of batch norm (default: as in the run)"
  )
  parser.add_argument(
    "--side_by_side", action="store_true", help="write input and output next to each other as 8-bit RGB, for viewing"
  )
  parser.add_argument("--side-by-side", dest="side_by_side", action="store_true", help=argparse.SUPPRESS)  # older
  parser.add_argument("--overwrite", action="store_true", help="replace existing outputs, but never an input")
  return parser


def _describe_step(workdir: Path, translator: "Translator", asked: str) -> str:
  """For example "step 800, best l1"; "best" is the newest one if no checkpoint was validated."""
  if asked != "best":
    return f"step {translator.step}" + (", the newest" if asked == "latest" else "")
  from pix2pix_jax.run.checkpoint import Checkpointer  # imports JAX: slow

  with Checkpointer(workdir, config=translator.config, read_only=True) as checkpointer:
    best = checkpointer.best()
  if best is None:
    return f"step {translator.step}, the newest (none was validated)"
  return f"step {translator.step}, best {translator.config.train.best_metric} ({best[1]:.4f})"


def main(argv: list[str] | None = None) -> None:
  """Runs the command; exits with status 1 if some files could not be translated.

  Raises:
    UsageError: invalid inputs, outputs or options; raised before any work.
  """
  options = _parser().parse_args(argv)
  for name in ("samples", "batch_size", "tile"):
    if getattr(options, name) is not None:
      require_integer(f"--{name}", getattr(options, name), 1)
  require_integer("--seed", options.seed, 0, 2**32 - 1)
  resize_to = None if options.resize is None else parse_size(options.resize)
  output = Path(options.output).expanduser()
  is_folder = options.output.endswith(("/", os.sep))  # which Path drops
  given = Path(options.input).expanduser()
  if given.is_dir() and output.resolve() == given.resolve():
    raise UsageError(f"--output {str(output)!r} is the input folder. Choose another folder, or one inside it.")
  inputs, left_out = find_inputs(options.input, output)
  formats: tuple[str, ...] = (".png",) if options.side_by_side else files.WRITABLE
  outputs = name_outputs(inputs, output, options.samples, formats, is_folder=is_folder)
  check_outputs(outputs, overwrite=options.overwrite)

  from pix2pix_jax import config as config_lib  # imports JAX, which help and wrong flags need not wait for
  from pix2pix_jax.inference import Translator

  workdir = options.workdir.expanduser()
  translator = Translator.load(workdir, step=options.step)
  if not options.side_by_side:
    if not _fits_png(translator.target_signal):
      formats = tuple(each for each in formats if each != ".png")
      outputs = name_outputs(inputs, output, options.samples, formats, is_folder=is_folder)
      check_outputs(outputs, overwrite=options.overwrite)
    check_formats(translator.target_signal, {path.suffix for names in outputs.values() for path in names})
  if translator.step is not None:
    print(f"Checkpoint: {_describe_step(workdir, translator, options.step)}.", flush=True)
  if options.tile and options.tile % translator.multiple:
    rounded = options.tile + -options.tile % translator.multiple
    print(f"--tile={options.tile} is rounded up to {rounded}, a multiple of {translator.multiple}.", flush=True)
  sizes: dict[Path, tuple[int, int]] = {}
  failed = translate_files(
    translator,
    inputs,
    outputs,
    seed=options.seed,
    tile=options.tile,
    side_by_side=options.side_by_side,
    dropout=None if options.dropout is None else options.dropout == "on",
    norm_stats=options.norm_stats,
    batch_size=options.batch_size,
    resize_to=resize_to,
    sizes=sizes,
  )
  written = [each for path, names in outputs.items() if path not in failed for each in names]
  listed = f": {few(written)}" if written else ""
  print(f"{len(inputs) - len(failed)} of {counted(len(inputs), 'image')} translated{listed}.")
  if left_out:
    print(f"Left out, not being images of a known format: {few(left_out)}.")
  if resize_to is None and (hint := _size_hint(sizes, config_lib.eval_shape(translator.config.data))):
    print(hint)
  for path, reason in failed.items():
    print(f"not translated: {path}: {reason}", file=sys.stderr)
  if failed:
    sys.exit(1)


if __name__ == "__main__":
  if not {"-h", "--help"} & set(sys.argv[1:]):
    launch.keep_memory()
  run_command(main)
