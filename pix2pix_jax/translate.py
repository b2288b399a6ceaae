"""Translates files with a trained model.

    python -m pix2pix_jax.translate --workdir=DIR --input=FILE|DIR|GLOB --output=FILE|DIR [--samples=N] [--seed=S] [--tile=PIXELS]

Reads png, jpg, tiff and npy. Pictures keep their name and format (jpg becomes png: it would lose), subfolders are kept. Depth is read
from and written to 16-bit PNGs of KITTI's encoding (metres · 256), or npy in metres. A file that cannot be read is reported at the
end, when all others are done, and the exit status is then 1.
"""

import argparse
import concurrent.futures
import glob
from pathlib import Path
import sys

import numpy as np
from PIL import Image
import tifffile
from tqdm import tqdm

from pix2pix_jax import depth, viz
from pix2pix_jax.data import images
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.inference import Translator

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


def read(path: Path, channels: int, is_depth: bool) -> np.ndarray:
  """A file as the model takes it: uint8 or uint16 (H, W, channels), float in [0, 1] from npy, or float32 metres (H, W, 1)."""
  if path.suffix.lower() == ".npy":
    try:
      array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
      raise UsageError(f"{path} cannot be read as a NumPy array ({error}).") from error
  elif is_depth:
    return depth.read_png(path)
  elif path.suffix.lower() in (".tif", ".tiff"):
    try:
      array = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
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
    files = {file: file.relative_to(path) for file in images.numeric_order(path.rglob("*")) if file.suffix.lower() in SUFFIXES}
  else:
    files = {Path(name): Path(Path(name).name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).suffix.lower() in SUFFIXES}
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
    raise UsageError("Several inputs would be written to one output, because they differ in folder or suffix alone. Translate them folder by folder.")
  return outputs


def translate(translator: Translator, inputs: dict[Path, Path], outputs: dict[Path, list[Path]], *, seed: int = 0, tile: int | None = None,
              side_by_side: bool = False, dropout: bool | None = None, norm_stats: str | None = None) -> dict[Path, str]:
  """Translates files; reading, computing and writing overlap. Returns what went wrong, by file."""
  config, failed = translator.config, {}
  is_depth = config.data.input_dtype == "float32"

  def save(path, picture, results):
    for target, result in zip(outputs[path], results):
      if side_by_side:
        shown = [viz.display_raw(array, dtype, config.data.depth_range) for array, dtype in
                 ((picture, config.data.input_dtype), (result, config.data.target_dtype))]
        result = np.concatenate(shown, axis=1)
      write(target, result)

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    ahead, writing = {}, {}
    paths = list(inputs)
    for number, path in enumerate(tqdm(paths, unit="picture", disable=not sys.stderr.isatty())):
      for later in paths[number:number + 4]:
        if later not in ahead:
          ahead[later] = pool.submit(read, later, config.model.input_channels, is_depth)
      try:
        picture = ahead[path].result()
        results = translator(picture, num_samples=len(outputs[path]), seed=seed, tile=tile, dropout=dropout, norm_stats=norm_stats)
        writing[path] = pool.submit(save, path, picture, results)
      except UsageError as error:
        failed[path] = str(error)
      ahead[path] = None  # the picture may go
    for path, job in writing.items():
      try:
        job.result()
      except (UsageError, OSError) as error:
        failed[path] = str(error)
  return failed


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--input", required=True, help="a file, a folder (with subfolders) or a pattern in quotes")
  parser.add_argument("--output", type=Path, required=True, help="a file for a single picture, else a folder")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument("--samples", type=int, default=1, help="answers to draw for each picture, written as NAME_0, NAME_1, … (default: 1)")
  parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
  parser.add_argument("--tile", type=int, help="side in pixels of overlapping tiles, for pictures larger than the memory allows")
  parser.add_argument("--dropout", choices=("on", "off"), help="whether the noise is on (default: as in training)")
  parser.add_argument("--norm_stats", choices=("image", "batch", "running"), help="statistics of batch norm (default: as in training)")
  parser.add_argument("--side-by-side", action="store_true", help="write input and output beside each other, as 8-bit PNG to look at")
  parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
  options = parser.parse_args(argv)
  if options.samples < 1:
    raise UsageError(f"--samples is {options.samples}; it is at least 1.")
  inputs = find_inputs(options.input)
  outputs = name_outputs(inputs, options.output, options.samples, ".png" if options.side_by_side else "")
  existing = [str(name) for names in outputs.values() for name in names if name.exists()]
  if existing and not options.overwrite:
    raise UsageError(f"{len(existing)} outputs exist, {existing[0]} for one. Choose another --output, or allow --overwrite.")
  translator = Translator.load(options.workdir, step=options.step)
  failed = translate(translator, inputs, outputs, seed=options.seed, tile=options.tile, side_by_side=options.side_by_side,
                     dropout=None if options.dropout is None else options.dropout == "on", norm_stats=options.norm_stats)
  print(f"{len(inputs) - len(failed)} of {len(inputs)} pictures translated to {options.output}.")
  for path, reason in failed.items():
    print(f"not translated: {path}: {reason}", file=sys.stderr)
  if failed:
    sys.exit(1)


if __name__ == "__main__":
  run_command(main)
