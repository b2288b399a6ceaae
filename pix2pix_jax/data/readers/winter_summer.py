"""Winter → summer, from webcams: the Transient Attributes set (Laffont et al., "Transient Attributes for High-Level
Understanding and Editing of Outdoor Scenes", SIGGRAPH 2014), 8,571 photographs of 101 cameras, each scored for 40
attributes.

Raw files: `annotations/annotations.tsv` (no header; `camera/file`, then 40 times `score,confidence`),
`annotations/attributes.txt` (the attributes' names in that order) and the photographs, `imageAlignedLD/camera/file`.

A photograph is winter if any of the winter attributes scores above the threshold, and summer likewise; one that is
both is skipped. Pairs are drawn at random within one camera, each photograph in at most one pair. Splits are by
camera (about 80, 10 and 10 % of them), so that no scene is in more than one split.
"""

import dataclasses
import difflib
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data import files
from pix2pix_jax.data.encoding import keep_files
from pix2pix_jax.data.readers import examples
from pix2pix_jax.errors import UsageError, few, reason

KINDS = ("image", "image")
WINTER, SUMMER, THRESHOLD = ("winter", "cold", "ice"), ("summer", "warm", "spring"), 0.8
WANTED = (
  "annotations/annotations.tsv, annotations/attributes.txt and imageAlignedLD/CAMERA/FILE, the Transient Attributes "
  "set. "
  "Get annotations.tar.gz and imageAlignedLD.tar.gz from http://transattr.cs.brown.edu and unpack both there. Without "
  "any download, --config=configs/winter_summer.py:procedural trains on built-in scenes"
)


@dataclasses.dataclass(eq=False)
class WinterSummerConfig(examples.ReaderConfig):
  """The fields determine which photographs are paired; see `pairs`."""

  seed: int = 0
  threshold: float = THRESHOLD
  winter: tuple[str, ...] = WINTER
  summer: tuple[str, ...] = SUMMER


class WinterSummer(examples.Builder):
  """Webcams as `{input: winter, target: summer, id}`, uint8 (H, W, 3)."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {"input": examples.picture(), "target": examples.picture(), "id": tfds.features.Text()}
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    config = self.builder_config
    source = examples.source_folder(config.source_dir, "winter_summer", WANTED)
    splits = find_splits(source, config.seed, config.threshold, config.winter, config.summer)
    return {
      split: self._generate_examples(source / "imageAlignedLD", split, members) for split, members in splits.items()
    }

  def _generate_examples(self, folder: Path, split: str, members: list["Pair"]) -> Any:
    return self.generate(split, members, functools.partial(_example, folder))


class Pair(NamedTuple):
  """Two photographs of one camera."""

  camera: str
  winter: str
  summer: str

  @property
  def id(self) -> str:
    return f"{self.camera}/{Path(self.winter).stem}_{Path(self.summer).stem}"


def _example(folder: Path, pair: Pair) -> dict[str, Any]:
  paths = {"input": folder / pair.camera / pair.winter, "target": folder / pair.camera / pair.summer}
  arrays = {name: examples.read_rgb(path) for name, path in paths.items()}
  return {**keep_files(arrays, paths), "id": pair.id}


def find_splits(
  source: Path,
  seed: int = 0,
  threshold: float = THRESHOLD,
  winter: tuple[str, ...] = WINTER,
  summer: tuple[str, ...] = SUMMER,
) -> dict[str, list[Pair]]:
  """The pairs of each split that exists, after a check that all photographs exist.

  Raises:
    UsageError: annotations or photographs are missing or damaged.
  """
  annotations = next(
    (folder for folder in (source / "annotations", source) if (folder / "annotations.tsv").is_file()), None
  )
  if annotations is None:
    raise UsageError(f"data.source_dir {str(source)!r} holds no annotations.tsv. It should hold {WANTED}.")
  found = pairs(annotations, seed, threshold, winter, summer)
  folder = source / "imageAlignedLD"
  names = [f"{pair.camera}/{name}" for pair in found for name in (pair.winter, pair.summer)]
  missing = [name for name in names if not (folder / name).is_file()]
  if missing:
    what = "none" if len(missing) == len(names) else f"only {len(names) - len(missing)}"
    raise UsageError(
      f"{folder} holds {what} of the {len(names)} photographs that form the pairs; {len(missing)} are missing: "
      f"{few(missing, 5)}. data.source_dir should hold {WANTED}."
    )
  return split_by_camera(found, seed)


def pairs(
  annotations: Path,
  seed: int = 0,
  threshold: float = THRESHOLD,
  winter: tuple[str, ...] = WINTER,
  summer: tuple[str, ...] = SUMMER,
) -> list[Pair]:
  """Random pairs within each camera, sorted; as many per camera as its rarer season has photographs.

  Args:
    annotations: the folder of annotations.tsv and attributes.txt; no photograph is read.
    seed: determines which photographs are paired.
    threshold: a photograph is winter if any of `winter` scores above it, in [0, 1].
    winter, summer: names of attributes.
  """
  attributes = _read(annotations / "attributes.txt").split()
  columns = [[_column(name, attributes, annotations) for name in names] for names in (winter, summer)]
  cameras: dict[str, tuple[list[str], list[str]]] = {}
  for number, line in enumerate(_read(annotations / "annotations.tsv").splitlines(), 1):
    if not line.strip():
      continue
    path, *cells = line.rstrip("\t").split("\t")
    camera, _, name = path.strip().partition("/")
    try:
      scores = np.array([float(cell.split(",")[0]) for cell in cells])
    except ValueError:
      scores = np.array([])
    if not name or len(scores) != len(attributes):
      raise UsageError(
        f"{annotations / 'annotations.tsv'}, line {number}, should be CAMERA/FILE and {len(attributes)} times "
        f"SCORE,CONFIDENCE, separated by tabs; it begins {line[:60]!r}. Get the file again."
      )
    if not camera or ".." in Path(name).parts or camera == ".." or Path(name).is_absolute() or "\\" in path:
      raise UsageError(
        f"{annotations / 'annotations.tsv'}, line {number}, names {path[:60]!r}, a photograph outside imageAlignedLD. "
        "Get the file again."
      )
    is_winter, is_summer = ((scores[of_season] > threshold).any() for of_season in columns)
    if is_winter != is_summer:
      cameras.setdefault(camera, ([], []))[int(is_summer)].append(name)
  generator = np.random.default_rng(seed)
  found = []
  for camera in sorted(cameras):
    chosen = [
      [names[i] for i in generator.permutation(len(names))] for names in map(files.natural_order, cameras[camera])
    ]
    found += [Pair(camera, str(one), str(other)) for one, other in zip(*chosen)]  # the longer list is truncated
  if not found:
    raise UsageError(
      f"{annotations} gives no pair of winter (any of {', '.join(winter)} above {threshold}) and summer (any of "
      f"{', '.join(summer)}). Lower data.attribute_threshold, or choose other attributes."
    )
  return sorted(found)


def split_by_camera(found: list[Pair], seed: int) -> dict[str, list[Pair]]:
  """All pairs of a camera in one split; the cameras are assigned at random."""
  cameras = sorted({pair.camera for pair in found})
  drawn = [cameras[i] for i in np.random.default_rng([seed, 1]).permutation(len(cameras))]
  splits = {
    split: [pair for pair in found if pair.camera in set(members)]
    for split, members in examples.held_out(drawn).items()
  }
  return {split: members for split, members in splits.items() if members}


def _column(name: str, attributes: list[str], annotations: Path) -> int:
  if name not in attributes:
    near = difflib.get_close_matches(name, attributes, n=3)
    raise UsageError(
      f"{annotations / 'attributes.txt'} has no attribute {name!r}; "
      + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(attributes)}.")
    )
  return attributes.index(name)


def _read(path: Path) -> str:
  try:
    files.check_regular(path)
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UsageError(f"{path} cannot be read ({reason(error)}). data.source_dir should hold {WANTED}.") from error
