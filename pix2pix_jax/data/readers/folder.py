"""A user's own pairs, in a folder of either layout:

* side by side: `train/`, `val/`, `test/` of pictures whose left half is the input and whose right half is the target (or the
  other way round: `data.side_by_side`);
* `A/` (inputs) and `B/` (targets), matched by name without its ending: `A/1.png` with `B/1.npy`. Splits are `A/train`, `B/train`
  and so on, or `train/A`, `train/B`.

Without split folders the pairs are cut at random, seeded, into 90 % `train` and 10 % `val`.

Files are png, jpg, jpeg, tif, tiff or npy of 1 to 4 channels (npy: (height, width) or (height, width, channels)). uint8 and
uint16 are pictures, 0 to their largest value; 16 bits stay 16 bits; a palette becomes RGB, one bit 0 and 255. Floating-point
numbers (npy, tiff) are metres of depth, as `data.depth_range` maps them; 0, negative, infinite and NaN are holes, and a target
of depth has a mask of the others. All inputs must agree in channels and type, and all targets.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
import tensorflow as tf
import tensorflow_datasets as tfds
import tifffile

from pix2pix_jax.data import images
from pix2pix_jax.data.readers import examples
from pix2pix_jax.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
SPLITS = ("train", "val", "test")
ORDERS = ("input_target", "target_input")
TIFF = tifffile.PHOTOMETRIC
WANTED = (
  "pairs as files side by side (input left, target right) in train/, val/ and test/, or as A/NAME (input) and B/NAME "
  f"(target) in A/train, B/train and so on, or either without split folders; files are {', '.join(SUFFIXES)}"
)


class Form(NamedTuple):
  """What all files of one side have in common."""

  channels: int
  dtype: str
  first: Path  # the file this was read from

  def __str__(self) -> str:
    return f"{self.dtype} of {self.channels} channel{'s' * (self.channels > 1)}"

  @property
  def feature(self) -> tfds.features.FeatureConnector:
    return (
      examples.metres(self.channels)
      if self.dtype == "float32"
      else examples.picture(self.channels, np.dtype(self.dtype))
    )


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """Made by `make_config`, which reads the form of both sides from the first pair."""

  source_dir: str = ""
  side_by_side: str = "input_target"
  seed: int = 0
  input: Form = Form(3, "uint8", Path())
  target: Form = Form(3, "uint8", Path())


def make_config(name: str, source_dir: str, side_by_side: str = "input_target", seed: int = 0) -> FolderConfig:
  """The config of the builder.

  Args:
    name: of the builder's config.
    source_dir: the folder of pairs.
    side_by_side: input_target or target_input: what is left and what is right.
    seed: decides the split, where there are no split folders.
  """
  splits, _ = find_splits(examples.source_folder(source_dir, "folder", WANTED), seed)
  pair = next(iter(splits.values()))[0]
  forms = [
    Form(array.shape[-1], str(array.dtype), path) for array, path in zip(read_pair(pair, side_by_side), pair.files)
  ]
  return FolderConfig(
    name=name, source_dir=source_dir, side_by_side=side_by_side, seed=seed, input=forms[0], target=forms[1]
  )


class Folder(tfds.core.GeneratorBasedBuilder):
  """A user's pairs as `{input, target, id}`, with `mask` where the target is depth."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    features = {"input": config.input.feature, "target": config.target.feature, "id": tfds.features.Text()}
    if config.target.dtype == "float32":
      features["mask"] = examples.validity()
    return tfds.core.DatasetInfo(
      builder=self, description=__doc__, disable_shuffling=True, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    config = self.builder_config
    splits, report = find_splits(examples.source_folder(config.source_dir, "folder", WANTED), config.seed)
    counts = ", ".join(f"{split} {len(members)}" for split, members in splits.items())
    print("\n".join([*report, f"Pairs: {counts}."]), flush=True)
    return {split: self._generate_examples(members) for split, members in splits.items()}

  def _generate_examples(self, members):
    config = self.builder_config
    for key, pair in examples.in_order(members):
      example = {"id": pair.id}
      arrays = read_pair(pair, config.side_by_side)
      for side, array, path, form in zip(("input", "target"), arrays, pair.files, (config.input, config.target)):
        of_file = Form(array.shape[-1], str(array.dtype), path)
        if of_file[:2] != form[:2]:
          raise UsageError(
            f"{path} is {of_file}, but {form.first} is {form}. All {side}s must agree: convert or remove "
            "one of the two."
          )
        example[side] = array if form.dtype == "float32" else examples.png(array)
      if config.target.dtype == "float32":
        example["mask"] = (arrays[1] > 0).all(-1, keepdims=True)
      yield key, example


class Pair(NamedTuple):
  """The files of a pair; `target` is None where `input` holds both, side by side."""

  input: Path
  target: Path | None

  @property
  def files(self) -> tuple[Path, Path]:
    return self.input, self.target or self.input

  @property
  def id(self) -> str:
    return self.input.stem


def raw_folders(source: Path) -> list[Path]:
  """The folders that the reader reads: a workdir or notes beside them are no reason to prepare anew."""
  return [folder for folder in (source / name for name in ("A", "B", *SPLITS)) if folder.is_dir()] or [source]


def find_splits(source: Path, seed: int = 0) -> tuple[dict[str, list[Pair]], list[str]]:
  """(the pairs of each split that is there, lines about files without a partner)."""
  report = []
  if (source / "A").is_dir() and (source / "B").is_dir():
    splits = {split: _match(source / "A" / split, source / "B" / split, report) for split in SPLITS}
    rest = lambda: _match(source / "A", source / "B", report)
  else:
    splits = {}
    for split in SPLITS:
      folder = source / split
      splits[split] = (
        _match(folder / "A", folder / "B", report)
        if (folder / "A").is_dir() and (folder / "B").is_dir()
        else [Pair(path, None) for path in _files(folder).values()]
      )
    rest = lambda: [Pair(path, None) for path in _files(source).values()]
  if not any(splits.values()):
    splits = _cut(rest(), seed)
  splits = {split: members for split, members in splits.items() if members}
  if not splits:
    raise UsageError(
      " ".join([f"data.source_dir {str(source)!r} holds no pairs.", *report, f"It should hold {WANTED}."])
    )
  return splits, report


def _files(folder: Path) -> dict[str, Path]:
  """The pictures right in a folder by stem, in numeric order; none where the folder is not there."""
  found = {}
  for path in images.numeric_order(folder.glob("*")):
    if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
      if path.stem in found:
        raise UsageError(
          f"{folder} holds both {found[path.stem].name} and {path.name}; names must differ before their ending. "
          "Remove or rename one."
        )
      found[path.stem] = path
  return found


def _match(inputs: Path, targets: Path, report: list[str]) -> list[Pair]:
  one, other = _files(inputs), _files(targets)
  for here, there, mine, theirs in ((one, other, inputs, targets), (other, one, targets, inputs)):
    lonely = [path.name for stem, path in here.items() if stem not in there]
    if lonely:
      report.append(
        f"{len(lonely)} of {len(here)} files in {mine} have no partner of the same name in {theirs}: "
        f"{examples.some(lonely, 10)}."
      )
  return [Pair(path, other[stem]) for stem, path in one.items() if stem in other]


def _cut(members: list[Pair], seed: int) -> dict[str, list[Pair]]:
  """A random tenth, at least one of two, is val."""
  count = max(1, round(len(members) / 10)) if len(members) > 1 else 0
  drawn = set(np.random.default_rng(seed).permutation(len(members))[:count].tolist())
  return {
    "train": [pair for i, pair in enumerate(members) if i not in drawn],
    "val": [members[i] for i in sorted(drawn)],
  }


def read_pair(pair: Pair, side_by_side: str = "input_target") -> tuple[np.ndarray, np.ndarray]:
  """(input, target), each (H, W, C) uint8, uint16, or float32 with holes 0."""
  if side_by_side not in ORDERS:
    raise UsageError(f"data.side_by_side is {side_by_side!r}; it is {' or '.join(ORDERS)}.")
  first = read_file(pair.input)
  if pair.target is not None:
    second = read_file(pair.target)
    (height, width), (other_height, other_width) = first.shape[:2], second.shape[:2]
    if abs(height * other_width - other_height * width) > max(
      height, other_height, width, other_width
    ):  # beyond rounding
      raise UsageError(
        f"{pair.input} is {width}×{height} but {pair.target} is {other_width}×{other_height} (width × height): "
        "pairs must show the same view, in the same proportions. Crop one of them."
      )
    return first, second
  if first.shape[1] % 2:
    raise UsageError(
      f"{pair.input} is {first.shape[1]} pixels wide; an input and a target side by side have an even width."
    )
  left, right = np.split(first, 2, axis=1)
  return (left, right) if side_by_side == "input_target" else (right, left)


def read_file(path: Path) -> np.ndarray:
  """(H, W, C) uint8, uint16, or float32 with holes 0."""
  readers = {".npy": _read_npy, ".tif": _read_tiff, ".tiff": _read_tiff}
  array = readers.get(path.suffix.lower(), _read_png_or_jpeg)(path)
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or not 1 <= array.shape[-1] <= 4 or not array.size:
    raise UsageError(
      f"{path} has the shape {array.shape}; it should be (height, width) or (height, width, 1 to 4 channels)."
    )
  if array.dtype.kind == "f":
    array = array.astype(np.float32)
    array = np.where(np.isfinite(array) & (array > 0), array, np.float32(0))
  elif array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
    raise UsageError(
      f"{path} holds {array.dtype}; convert it to uint8 or uint16 (pictures) or float32 (metres of depth)."
    )
  return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _read_npy(path: Path) -> np.ndarray:
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UsageError(
      f"{path} cannot be read as a numpy array ({error}). It may be damaged: replace it, or remove it."
    ) from error


def _read_png_or_jpeg(path: Path) -> np.ndarray:
  try:
    with path.open("rb") as file:
      head = file.read(25)
  except OSError as error:
    raise UsageError(f"{path} cannot be read ({error}).") from error
  if head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10":  # bits a channel
    images.read_image(path)  # Pillow names damage, but makes 8 bits of three channels of 16
    return tf.io.decode_png(path.read_bytes(), dtype=tf.uint16).numpy()
  return images.read_image(path, _plain)


def _plain(image: Image.Image) -> Image.Image:
  """Without palette, single bits or inks."""
  if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
    return image.convert("RGB")
  return image.convert("L") if image.mode == "1" else image


def _read_tiff(path: Path) -> np.ndarray:
  """tifffile reads every kind of number; Pillow the colour models and compressions that tifffile alone does not."""
  try:
    with tifffile.TiffFile(path) as file:
      pages = [page for page in file.pages if not page.is_reduced]
      if not pages:
        raise ValueError("it holds no picture")
      if len(pages) > 1:
        raise UsageError(f"{path} holds {len(pages)} pictures; save each as a file of its own.")
      page = pages[0]
      if page.bitspersample < 8 or page.bitspersample == 8 and page.photometric not in (TIFF.MINISBLACK, TIFF.RGB):
        return images.read_image(path, _plain)
      try:
        array = page.asarray()
      except (KeyError, ValueError, ImportError) as error:
        if "imagecodecs" not in str(error):
          raise
        if page.bitspersample > 8 and page.samplesperpixel > 1:
          raise UsageError(
            f"{path} is compressed in a way that needs the package imagecodecs: install that, or save the file "
            "uncompressed."
          ) from error
        return images.read_image(path, _plain)
      if page.axes.startswith("S"):  # one plane for each channel
        array = np.moveaxis(array, 0, -1)
      if page.photometric == TIFF.MINISWHITE and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
      return array
  except UsageError:
    raise
  except Exception as error:  # a damaged file may raise whatever the parser trips over
    raise UsageError(
      f"{path} cannot be read as a TIFF ({type(error).__name__}: {error}). It may be damaged: replace it, or remove it."
    ) from error
