"""Finding and reading the pairs of a user's folder, in one of these layouts, in this order of preference:

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

A file that holds several images, a volume or a stack, gives one pair for each slice, with ids such as `patient7/0042`;
its partner has as many slices. Slices lie along `data.slice_axis`, all slices of a file belong to the same split, and
those without a single value are left out. In archives (.npz, HDF5), `data.input_key` and `data.target_key` name the
arrays; with both, an archive holds the input and the target of a pair, and lies where side-by-side files would.
"""

from collections.abc import Sequence
import functools
import hashlib
from pathlib import Path
import re
from typing import NamedTuple
import unicodedata

import numpy as np

from pix2pix_jax import output
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError, few

SPLITS = ("train", "val", "test")
ORDERS = ("input_target", "target_input")
WANTED = (
  "pairs as A/NAME (input) and B/NAME (target) in A/train, B/train and so on, or as files side by side (input left, "
  f"target right) in train/, val/ and test/, or either without split folders; files are {', '.join(files.SUFFIXES)}"
)
WHOLE = "whole"  # the split of all pairs, where there are no split folders and `whole` is set
VAL_SHARE = 0.1

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


class Reading(NamedTuple):
  """How the files of pairs are read.

  Attributes:
    side_by_side: order of the halves of side-by-side files, left first: `input_target` or `target_input`.
    keys: names of the arrays of input and target in archives; "": their only array.
    axis: axis along which the slices of volumes lie, as in `files.read`; None: its default.
    colors: whether palettes of input and target become colours, as in `files.read`.
  """

  side_by_side: str = "input_target"
  keys: tuple[str, str] = ("", "")
  axis: int | None = None
  colors: tuple[bool, bool] = (True, True)


PLAIN = Reading()


class Pair(NamedTuple):
  """The files of a pair; `target` is None where `input` holds both, side by side.

  Attributes:
    id: the path below the folder of the split, with slashes and without the suffix; of a slice, its number follows.
    slice: index of the slice in files that hold several images; None for ordinary images.
  """

  id: str
  input: Path
  target: Path | None = None
  slice: int | None = None

  @property
  def files(self) -> tuple[Path, Path]:
    return self.input, self.target or self.input

  @property
  def paths(self) -> dict[str, Path]:
    """The same files by the names of the arrays."""
    return dict(zip(("input", "target"), self.files))


# --- Finding pairs


class Layout(NamedTuple):
  """Folders of the pairs by split, "" where there are no splits: (inputs, targets), or (side-by-side files, None)."""

  folders: dict[str, tuple[Path, Path | None]]
  recursive: bool = True


def find_splits(
  source: Path, seed: int = 0, whole: bool = False, reading: Reading = PLAIN
) -> tuple[dict[str, list[Pair]], list[str]]:
  """Returns the pairs of each split that exists, and lines about files and folders that were left out.

  Args:
    source: the folder of pairs.
    seed: seed of the split if there are no split folders.
    whole: whether all pairs form one split, `whole`, if there are no split folders.
    reading: how volumes are cut into slices.

  Raises:
    UsageError: no pairs, an ambiguous layout, or files whose slices do not match.
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
  slices = {split: _slices(members, reading) for split, members in splits.items()}
  if (files_of := sum(map(len, splits.values()))) != (count := sum(map(len, slices.values()))):
    notes.append(f"Volumes and stacks are cut into slices: {output.counted(files_of, 'pair')} of files give {count:,}.")
  return slices, notes + _unread(source, layout)


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
  return [f"Not used, because other folders hold the pairs: {few(names, 10)}."] if names else []


def _entries(folder: Path) -> list[Path]:
  """The subfolders of a folder, and the images directly in it."""
  direct = (path for path in folder.iterdir() if path.is_file() and files.is_known(path))
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
    known = files.is_known(path)
    reason = "that cannot be opened (broken links?)" if known else "of unknown formats"
    reasons.setdefault(reason, []).append(found.relative(path))
  for reason, names in reasons.items():
    notes.append(f"Left out of {folder}: {len(names)} file{'s' * (len(names) > 1)} {reason}: {few(names, 10)}.")
  by_name: dict[str, list[Path]] = {}
  for path in paths:
    by_name.setdefault(_name(path, folder), []).append(path)
  for name, same in by_name.items():
    for path in same:
      found.images[name if len(same) == 1 else f"{name}_{_suffix(path)[1:]}"] = path
  return found


def _name(path: Path, folder: Path) -> str:
  """The path below a folder, with slashes and without the suffix, in one Unicode form."""
  name = unicodedata.normalize("NFC", path.relative_to(folder).with_name(files.stem(path)).as_posix())
  return name.encode("utf-8", "backslashreplace").decode()  # names that are no Unicode


def _suffix(path: Path) -> str:
  """The suffix, as `files.suffix`, in the case of the name."""
  return path.name[len(files.stem(path)) :]


def _match(inputs: Found, targets: Found, notes: list[str]) -> list[Pair]:
  """Pairs in the order of the inputs; files without a partner are noted."""
  partner = {name: name for name in inputs.images if name in targets.images}
  by_file = {_name(path, targets.folder) + _suffix(path): name for name, path in targets.images.items()}
  for name, path in inputs.images.items():  # 1.png and 1.jpg are 1_png and 1_jpg, but 1.png alone is 1
    if name not in partner and (other := by_file.get(_name(path, inputs.folder) + _suffix(path))):
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


def _slices(members: Sequence[Pair], reading: Reading) -> list[Pair]:
  """Pairs of ordinary images as they are, and in place of those of volumes or stacks a pair for each slice.

  Raises:
    UsageError: files whose slices do not match; the message lists all of them.
  """
  found: list[Pair] = []
  problems: list[str] = []
  for pair in members:
    counts = []
    for path, key in zip(pair.files, reading.keys):
      try:
        counts.append(_count(path, path.stat().st_mtime_ns, reading.axis, _key_for(path, key)))
      except (UsageError, OSError):
        counts.append(None)  # preparation lists all files that cannot be read
    if counts[0] != counts[1]:
      one, other = (f"{path} is {_describe_count(count)}" for path, count in zip(pair.files, counts))
      problems.append(f"{one}, but {other}.")
    elif counts[0] is None:
      found.append(pair)
    elif counts[0] == 1:
      found.append(pair._replace(slice=0))
    else:
      found += [pair._replace(id=f"{pair.id}/{index:04d}", slice=index) for index in range(counts[0])]
  if problems:
    raise UsageError(
      f"{output.counted(len(problems), 'pair')} of files cannot be cut into matching slices: "
      f"{' '.join(problems[:10])} Both files of a pair hold the same number of images."
    )
  return found


def _describe_count(count: int | None) -> str:
  return "one image" if count is None else f"a volume of {output.counted(count, 'slice')}"


@functools.lru_cache(2**16)  # the pairs are listed several times, and headers of many files take a while
def _count(path: Path, changed: int, axis: int | None, key: str | None) -> int | None:
  """The slices of a file that was last changed at a time; None for an ordinary image."""
  del changed
  return files.count_slices(path, axis=_axis_for(path, axis), key=key) if files.may_hold_slices(path) else None


def _axis_for(path: Path, axis: int | None) -> int | None:
  """The axis for volumes; stacks of images have none."""
  return axis if path.is_dir() or files.suffix(path) in files.VOLUME_SUFFIXES else None


def _key_for(path: Path, key: str) -> str | None:
  """The name of an array for archives; other files have none."""
  return key or None if files.suffix(path) in files.ARCHIVES else None


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


def read_pair(pair: Pair, reading: Reading = PLAIN) -> tuple[np.ndarray, np.ndarray]:
  """(input, target), each (H, W, C) with the numbers of its file.

  Raises:
    UsageError: files that cannot be read, one on each line of the message; an odd width; or sizes that do not show the
      same view.
  """
  if reading.side_by_side not in ORDERS:
    raise UsageError(f"data.side_by_side is {reading.side_by_side!r}; it is {' or '.join(ORDERS)}.")
  is_archive = files.suffix(pair.input) in files.ARCHIVES and len(set(reading.keys)) == 2
  if pair.target is not None or is_archive:
    first, second = _read_both(pair, reading)
    (height, width), (other_height, other_width) = first.shape[:2], second.shape[:2]
    largest = max(height, other_height, width, other_width)
    if abs(height * other_width - other_height * width) > largest:  # more than rounding
      raise UsageError(
        f"{pair.input} is {width}×{height} but {pair.files[1]} is {other_width}×{other_height} (width × height). The "
        "files of a pair must show the same view, in the same proportions: crop one of them."
      )
    return first, second
  first = _read(pair.input, pair.slice, reading.axis, reading.keys[0], any(reading.colors))
  if first.shape[1] % 2:
    raise UsageError(
      f"{pair.input} is {first.shape[1]} pixels wide; an input and a target side by side have an even width. "
      "Crop it, or put inputs and targets into folders A and B."
    )
  left, right = np.split(first, 2, axis=1)
  return (left, right) if reading.side_by_side == "input_target" else (right, left)


def _read_both(pair: Pair, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
  """Both files of a pair, so that the error names both if neither can be read."""
  arrays, problems = [], []
  for path, key, colors in zip(pair.files, reading.keys, reading.colors):
    try:
      arrays.append(_read(path, pair.slice, reading.axis, key, colors))
    except UsageError as error:
      problems.append(str(error))
  if problems:
    raise UsageError("\n".join(problems))
  return arrays[0], arrays[1]


def _read(path: Path, index: int | None, axis: int | None, key: str, colors: bool) -> np.ndarray:
  """The image of a file, or one slice of it."""
  name, axis = _key_for(path, key), _axis_for(path, axis)
  if index is None:
    return files.read(path, colors=colors, key=name)
  return _volume(path, path.stat().st_mtime_ns, axis, name, colors)[index]


@functools.lru_cache(2)  # the slices of a pair of volumes follow each other, and one by one they would take much longer
def _volume(path: Path, changed: int, axis: int | None, key: str | None, colors: bool) -> np.ndarray:
  """All slices of a file that was last changed at a time."""
  del changed
  return files.read_volume(path, colors=colors, axis=axis, key=key)
