"""Translates files with a trained model: images, depth, quantities, label maps and volumes.

    python -m pix2pix_jax.translate --workdir=DIR --input=FILE|DIR|PATTERN --output=FILE|DIR

Reads every format that training reads and writes PNG, TIFF and npy. Outputs keep the names and subfolders of their
inputs; lossy formats become PNG. Depth is written as 16-bit PNG (metres times data.target_scale of the training, or 256
as in KITTI), or as float metres in TIFF or npy; depth in integers is divided by data.input_scale, or by 256. Unreadable
files are skipped and listed at the end, and the exit status is then 1.

Volumes and stacks are translated slice by slice and written as volumes: NIfTI, MetaImage, NRRD, TIFF and npy keep their
format, DICOM series become MetaImage. The geometry of rasters and volumes is kept (coordinate reference system,
transform, affine, spacing), and where a raster declares every band to be nodata, so is the output. With --tile, rasters
that are written as TIFF are read and written in rows of tiles, so that they may be larger than memory.

Networks expect objects at the scale of their training images. --resize=256 first resizes inputs to that height and
keeps their proportions; --resize=256x512 resizes to exactly that height and width, as training does with images of
another shape. Images are resampled as in training, and outputs keep the new size.

Images of equal size are computed in batches. Each image gets the same noise as it would alone, but sums are rounded in
another order, so batching can change a pixel by one grey level. --batch_size=1 avoids that.
"""

import argparse
import collections
from collections.abc import Collection, Sequence
import glob
import os
from pathlib import Path
import re
import sys
import textwrap
from typing import TYPE_CHECKING

from pix2pix_jax import launch
from pix2pix_jax.data import files
from pix2pix_jax.data.readers import pairs
from pix2pix_jax.errors import (
  CommandParser,
  UsageError,
  few,
  grouped,
  nearest_path,
  require_integer,
  run_command,
  user_path,
)
from pix2pix_jax.output import counted

if TYPE_CHECKING:  # imports JAX: slow
  from pix2pix_jax.inference import Translator


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
  path = user_path("--input", pattern)
  if path.is_file() or files.is_series(path):
    return {path: Path(path.name)}, []
  if not path.exists() and not glob.has_magic(pattern):
    raise UsageError(
      f"--input {pattern!r} does not exist{nearest_path(path) or '.'} Give a file, a folder or a pattern."
    )
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
      f"--input {pattern!r} {'holds' if path.is_dir() else 'matches'} no image.{others} Images are PNG, JPEG, TIFF, "
      '.npy and others; "pix2pix_jax translate --help" lists every suffix.'
    )
  return {each: each.relative_to(base) for each in found}, left_out


def find_partners(folder: Path, names: Sequence[str]) -> tuple[dict[Path, Path], dict[Path, tuple[Path, ...]]]:
  """The files for a model with several inputs; files without partners are printed.

  Args:
    folder: holds a folder for each input, with files of the same names in all of them.
    names: names of the inputs.

  Returns:
    {file of the first input: its name relative to that folder}, and the files of all inputs by that file.

  Raises:
    UsageError: a folder is missing, or no files match.
  """
  folders = [folder / name for name in names]
  if folder.is_file():
    raise UsageError(
      f"This model has the inputs {', '.join(names)}, but --input {str(folder)!r} is one file. Give a folder that "
      "holds one folder for each input."
    )
  if missing := [each.name for each in folders if not each.is_dir()]:
    raise UsageError(
      f"This model has the inputs {', '.join(names)}, but --input {str(folder)!r} lacks the folder {missing[0]}. "
      "Give a folder that holds one folder for each input."
    )
  notes: list[str] = []
  found = pairs.match(folders, notes)
  for note in notes:
    print(note)
  if not found:
    raise UsageError(f"--input {str(folder)!r}: no file has the same name in {', '.join(names)}.")
  inputs = {pair.paths[0]: pair.paths[0].relative_to(folders[0]) for pair in found}
  return inputs, {pair.paths[0]: pair.paths for pair in found}


def _match(pattern: Path) -> list[Path]:
  """The images that match a pattern. Its leading part that exists is used literally, even if it contains brackets."""
  literal = next(parent for parent in pattern.parents if parent.is_dir())
  names = glob.glob(str(pattern.relative_to(literal)), root_dir=literal, recursive=True)
  found = [literal / name for name in names if not any(map(files.is_junk, Path(name).parts))]
  return files.natural_order(
    path for path in found if files.is_series(path) or (path.is_file() and files.is_known(path))
  )


def name_outputs(
  inputs: dict[Path, Path],
  output: Path,
  samples: int = 1,
  formats: Sequence[str] = files.WRITABLE,
  *,
  is_folder: bool = False,
  volumes: Collection[Path] = (),
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
    volumes: the inputs whose outputs are volumes.

  Raises:
    UsageError: a format that cannot be written, one file for several inputs, a file in place of the folder, or names
      that still collide.
  """
  to_file = files.is_known(output) and not (is_folder or output.is_dir())
  if to_file and len(inputs) > 1:
    raise UsageError(f"--output {str(output)!r} is one file, but there are {len(inputs)} inputs. Name a folder.")
  writable = files.WRITABLE_VOLUMES if volumes else files.WRITABLE
  if to_file and not files.suffix(output).endswith(writable):
    what = "volumes are not written as" if volumes else "translations are not written as"
    raise UsageError(
      f"--output {str(output)!r}: {what} {files.suffix(output)}, which cannot hold them without loss. Choose one of "
      f"{', '.join(writable)}."
    )
  if not (to_file or is_folder or output.exists()) and re.fullmatch(r"\.[a-z]{2,5}", files.suffix(output)):
    raise UsageError(
      f"--output {str(output)!r} looks like a file, but {files.suffix(output)} is not an image format. End the "
      f"name of an image with {', '.join(writable)}, and that of a folder with /."
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
      relative, own = inputs[path], files.suffix(path)
      allowed = (".mha", *files.WRITABLE_VOLUMES) if path in volumes else formats
      suffix = own if own and own.endswith(tuple(allowed)) else allowed[0]
      tag = f"_{own[1:]}" if tagged else ""
      target = output / relative.with_name(f"{files.stem(relative)}{tag}{suffix}")
    if samples == 1:
      return [target]
    return [target.with_name(f"{files.stem(target)}_{n}{files.suffix(target)}") for n in range(samples)]

  outputs = {path: names(path, tagged=False) for path in inputs}
  if shared := _shared(outputs):
    outputs = {path: names(path, tagged=path in shared) for path in inputs}
  if shared := _shared(outputs):
    raise UsageError(f"{few(shared)} would be written to the same file. Rename one, or translate them one by one.")
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


def is_far(size: tuple[int, int], usual: tuple[int, int]) -> bool:
  """Whether an image's (height, width) has less than half or more than twice the usual area or proportions."""
  (height, width), (usual_height, usual_width) = size, usual
  ratios = height * width / (usual_height * usual_width), height * usual_width / (width * usual_height)
  return any(not 1 / 2 <= ratio <= 2 for ratio in ratios)


def _size_hint(sizes: dict[Path, tuple[int, int]], usual: tuple[int, int]) -> str:
  """A line about images whose size is far from the run's; empty if there are none."""
  height, width = usual
  if sizes and all(size[1] * height == 2 * size[0] * width for size in sizes.values()):
    return (
      f"Hint: all inputs are twice as wide as validation images, {width}×{height}, for their height. If each holds an "
      "input and a target side by side, the result is wrong: translate the input's half alone, or measure the pairs by "
      '"pix2pix_jax evaluate --reader=folder --source_dir=DIR".'
    )
  far = [f"{path.name} {width}×{height}" for path, (height, width) in sizes.items() if is_far((height, width), usual)]
  if not far:
    return ""
  return (
    f"Hint: {few(far)} (width × height) {'differs' if len(far) == 1 else 'differ'} much from the size of validation "
    f"images, {width}×{height}. Results suffer if the scale differs from that in training. --resize={height} sets the "
    f"height and keeps the proportions; --resize={height}x{width} (HEIGHTxWIDTH) resizes as validation does."
  )


# --- Command


def _parser() -> CommandParser:
  suffixes = textwrap.fill(" ".join(files.SUFFIXES), 100, break_on_hyphens=False)
  parser = CommandParser(
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
  parser.add_argument("--key", help="array in .npz and HDF5 files (default: as in the run, or their only one)")
  parser.add_argument(
    "--axis", type=int, choices=(0, 1, 2), help="axis along which the slices of volumes lie (default: as in the run)"
  )
  parser.add_argument(
    "--side_by_side", action="store_true", help="write input and output next to each other as 8-bit RGB, for viewing"
  )
  parser.add_argument("--side-by-side", dest="side_by_side", action="store_true", help=argparse.SUPPRESS)  # older
  parser.add_argument(
    "--submission",
    action="store_true",
    help="write depth in the format of KITTI's server: 16-bit PNG of metres · 256, without holes",
  )
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
    return f"step {translator.step}, the newest (none has a validation to compare)"
  if best[0] != translator.step:
    return f"step {translator.step}, because the best one is damaged"
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
  output = user_path("--output", options.output)
  is_folder = options.output.endswith(("/", os.sep))  # which Path drops
  given = user_path("--input", options.input)
  if given.is_dir() and output.resolve() == given.resolve():
    raise UsageError(f"--output {str(output)!r} is the input folder. Choose another folder, or one inside it.")
  inputs, left_out = find_inputs(options.input, output)
  volumes = {path for path in inputs if files.holds_slices(path)}
  if volumes and options.side_by_side:
    raise UsageError(f"--side_by_side draws single images, but {few(volumes)} holds several. Leave the option out.")
  formats: tuple[str, ...] = (".png",) if options.side_by_side or options.submission else files.WRITABLE
  names = lambda formats: name_outputs(inputs, output, options.samples, formats, is_folder=is_folder, volumes=volumes)
  outputs = names(formats)
  check_outputs(outputs, overwrite=options.overwrite)

  from pix2pix_jax import config as config_lib  # imports JAX, which help and wrong flags need not wait for
  from pix2pix_jax.inference import Translator
  from pix2pix_jax.run import translation
  from pix2pix_jax.signals import Stack

  workdir = user_path("--workdir", options.workdir)
  translator = Translator.load(workdir, step=options.step)
  partners: dict[Path, tuple[Path, ...]] = {}
  if isinstance(translator.input_signal, Stack):
    inputs, partners = find_partners(given, translator.input_signal.names)
    volumes = {path for path in inputs if files.holds_slices(path)}
    outputs = names(formats)
    check_outputs(outputs, overwrite=options.overwrite)
  if options.submission and (options.side_by_side or translator.target_signal.kind != "depth"):
    raise UsageError("--submission is for depth, without --side_by_side.")
  if not options.side_by_side:
    if not translation.fits_png(translator.target_signal):
      outputs = names(tuple(each for each in formats if each != ".png"))
      check_outputs(outputs, overwrite=options.overwrite)
    images = [path for path in inputs if path not in volumes]
    translation.check_formats(translator.target_signal, {name.suffix for path in images for name in outputs[path]})
  if options.norm_stats:
    config_lib.require_batch_norm(translator.config, f"--norm_stats={options.norm_stats}")
  if translator.step is not None:
    print(f"Checkpoint: {_describe_step(workdir, translator, options.step)}.", flush=True)
  if options.tile and options.tile % translator.multiple:
    rounded = options.tile + -options.tile % translator.multiple
    print(f"--tile={options.tile} is rounded up to {rounded}, a multiple of {translator.multiple}.", flush=True)
  data = translator.config.data
  axis = data.slice_axis if options.axis is None else options.axis
  work = translation.FileTranslator(
    translator,
    outputs,
    translation.Options(
      samples=options.samples,
      seed=options.seed,
      tile=options.tile,
      side_by_side=options.side_by_side,
      dropout=None if options.dropout is None else options.dropout == "on",
      norm_stats=options.norm_stats,
      batch_size=options.batch_size,
      resize_to=resize_to,
      key=options.key or data.input_key or None,
      axis=axis if axis >= 0 else None,
      submission=options.submission,
      partners=partners,
    ),
  )
  work.run()
  failed, sizes = work.failed, {path: work.sizes[path] for path in outputs if path in work.sizes}
  written = [each for path, names in outputs.items() if path not in failed for each in names]
  listed = f": {few(written)}" if written else ""
  print(f"{len(inputs) - len(failed)} of {counted(len(inputs), 'image')} translated{listed}.")
  if left_out:
    special = [path for path in left_out if files.is_known(path)]  # pipes, devices, broken links
    if unknown := [path for path in left_out if path not in special]:
      print(f"Left out, because their format is unknown: {few(unknown)}.")
    if special:
      print(f"Left out, because they are not regular files: {few(special)}.")
  usual = config_lib.eval_resize(data)  # None: the model has seen images of many sizes, at their own scale
  if usual and resize_to is None and options.tile is None and (hint := _size_hint(sizes, usual)):
    print(hint)
  if work.assumed_scale:
    print(f"Hint: {translation.about_scale(work.assumed_scale)}")
  for line in grouped(failed.items()):
    print(f"not translated: {line}", file=sys.stderr)
  if failed:
    sys.exit(1)


if __name__ == "__main__":
  if not {"-h", "--help"} & set(sys.argv[1:]):
    launch.keep_memory()
  run_command(main)
