"""The façades data set: label maps → photographs (Tyleček and Šára, "Spatial Pattern Templates for Recognition of
Objects with Regular Structure", GCPR 2013), in either of two raw layouts:

* the pix2pix archive: `train|val|test/N.jpg`, 512×256, photograph on the left (target), labels on the right (input);
  400, 100 and 106 pairs. It is downloaded from its server if no folder is given.
* CMP's own base set: `base/cmp_bNNNN.jpg` with `base/cmp_bNNNN.png`, an indexed label map 1..12; 378 pairs of
  varying size. It has no splits: numbers ending in 8 are `val`, in 9 `test`, the rest `train`.
"""

import dataclasses
import functools
from pathlib import Path
import re
from typing import Any
import urllib.request

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax import palettes
from pix2pix_jax.data import files
from pix2pix_jax.data.encoding import keep_files
from pix2pix_jax.data.readers import examples
from pix2pix_jax.data.synthesis.facades import LABEL_COLORS
from pix2pix_jax.errors import UsageError, few

URL = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/facades.tar.gz"
ARCHIVE_COUNTS = {"train": 400, "val": 100, "test": 106}


@dataclasses.dataclass(eq=False)
class FacadesConfig(examples.ReaderConfig):
  """An empty `source_dir` downloads the pix2pix archive.

  Attributes:
    kinds: kinds of input and target. `("classes", "image")` stores the labels as class indices, and `("image",
      "classes")` makes the photograph the input and the labels the target.
  """

  kinds: tuple[str, str] = ("image", "image")

  @property
  def is_reversed(self) -> bool:
    return self.kinds[1] == "classes"


class Facades(examples.Builder):
  """Façades as `{input: labels, target: photograph, id}`, or the other way round: uint8 (H, W, 3), class indices with
  one channel.
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    kinds = self.builder_config.kinds
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {
          **{side: examples.picture(1 if kind == "classes" else 3) for side, kind in zip(("input", "target"), kinds)},
          "id": tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    source = self.builder_config.source_dir
    splits = find_splits(Path(source) if source else download(dl_manager))
    return {split: self._generate_examples(split, paths) for split, paths in splits.items()}

  def _generate_examples(self, split: str, paths: list[Path]) -> Any:
    return self.generate(split, paths, functools.partial(_example, self.builder_config))


def _example(config: FacadesConfig, path: Path) -> dict[str, Any]:
  label, photo = read_cmp_pair(path) if path.stem.startswith("cmp_b") else read_archive_pair(path)
  if "classes" in config.kinds:
    label = palettes.match(label, palettes.CMP, f"The label map of {path}")[0]
  label_file = path.with_suffix(".png") if path.stem.startswith("cmp_b") else path
  of_label, of_photo = ("target", "input") if config.is_reversed else ("input", "target")
  files_of_sides = {of_label: label_file, of_photo: path}
  return {**keep_files({of_label: label, of_photo: photo}, files_of_sides), "id": path.stem}


def download(dl_manager: Any) -> Path:
  """The folder of the pix2pix archive, after download and a check of its counts.

  Raises:
    UsageError: the server cannot be reached, or the archive is not complete.
  """
  advice = (
    f"Download {URL} yourself (a mirror will do), unpack it, and give the folder that holds train/, val/ and test/ as "
    "--config.data.source_dir=DIR. Without any download, --config=facades:procedural trains on built-in "
    "façades."
  )
  try:
    with urllib.request.urlopen(URL, timeout=20):  # TFDS would keep retrying an unreachable server for minutes
      pass
    folder = Path(dl_manager.download_and_extract(URL)) / "facades"
  except Exception as error:  # the network, a proxy or the disk may raise anything
    raise UsageError(
      f"The façades archive could not be downloaded ({type(error).__name__}: {str(error)[:200]}). {advice}"
    ) from error
  counts = {split: len(list((folder / split).glob("*.jpg"))) for split in ARCHIVE_COUNTS}
  if counts != ARCHIVE_COUNTS:
    raise UsageError(f"The façades archive from {URL} holds {counts} images; {ARCHIVE_COUNTS} were expected. {advice}")
  return folder


def find_splits(source: Path) -> dict[str, list[Path]]:
  """The raw files of each split that exists, in natural order.

  Raises:
    UsageError: no façades, or photographs without label maps.
  """
  wanted = (
    f"train/, val/ or test/ with N.jpg of 512×256 (the pix2pix archive, {URL}), or base/cmp_bNNNN.jpg with .png "
    "(the CMP façade database, https://cmp.felk.cvut.cz/~tylecr1/facade/)"
  )
  if not source.is_dir():
    raise UsageError(
      f"data.source_dir {str(source)!r} is not a directory. For façades it should hold {wanted}; "
      "leave it empty to download the archive."
    )
  splits = {split: examples.images_in(source / split, (".jpg", ".jpeg")) for split in ARCHIVE_COUNTS}
  base = source / "base" if (source / "base").is_dir() else source
  if not any(splits.values()):
    photos = [path for path in examples.images_in(base, (".jpg",)) if re.fullmatch(r"cmp_b\d+", path.stem)]
    unmatched = [path.name for path in photos if not path.with_suffix(".png").exists()]
    if unmatched:
      raise UsageError(
        f"{base} lacks the label map (.png) of {len(unmatched)} photographs: {few(unmatched, 5)}. Restore or remove "
        "them."
      )
    splits = {split: [path for path in photos if _cmp_split(path) == split] for split in ARCHIVE_COUNTS}
  splits = {split: paths for split, paths in splits.items() if paths}
  if not splits:
    raise UsageError(f"data.source_dir {str(source)!r} holds no façades: looked for {wanted}.")
  return splits


def is_cmp_base(source: Path) -> bool:
  """Whether a folder of façades holds CMP's base set, whose label maps are files with palettes."""
  return not any((source / split).is_dir() for split in ARCHIVE_COUNTS)


def _cmp_split(path: Path) -> str:
  return {8: "val", 9: "test"}.get(int(path.stem.removeprefix("cmp_b")) % 10, "train")


def read_archive_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """(labels, photograph) of a side-by-side file, each uint8 (H, W, 3)."""
  both = examples.read_rgb(path)
  if both.shape[1] % 2:
    raise UsageError(
      f"{path} is {both.shape[1]} pixels wide; a photograph and its labels side by side have an even width."
    )
  middle = both.shape[1] // 2
  return both[:, middle:], both[:, :middle]


def read_cmp_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """(labels in the archive's colours, photograph), each uint8 (H, W, 3). Index 0, which occurs once, is background."""
  photo, labels = examples.read_rgb(path), files.read(path.with_suffix(".png"), colors=False)
  if labels.shape != (*photo.shape[:2], 1) or labels.max() > len(LABEL_COLORS):
    raise UsageError(
      f"{path.with_suffix('.png')} should be an indexed label map 0..{len(LABEL_COLORS)} of the size of its "
      "photograph, "
      f"{photo.shape[:2]}; it is {labels.shape} with values up to {labels.max()}."
    )
  palette = np.array(list(LABEL_COLORS.values()), np.uint8)
  return palette[np.maximum(labels[..., 0], 1) - 1], photo
