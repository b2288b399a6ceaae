"""A user's own pairs, in a folder of one of these layouts, in this order of preference:

* `A/` (inputs) and `B/` (targets), matched by name: `A/cam1/7.png` with `B/cam1/7.npy`. Splits are `A/train`, `B/train`
  and so on, or there are none.
* `trainA/` and `trainB/`, `valA/` and so on.
* `train/`, `val/`, `test/`, each with `A/` and `B/`, or with side-by-side files: the left half is the input and the
  right half the target, or the other way round (`data.side_by_side`).
* side-by-side files directly in the folder.

Names of splits and sides may be in any case; `valid` and `validation` mean `val`. The folders of a split are read
recursively, following links. A pair's id is the path below them, without its suffix. Inputs and targets are matched by
their ids after Unicode normalisation; remaining files are matched ignoring case and a final `_A` or `_B`.

Without split folders, each pair belongs to `val` with a probability of 10 %, else to `train`. That depends only on its
id and the seed, so adding or removing pairs does not move others.

Two files whose names differ only in their suffix, a.png and a.jpg, have the ids a_png and a_jpg, and partners with the
same suffix.

Every format that `data/files.py` reads is accepted, with any number of channels. `data.input_kind` and
`data.target_kind` declare what the numbers mean (`pix2pix_jax/signals.py`). All inputs must agree in channels and
number type, and so must all targets, unless `model.input_channels` or `model.output_channels` asks for a number of
channels: images are then converted to it.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
from pathlib import Path
import re
from typing import Any, NamedTuple
import unicodedata

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax import palettes, signals
from pix2pix_jax.data import files
from pix2pix_jax.data.readers import examples
from pix2pix_jax.data.readers.negatives import Negatives
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.signals import Signal

SPLITS = ("train", "val", "test")
ORDERS = ("input_target", "target_input")
WANTED = (
  "pairs as A/NAME (input) and B/NAME (target) in A/train, B/train and so on, or as files side by side (input left, "
  f"target right) in train/, val/ and test/, or either without split folders; files are {', '.join(files.SUFFIXES)}"
)
WHOLE = "whole"  # the split of all pairs, where there are no split folders and `whole` is set
VAL_SHARE = 0.1
UNDECLARED = signals.Settings()
MAX_LABELS = 64  # a palette image with more colours is a photograph or a drawing
MAX_PROBLEMS = 100  # preparation stops after this many files that cannot be used

_SPLIT_NAMES = {
  "train": "train",
  "training": "train",
  "val": "val",
  "valid": "val",
  "validation": "val",
  "test": "test",
  "testing": "test",
}
# Folders of single images; two of them in a split folder are no side-by-side files.
_OTHER_SIDES = re.compile(r"(input|target|source|image|label|mask|photo|depth|gt|rgb)s?", re.IGNORECASE)
_SPLIT_AND_SIDE = re.compile(rf"({'|'.join(_SPLIT_NAMES)})[ _-]?([ab])", re.IGNORECASE)


class Side(NamedTuple):
  """The properties that all files of one side share.

  Attributes:
    settings: what the config declares, with the resolved kind.
    asked: kind in the config, which may be `auto`.
    convert_to: number of channels to which images are converted; 0: they stay as they are.
    channels: number of channels as stored.
    dtype: number type as stored.
    raw_dtype: number type in the files.
    first: the file from which these were read.
    label_map: whether that file has a palette of which it uses few colours.
  """

  settings: signals.Settings = signals.Settings("image")
  asked: str = "auto"
  convert_to: int = 0
  channels: int = 3
  dtype: str = "uint8"
  raw_dtype: str = "uint8"
  first: Path = Path()
  label_map: bool = False

  @property
  def kind(self) -> str:
    return self.settings.kind

  @property
  def reads_colors(self) -> bool:
    """Whether files with palettes are read as colours, not as indices."""
    return self.kind != "classes" or bool(self.settings.palette)

  @property
  def signal(self) -> Signal:
    return self.settings.make(self.channels, self.raw_dtype if self.kind == "quantity" else self.dtype)

  @property
  def feature(self) -> tfds.features.FeatureConnector:
    if self.kind in ("depth", "quantity"):
      return examples.real_numbers(self.channels)
    return examples.picture(self.channels, np.dtype(self.dtype))


@dataclasses.dataclass(eq=False)
class FolderConfig(examples.ReaderConfig):
  """Made by `make_config`, which reads the kind and form of both sides from the first pair."""

  side_by_side: str = "input_target"
  seed: int = 0
  whole: bool = False
  input: Side = Side()
  target: Side = Side()


def make_config(
  name: str,
  source_dir: str,
  *,
  side_by_side: str = "input_target",
  seed: int = 0,
  input_settings: signals.Settings = UNDECLARED,
  target_settings: signals.Settings = UNDECLARED,
  channels: tuple[int, int] = (0, 0),
  whole: bool = False,
) -> FolderConfig:
  """Makes the builder's config.

  Args:
    name: name of the config; it is extended if `channels` or `whole` change the stored data.
    source_dir: the folder of pairs.
    side_by_side: order of the halves, left first: `input_target` or `target_input`.
    seed: seed of the split if there are no split folders.
    input_settings, target_settings: what the config declares about both sides.
    channels: numbers of channels to which images of input and target are converted; 0: as in the files, which must
      then agree.
    whole: whether all pairs form one split, `whole`, if there are no split folders.

  Raises:
    UsageError: no pairs, or a first pair that cannot be used.
  """
  splits, _ = find_splits(examples.source_folder(source_dir, "folder", WANTED), seed, whole=whole)
  pair, arrays = _first_readable([pair for members in splits.values() for pair in members], side_by_side)
  asked = {"input": (input_settings, channels[0]), "target": (target_settings, channels[1])}
  sides = {}
  for (side, (settings, convert_to)), array, path in zip(asked.items(), arrays, pair.files):
    kind = signals.choose_kind(settings.kind, array.dtype, f"data.{side}_kind", str(path))
    if kind == "classes" and array.shape[-1] > 1 and not settings.palette:
      array = files.read(path, colors=False)
    settings = dataclasses.replace(settings, kind=kind)
    unchecked = Side(settings, asked[side][0].kind, convert_to, raw_dtype=str(array.dtype), first=path)
    stored = _stored(array, unchecked, side, path)
    if len(stored.shape) == 3 and stored.shape[-1] > 16 >= stored.shape[0]:
      raise UsageError(
        f"{path} has the shape {stored.shape}: {stored.shape[-1]} channels. If the channels are its first axis, save "
        "it as (height, width, channels)."
      )
    sides[side] = unchecked._replace(
      channels=stored.shape[-1], dtype=str(stored.dtype), label_map=_is_label_map(path, array)
    )
    if stored.shape[-1] != array.shape[-1]:
      name += f"_{side}_of_{stored.shape[-1]}"
  if WHOLE in splits:
    name += f"_{WHOLE}"
  return FolderConfig(
    name=name,
    source_dir=source_dir,
    side_by_side=side_by_side,
    seed=seed,
    whole=whole,
    input=sides["input"],
    target=sides["target"],
    label_maps=(sides["input"].label_map, sides["target"].label_map),
    raw_dtypes=(sides["input"].raw_dtype, sides["target"].raw_dtype),
  )


def _is_label_map(path: Path, colors: np.ndarray) -> bool:
  """Whether a file, whose colours were read, has a palette and uses few of its entries; photographs use most."""
  if colors.shape[-1] == 1:
    return False
  indices = files.read(path, colors=False)
  return indices.shape[-1] == 1 and np.unique(indices).size <= MAX_LABELS


def _first_readable(pairs: list["Pair"], side_by_side: str) -> tuple["Pair", tuple[np.ndarray, np.ndarray]]:
  """A damaged pair among the first is no reason to name it alone: preparation lists all."""
  errors = []
  for pair in pairs[:MAX_PROBLEMS]:
    try:
      return pair, read_pair(pair, side_by_side)
    except UsageError as error:
      errors.append(error)
  raise errors[0]


def _stored(array: np.ndarray, side: Side, name: str, path: Path) -> np.ndarray:
  """A file's array as data sets store it; `name` is input or target."""
  signals.choose_kind(side.asked, array.dtype, f"data.{name}_kind", str(path))
  signal = side.settings.make(array.shape[-1], array.dtype)
  accepted = signal.accept(array, str(path))
  if side.convert_to and signal.kind == "image":
    accepted = files.with_channels(accepted, side.convert_to, str(path))
  return signal.store(accepted)


class Folder(tfds.core.GeneratorBasedBuilder):
  """A user's pairs as `{input, target, id}`, with `mask` where the target has holes.

  Attributes:
    notes: lines for the user about the content of the files, complete after preparation.
  """

  VERSION = tfds.core.Version("1.0.0")
  notes: list[str] = []

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    features = {"input": config.input.feature, "target": config.target.feature, "id": tfds.features.Text()}
    if config.target.kind == "depth":
      features["mask"] = examples.validity()
    return tfds.core.DatasetInfo(
      builder=self, description=__doc__, disable_shuffling=True, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    config = self.builder_config
    splits, _ = find_splits(examples.source_folder(config.source_dir, "folder", WANTED), config.seed, config.whole)
    findings, last = Findings(config), list(splits)[-1]
    self.notes = findings.notes
    return {
      split: self._generate_examples(split, members, findings, is_last=split == last)
      for split, members in splits.items()
    }

  def _generate_examples(self, split: str, members: list["Pair"], findings: "Findings", is_last: bool) -> Iterator:
    config = self.builder_config
    usable = 0
    for key, pair in examples.in_order(members, split, config):
      try:
        arrays = read_pair(pair, config.side_by_side, (config.input.reads_colors, config.target.reads_colors))
      except UsageError as error:
        findings.add_unusable(error)
        continue
      example: dict[str, Any] = {"id": pair.id}
      for name, array, path in zip(("input", "target"), arrays, pair.files):
        side: Side = getattr(config, name)
        try:
          stored = _stored(array, side, name, path)
        except UsageError as error:
          findings.add_unusable(error)
          continue
        if (stored.shape[-1], str(stored.dtype)) != (side.channels, side.dtype):
          findings.add_different(name, path, stored)
          continue
        findings.add_read(name, path, array)
        example[name] = stored if side.kind in ("depth", "quantity") else examples.png(stored)
      if len(example) == 3:
        if config.target.kind == "depth":
          example["mask"] = (example["target"] > 0).all(-1, keepdims=True)
        usable += 1
        yield key, example
    if is_last or not usable:
      findings.raise_all()
    if is_last:
      findings.finish()


class Findings:
  """Collects findings while files are read, so that one message lists all files that cannot be used.

  Attributes:
    notes: lines for the user, complete after `finish`.
  """

  def __init__(self, config: FolderConfig):
    self._config = config
    self._unusable: list[str] = []
    self._different: dict[str, list[str]] = {"input": [], "target": []}
    self._channels: dict[str, set[int]] = {"input": set(), "target": set()}
    self._converted: dict[str, list[Path]] = {"input": [], "target": []}
    self._negatives = {"input": Negatives(), "target": Negatives()}
    self._distances: dict[str, list[float]] = {"input": [], "target": []}  # of label colours from the palette
    self.notes: list[str] = []

  def add_read(self, name: str, path: Path, array: np.ndarray) -> None:
    """A file of the side `name` that is used, as it was read."""
    side: Side = getattr(self._config, name)
    if side.kind == "image" and array.shape[-1] != side.channels:
      self._converted[name].append(path)
    if side.kind == "classes" and array.shape[-1] >= 3 and len(self._distances[name]) < MAX_PROBLEMS:
      self._distances[name].append(palettes.match(array[..., :3], side.settings.palette, str(path))[1])
    if side.kind == "depth":
      self._negatives[name].add(array)

  def finish(self) -> None:
    """Completes `notes`.

    Raises:
      UsageError: depth most of which is negative.
    """
    for name, side_name in (("input", "inputs"), ("target", "targets")):
      side: Side = getattr(self._config, name)
      if paths := self._converted[name]:
        self.notes.append(
          f"{len(paths)} {side_name if len(paths) > 1 else name} converted to {side.channels} "
          f"channel{'s' * (side.channels != 1)}: {few(path.name for path in paths)}."
        )
      if distances := self._distances[name]:
        self.notes.append(
          f"The colours of the {name}'s labels lie {np.mean(distances):.1f} grey levels from the palette's on average, "
          f"at most {max(distances):.1f} in one image; each pixel belongs to the nearest."
        )
      self._negatives[name].check(f"The {name} of {self._config.source_dir}", f"data.{name}_kind")
      if note := self._negatives[name].note(f"the {name}"):
        self.notes.append(note)

  def add_unusable(self, error: UsageError) -> None:
    self._unusable.append(str(error))
    self._stop_at_many()

  def add_different(self, name: str, path: Path, array: np.ndarray) -> None:
    """A file of the side `name` whose form is not that of the first."""
    self._different[name].append(f"{path} is {_form(array.shape[-1], array.dtype)}")
    side: Side = getattr(self._config, name)
    self._channels[name].add(array.shape[-1] if side.kind == "image" and str(array.dtype) == side.dtype else 0)
    self._stop_at_many()

  def _stop_at_many(self) -> None:
    if len(self._unusable) + sum(map(len, self._different.values())) >= MAX_PROBLEMS:
      self.raise_all()

  def raise_all(self) -> None:
    """Raises one UsageError about all problems, if there are any."""
    parts = []
    for name, found in self._different.items():
      side: Side = getattr(self._config, name)
      if found:
        parts.append(
          f"{few(found, 10)}, but {side.first} is {_form(side.channels, side.dtype)}. All {name}s must agree: convert "
          f"or remove {'it' if len(found) == 1 else f'these {len(found)} files'}.{self._conversion(name)}"
        )
    if len(self._unusable) > 1:
      parts.append(f"{len(self._unusable)} files cannot be used.")
    parts += self._unusable[:10]
    if len(self._unusable) > 10:
      parts.append(f"And {len(self._unusable) - 10} more.")
    if parts:
      raise UsageError("\n".join(parts))

  def _conversion(self, name: str) -> str:
    """A sentence about the setting that would convert a side's channels, if that solves the problem."""
    side: Side = getattr(self._config, name)
    channels = {side.channels, *self._channels[name]}
    if not channels <= {1, 2, 3, 4}:
      return ""
    field = {"input": "model.input_channels", "target": "model.output_channels"}[name]
    flag = f"--config.{field}={3 if max(channels) > 2 else 1}"
    return f" Or set {flag} to have them converted (grey to RGB, alpha over white)."


def _form(channels: int, dtype: Any) -> str:
  return f"{dtype} of {channels} channel{'s' * (channels != 1)}"


class Pair(NamedTuple):
  """The files of a pair; `target` is None where `input` holds both, side by side.

  Attributes:
    id: the path below the folder of the split, with slashes and without the suffix.
  """

  id: str
  input: Path
  target: Path | None = None

  @property
  def files(self) -> tuple[Path, Path]:
    return self.input, self.target or self.input


# --- Finding pairs


class Layout(NamedTuple):
  """Folders of the pairs by split, "" where there are no splits: (inputs, targets), or (side-by-side files, None)."""

  folders: dict[str, tuple[Path, Path | None]]
  recursive: bool = True


def find_splits(source: Path, seed: int = 0, whole: bool = False) -> tuple[dict[str, list[Pair]], list[str]]:
  """Returns the pairs of each split that exists, and lines about files and folders that were left out.

  Args:
    source: the folder of pairs.
    seed: seed of the split if there are no split folders.
    whole: whether all pairs form one split, `whole`, if there are no split folders.

  Raises:
    UsageError: no pairs, or an ambiguous layout.
  """
  layout = _layout(source)
  notes: list[str] = []
  splits: dict[str, list[Pair]] = {}
  for split, (inputs, targets) in layout.folders.items():
    found = _files(inputs, layout.recursive, notes)
    if targets is None:
      splits[split] = [Pair(name, path) for name, path in found.images.items()]
    else:
      splits[split] = _match(found, _files(targets, True, notes), notes)
  if "" in splits:
    splits = {WHOLE: splits[""]} if whole else _cut(splits[""], seed)
  splits = {split: splits[split] for split in (*SPLITS, WHOLE) if splits.get(split)}
  if not splits:
    others = [path.name for path in _subfolders(source) if path not in _read_folders(layout)]
    hint = (
      f" Its folders {few(others, 10)} lack a partner, or are named neither like splits nor A and B." if others else ""
    )
    raise UsageError(
      " ".join([f"data.source_dir {str(source)!r} holds no pairs.{hint}", *notes, f"It should hold {WANTED}."])
    )
  return splits, notes + _unread(source, layout)


def report(source: Path, seed: int = 0, whole: bool = False) -> list[str]:
  """Lines for the user: what was left out, and the number of pairs in each split."""
  splits, notes = find_splits(source, seed, whole)
  return [*notes, f"Pairs: {', '.join(f'{split} {len(members)}' for split, members in splits.items())}."]


def raw_folders(source: Path) -> list[Path]:
  """The folders that the reader reads. Changes beside them, such as in a workdir, do not cause another preparation."""
  return _read_folders(_layout(source))


def _read_folders(layout: Layout) -> list[Path]:
  return [folder for pair in layout.folders.values() for folder in pair if folder is not None]


def _subfolders(folder: Path) -> list[Path]:
  try:
    return files.natural_order(path for path in folder.iterdir() if path.is_dir() and not files.is_junk(path.name))
  except OSError as error:
    raise UsageError(f"{folder} cannot be read ({error.strerror or error}). Check the path.") from error


def _named(folder: Path, meaning: dict[str, str]) -> dict[str, Path]:
  """The subfolders whose lower-case names have a meaning, by that meaning.

  Raises:
    UsageError: two of them mean the same.
  """
  found: dict[str, Path] = {}
  for path in _subfolders(folder):
    if (key := meaning.get(path.name.lower())) is None:
      continue
    if key in found:
      raise UsageError(f"{folder} holds both {found[key].name} and {path.name}, which mean the same. Remove one.")
    found[key] = path
  return found


def _sides(folder: Path) -> tuple[Path, Path] | None:
  """The folders A and B, if both are there."""
  found = _named(folder, {"a": "A", "b": "B"})
  return (found["A"], found["B"]) if len(found) == 2 else None


def _within(split: Path) -> tuple[Path, Path | None]:
  """The folders of a split: A and B in it, or itself for side-by-side files.

  Raises:
    UsageError: it holds folders that look like sides under other names.
  """
  if sides := _sides(split):
    return sides
  names = [path.name for path in _subfolders(split)]
  if {name.lower() for name in names} & {"a", "b"} or sum(bool(_OTHER_SIDES.fullmatch(name)) for name in names) > 1:
    raise UsageError(
      f"{split} holds the folders {few(names, 10)}. For inputs and targets in folders of their own, name them A "
      "(inputs) and B (targets); side-by-side files lie in folders of other names."
    )
  return split, None


def _layout(source: Path) -> Layout:
  if sides := _sides(source):
    inputs, targets = (_named(side, _SPLIT_NAMES) for side in sides)
    both: dict[str, tuple[Path, Path | None]] = {
      split: (inputs[split], targets[split]) for split in SPLITS if split in inputs and split in targets
    }
    return Layout(both or {"": sides})
  joined: dict[tuple[str, str], Path] = {}
  for path in _subfolders(source):
    if parts := _SPLIT_AND_SIDE.fullmatch(path.name):
      key = (_SPLIT_NAMES[parts[1].lower()], parts[2].upper())
      if key in joined:
        raise UsageError(f"{source} holds both {joined[key].name} and {path.name}, which mean the same. Remove one.")
      joined[key] = path
  if any((split, "A") in joined and (split, "B") in joined for split in SPLITS):
    return Layout(
      {
        split: (joined[split, "A"], joined[split, "B"])
        for split in SPLITS
        if {(split, "A"), (split, "B")} <= set(joined)
      }
    )
  splits = _named(source, _SPLIT_NAMES)
  if splits:
    return Layout({split: _within(splits[split]) for split in SPLITS if split in splits})
  return Layout({"": (source, None)}, recursive=False)


def _unread(source: Path, layout: Layout) -> list[str]:
  """A line about images beside the folders that are read, because users may expect them to be used."""
  read = _read_folders(layout)
  if source in read:  # side-by-side files directly in the source
    beside = _subfolders(source)
  else:
    places = dict.fromkeys(place for folder in read for place in folder.parents if place.is_relative_to(source))
    beside = [path for place in places for path in _entries(place) if path not in read and path not in places]
  ignored = [path for path in beside if path.is_file() or files.find(path)[0]]
  names = [f"{path.relative_to(source).as_posix()}{'/' * path.is_dir()}" for path in ignored]
  return [f"Not used, because of the folders that are: {few(names, 10)}."] if names else []


def _entries(folder: Path) -> list[Path]:
  """The subfolders of a folder, and the images directly in it."""
  direct = (path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in files.SUFFIXES)
  return [*_subfolders(folder), *files.natural_order(path for path in direct if not files.is_junk(path.name))]


class Found(NamedTuple):
  """The images of a folder by id, in natural order, and by what would be their ids the files that cannot be read."""

  folder: Path
  images: dict[str, Path]
  left_out: dict[str, Path]

  def relative(self, path: Path) -> str:
    return path.relative_to(self.folder).as_posix()


def _files(folder: Path, recursive: bool, notes: list[str]) -> Found:
  """The files of a folder; those that are left out are noted."""
  paths, left_out = files.find(folder)
  if not recursive:
    paths, left_out = ([path for path in found if path.parent == folder] for found in (paths, left_out))
  found = Found(folder, {}, {_name(path, folder): path for path in left_out})
  reasons: dict[str, list[str]] = {}
  for path in left_out:
    known = path.suffix.lower() in files.SUFFIXES
    reason = "that cannot be opened (broken links?)" if known else "of unknown formats"
    reasons.setdefault(reason, []).append(found.relative(path))
  for reason, names in reasons.items():
    notes.append(f"Left out of {folder}: {len(names)} file{'s' * (len(names) > 1)} {reason}: {few(names, 10)}.")
  by_name: dict[str, list[Path]] = {}
  for path in paths:
    by_name.setdefault(_name(path, folder), []).append(path)
  for name, same in by_name.items():
    for path in same:
      found.images[name if len(same) == 1 else f"{name}_{path.suffix[1:]}"] = path
  return found


def _name(path: Path, folder: Path) -> str:
  """The path below a folder, with slashes and without the suffix, in one Unicode form."""
  name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
  return name.encode("utf-8", "backslashreplace").decode()  # names that are no Unicode


def _match(inputs: Found, targets: Found, notes: list[str]) -> list[Pair]:
  """Pairs in the order of the inputs; files without a partner are noted."""
  partner = {name: name for name in inputs.images if name in targets.images}
  by_file = {_name(path, targets.folder) + path.suffix: name for name, path in targets.images.items()}
  for name, path in inputs.images.items():  # 1.png and 1.jpg are 1_png and 1_jpg, but 1.png alone is 1
    if name not in partner and (other := by_file.get(_name(path, inputs.folder) + path.suffix)):
      partner[name] = other
  taken = set(partner.values())
  rest = (
    [name for name in inputs.images if name not in partner],
    [name for name in targets.images if name not in taken],
  )
  loose = [_by_loose_name(names, side) for names, side in zip(rest, "ab")]
  partner |= {name: loose[1][key] for key, name in loose[0].items() if key in loose[1]}
  taken = set(partner.values())
  for mine, theirs, used in ((inputs, targets, set(partner)), (targets, inputs, taken)):
    unmatched = {name: path for name, path in mine.images.items() if name not in used}
    unreadable = [
      f"{mine.relative(path)} ({theirs.relative(theirs.left_out[name])})"
      for name, path in unmatched.items()
      if name in theirs.left_out
    ]
    if unreadable:
      notes.append(
        f"{len(unreadable)} of {len(mine.images)} files in {mine.folder} have a partner in {theirs.folder} that "
        f"cannot be read: {few(unreadable, 10)}."
      )
    alone = [mine.relative(path) for name, path in unmatched.items() if name not in theirs.left_out]
    if alone:
      notes.append(
        f"{len(alone)} of {len(mine.images)} files in {mine.folder} have no partner of the same name in "
        f"{theirs.folder}: {few(alone, 10)}."
      )
  return [Pair(name, path, targets.images[partner[name]]) for name, path in inputs.images.items() if name in partner]


def _by_loose_name(names: list[str], side: str) -> dict[str, str]:
  """Names by what is left of them without case and without a final _A or _B; only where that is unique."""
  found: dict[str, list[str]] = {}
  for name in names:
    found.setdefault(re.sub(rf"[ _-]{side}$", "", name.casefold()), []).append(name)
  return {key: members[0] for key, members in found.items() if len(members) == 1}


def _cut(members: list[Pair], seed: int) -> dict[str, list[Pair]]:
  """Divides pairs into train and val by a hash of seed and id. From two pairs on, each split gets at least one."""

  def place(pair: Pair) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{pair.id}".encode()).digest()[:8], "big") / 2**64

  ordered = sorted(members, key=place)
  count = sum(place(pair) < VAL_SHARE for pair in members)
  count = min(max(count, 1), len(members) - 1)
  val = set(ordered[: max(count, 0)])
  return {
    "train": [pair for pair in members if pair not in val],
    "val": [pair for pair in members if pair in val],
  }


# --- Reading pairs


def read_pair(
  pair: Pair, side_by_side: str = "input_target", colors: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray, np.ndarray]:
  """(input, target), each (H, W, C) with the numbers of its file; `colors` as in `files.read`, for each side.

  Raises:
    UsageError: a file that cannot be read, an odd width, or sizes that do not show the same view.
  """
  if side_by_side not in ORDERS:
    raise UsageError(f"data.side_by_side is {side_by_side!r}; it is {' or '.join(ORDERS)}.")
  first = files.read(pair.input, colors=colors[0] or (pair.target is None and colors[1]))
  if pair.target is not None:
    second = files.read(pair.target, colors=colors[1])
    (height, width), (other_height, other_width) = first.shape[:2], second.shape[:2]
    largest = max(height, other_height, width, other_width)
    if abs(height * other_width - other_height * width) > largest:  # more than rounding
      raise UsageError(
        f"{pair.input} is {width}×{height} but {pair.target} is {other_width}×{other_height} (width × height). The "
        "files of a pair must show the same view, in the same proportions: crop one of them."
      )
    return first, second
  if first.shape[1] % 2:
    raise UsageError(
      f"{pair.input} is {first.shape[1]} pixels wide; an input and a target side by side have an even width. "
      "Crop it, or put inputs and targets into folders A and B."
    )
  left, right = np.split(first, 2, axis=1)
  return (left, right) if side_by_side == "input_target" else (right, left)
