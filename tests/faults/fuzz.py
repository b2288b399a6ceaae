"""Reads thousands of damaged files: `python tests/faults/fuzz.py --count=6000 --seed=1`.

Prints what is raised other than UsageError, and what takes more than seconds. Its memory is limited, so that a damaged
header that makes a library allocate what it claims becomes a MemoryError. tests/faults/test_data.py runs it briefly;
guided.py damages files in ways that reach new code.
"""

import argparse
import collections
from collections.abc import Callable
import io
from pathlib import Path
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_torch_weights import LAYOUTS, sample

from pix2pix_jax import signals
from pix2pix_jax.data import files
from pix2pix_jax.data.formats import extras
from pix2pix_jax.errors import UsageError
from pix2pix_jax.serving import payload
from pix2pix_jax.torch_weights import read_state_dict


def read_upload(path):
  """As the demo's server reads what clients send."""
  return payload.read(signals.Image(3), path.read_bytes(), max_pixels=2**20, folder=path.parent)


def read_corner(path):
  return files.read_window(path, 0, 0, 2, 3)


READERS = (
  files.read,
  files.count_slices,
  files.read_volume,
  files.read_geometry,
  files.read_palette,
  files.read_nodata,
  files.lazy_shape,
)
RASTER_READERS = (read_corner,)
UPLOAD_READERS = (files.claimed_size, read_upload)
WEIGHTS_READERS = (read_state_dict,)
SLOW = 5.0  # seconds of computing, which do not depend on what else the machine does


def readers(name: str) -> tuple[Callable[[Path], object], ...]:
  """The functions that read a file of this name."""
  if name.startswith("weights"):
    return WEIGHTS_READERS
  uploaded = UPLOAD_READERS * (files.suffix(name) in payload.SIGNATURES.values())
  return (*READERS, *RASTER_READERS * (files.suffix(name) == ".tif"), *uploaded)


def originals(folder):
  """Small files of every format: {name: content}."""
  import h5py
  import tifffile

  generator = np.random.default_rng(0)
  rgb = generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)
  grey = generator.integers(0, 65536, (24, 20), dtype=np.uint16)
  volume = generator.integers(-99, 99, (4, 6, 5, 1)).astype(np.int16)
  palette = Image.fromarray(rgb).quantize(16)
  np.save(folder / "a.npy", rgb)
  np.save(folder / "volume.npy", volume)
  np.savez(folder / "a.npz", a=rgb)
  np.savez_compressed(folder / "deflated.npz", a=grey)
  files.write(folder / "grey16.png", grey)
  files.write(folder / "rgb16.png", np.stack([grey] * 3, axis=-1))
  for name in ("rgb.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.ppm", "a.tga", "a.jp2"):
    Image.fromarray(rgb).save(folder / name)
  palette.save(folder / "palette.png")
  palette.save(folder / "palette.tif")
  Image.fromarray(rgb).save(folder / "lzw.tif", compression="tiff_lzw")
  tifffile.imwrite(folder / "rgb.tif", rgb)
  tifffile.imwrite(folder / "stack.tif", np.stack([grey] * 3), compression="zlib")
  files.write_volume(folder / "a.ome.tif", volume)
  with h5py.File(folder / "a.h5", "w") as file:
    file["x"] = rgb
  with h5py.File(folder / "chunks.h5", "w") as file:
    file.create_dataset("group/x", data=grey, compression="gzip", chunks=(8, 8))
  if extras.available("nibabel"):
    files.write_volume(folder / "a.nii", volume)
    files.write_volume(folder / "a.nii.gz", volume)
  if extras.available("SimpleITK"):
    import SimpleITK as sitk

    files.write_volume(folder / "a.mha", volume)
    files.write_volume(folder / "a.nrrd", volume)
    sitk.WriteImage(sitk.GetImageFromArray(volume[:1, ..., 0]), str(folder / "a.dcm"))
  if extras.available("rasterio"):
    import rasterio

    form = {"driver": "GTiff", "height": 24, "width": 20, "count": 1, "dtype": "uint16", "compress": "deflate"}
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, 0, 0, -1, 0), "nodata": 0}
    with rasterio.open(folder / "geo.tif", "w", **form, **grid) as raster:
      raster.write(grey[None])
  for layout in LAYOUTS:
    (folder / f"weights_{layout}.pth").write_bytes(sample(layout))
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutant(content, rng):
  """A file with flipped bits, extreme numbers, lost or repeated bytes, and other digits, mostly in its header."""
  data = bytearray(content)
  for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
    place = rng.randrange(max(1, min(len(data), rng.choice((64, 200, 400, len(data) or 1)))))
    if not data:
      break
    match rng.choice("bbbbeeennncrd"):
      case "b":
        data[place] ^= 1 << rng.randrange(8)
      case "e":
        data[place] = rng.choice((0, 1, 127, 128, 255))
      case "n":
        number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65535, 20_000, 100_000, 10**9))
        size = rng.choice((2, 4, 4, 8))
        stored = (number % 256**size).to_bytes(size, rng.choice(("little", "big")))
        data[place : place + size] = stored[: len(data) - place]
      case "c":
        data = data[: rng.randrange(len(data))]
      case "r":
        start = rng.randrange(len(data))
        data[place:place] = data[start : start + rng.randrange(1, 40)]
      case "d":
        if digits := [i for i, byte in enumerate(data) if 48 <= byte <= 57][:200]:
          at = rng.choice(digits)
          data[at : at + 1] = rng.choice((b"9", b"0", b"99999", b"-1", b"(", b"999999999999"))
  return bytes(data)


class Trials:
  """Reads files, and collects what should not happen.

  Attributes:
    problems: descriptions.
    outcomes: how many files were read and refused.
  """

  def __init__(self, folder: Path):
    """Accepts the folder of the originals, which are all read: that loads every library, before memory is limited."""
    self.problems: list[str] = []
    self.outcomes: collections.Counter[str] = collections.Counter()
    self._folder = folder
    for path in sorted(folder.iterdir()):
      for reader in WEIGHTS_READERS if path.name.startswith("weights") else READERS:
        reader(path, slice=0) if reader is files.read and files.holds_slices(path) else reader(path)

  def limit_memory(self, gib: float) -> None:
    """Limits this process to what it has and so much more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

  def read(self, original: str, content: bytes, what: str) -> None:
    """Reads a file that was made of an original; `what` describes how."""
    path = self._folder / f"mutant{files.suffix(original)}"
    path.write_bytes(content)
    for reader in readers(original):
      self._read(reader, path, what)

  def _read(self, reader: Callable[[Path], object], path: Path, what: str) -> None:
    start = time.process_time()
    try:
      reader(path)
      self.outcomes["read"] += 1
    except UsageError as error:
      self.outcomes["refused"] += 1
      if str(path) not in str(error) and payload.NAME not in str(error):
        self.problems.append(f"{what} {reader.__name__}: not named: {error}")
    except Exception:  # what should not happen is listed
      text = io.StringIO()
      traceback.print_exc(file=text, limit=-3)
      self.problems.append(f"{what} {reader.__name__}: {text.getvalue()}")
    if time.process_time() - start > SLOW:
      self.problems.append(f"{what} {reader.__name__}: {time.process_time() - start:.0f} s")

  def report(self) -> bool:
    """Prints what happened; whether there were problems."""
    print(f"{dict(self.outcomes)}, {len(self.problems)} problems")
    print("\n".join(self.problems[:20]), flush=True)
    return bool(self.problems)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--count", type=int, default=6000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--gib", type=float, default=1.0, help="memory beyond what the program has at the start")
  options = parser.parse_args()
  warnings.simplefilter("ignore")
  with tempfile.TemporaryDirectory() as name:
    contents = originals(Path(name))
    trials = Trials(Path(name))
    trials.limit_memory(options.gib)
    for number in range(options.count):
      rng = random.Random(options.seed * 10**9 + number)
      original = list(contents)[number % len(contents)]
      print(f"now {number} {original}", file=sys.stderr, flush=True)  # the last line names what crashed
      trials.read(original, mutant(contents[original], rng), f"{original} {number}")
  sys.exit(trials.report())


if __name__ == "__main__":
  main()
