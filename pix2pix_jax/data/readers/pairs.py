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

`data.inputs` names folders in place of `A/`, and `data.target_folder` the one in place of `B/`. With several inputs,
every pair has a file of the same size in each.
"""

from collections.abc import Sequence
import difflib
import functools
import hashlib
import itertools
import os
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
  "target right) in train/, val/ and test/, or either without split folders"
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
    inputs: folders of the inputs.
    target: folder of the targets.
    colors: whether palettes of the inputs and the target become colours, as in `files.read`.
  """

  side_by_side: str = "input_target"
  keys: tuple[str, str] = ("", "")
  axis: int | None = None
  inputs: tuple[str, ...] = ("A",)
  target: str = "B"
  colors: tuple[bool, ...] = (True, True)

  @property
  def folders(self) -> tuple[str, ...]:
    return *self.inputs, self.target


PLAIN = Reading()


class Pair(NamedTuple):
  """The files of a pair: its inputs and its target, or a single one that holds both, side by side.

  Attributes:
    id: the path below the folder of the split, with slashes and without the suffix; of a slice, its number follows.
    slice: index of the slice in files that hold several images; None for ordinary images.
  """

  id: str
  paths: tuple[Path, ...]
  slice: int | None = None

  @property
  def files(self) -> tuple[Path, ...]:
    """The file of each input, and that of the target."""
    return self.paths if len(self.paths) > 1 else self.paths * 2


# --- Finding pairs


class Layout(NamedTuple):
  """Folders of the pairs by split, "" where there are no splits: of each input and the target, or of side-by-side files
  alone.
  """

  folders: dict[str, tuple[Path, ...]]
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
  layout = _layout(source, reading)
  notes: list[str] = []
  splits: dict[str, list[Pair]] = {}
  for split, folders in layout.folders.items():
    splits[split] = match(folders, notes, recursive=layout.recursive)
    if len(folders) == 1:
      _check_side_by_side(folders[0], splits[split], reading)
  notes += _about_halves(list(itertools.chain.from_iterable(splits.values())), reading)
  if "" in splits:
    if len(splits[""]) > 1 and not whole:
      notes.append("No split folders: a random tenth of the pairs (by name) is held out for validation.")
    splits = {WHOLE: splits[""]} if whole else _cut(splits[""], seed)
  splits = {split: splits[split] for split in (*SPLITS, WHOLE) if splits.get(split)}
  if not splits:
    unused = [path.name for path in _subfolders(source) if path not in _read_folders(layout)]
    hint = ""
    if unused:
      hint = f" Its folders {few(unused, 10)} lack a partner, or are named neither like splits nor A and B."
    if len(unused) > 1 and match([source / name for name in unused[:2]], []):
      hint += (
        f" If {unused[0]} holds the inputs and {unused[1]} the targets, set data.inputs={unused[0]} and "
        f"data.target_folder={unused[1]}."
      )
    raise UsageError(
      " ".join(
        [
          f"data.source_dir {str(source)!r} holds no pairs.{hint}",
          *notes,
          *_unread_lists(source),
          f"It should hold {WANTED}.",
        ]
      )
    )
  slices = {split: _slices(members, reading) for split, members in splits.items()}
  if (files_of := sum(map(len, splits.values()))) != (count := sum(map(len, slices.values()))):
    notes.append(f"Volumes and stacks are cut into slices: {output.counted(files_of, 'pair')} of files give {count:,}.")
  return slices, [*notes, *_unread(source, layout), *_unread_lists(source)]


def raw_folders(source: Path, reading: Reading = PLAIN) -> list[Path]:
  """The folders that the reader reads. Changes beside them, such as in a workdir, do not cause another preparation."""
  return _read_folders(_layout(source, reading))


def _read_folders(layout: Layout) -> list[Path]:
  return [folder for folders in layout.folders.values() for folder in folders]


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


def _sides(folder: Path, reading: Reading) -> tuple[Path, ...] | None:
  """The folders A and B, or those that the configuration names, if all are there."""
  found = _named(folder, {name.lower(): name for name in reading.folders})
  return tuple(found[name] for name in reading.folders) if len(found) == len(reading.folders) else None


def _within(split: Path, reading: Reading) -> tuple[Path, ...]:
  """The folders of a split: A and B in it, or itself for side-by-side files.

  Raises:
    UsageError: it holds folders that look like sides under other names.
  """
  if sides := _sides(split, reading):
    return sides
  if reading.folders != PLAIN.folders:
    raise _missing_folder(split, reading)
  names = [path.name for path in _subfolders(split)]
  if {name.lower() for name in names} & {"a", "b"} or sum(bool(_OTHER_SIDES.fullmatch(name)) for name in names) > 1:
    raise UsageError(
      f"{split} holds the folders {few(names, 10)}. For inputs and targets in folders of their own, name them A "
      "(inputs) and B (targets); side-by-side files lie in folders of other names."
    )
  return (split,)


def _layout(source: Path, reading: Reading) -> Layout:
  if source.is_file():
    raise UsageError(f"data.source_dir {str(source)!r} {_about_file(source)}")
  if sides := _sides(source, reading):
    named = [_named(side, _SPLIT_NAMES) for side in sides]
    common = [split for split in SPLITS if all(split in each for each in named)]
    return Layout({split: tuple(each[split] for each in named) for split in common} or {"": sides})
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
    return Layout({split: _within(splits[split], reading) for split in SPLITS if split in splits})
  if reading.folders != PLAIN.folders:
    raise _missing_folder(source, reading)
  return Layout({"": (source,)}, recursive=False)


def _about_file(path: Path) -> str:
  """What a file is that was given in place of the folder of pairs, and what to do."""
  if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"):
    return "is an archive. Extract it and give the folder."
  if path.suffix.lower() in (".txt", ".csv", ".tsv", ".json", ".lst", ".yaml", ".yml", ".xlsx"):
    return "is a file. Lists of pairs are not read: put the files of each pair into A/ and B/ and give their folder."
  return "is a file. Give the folder that holds it."


def _missing_folder(place: Path, reading: Reading) -> UsageError:
  """The error about the first folder of data.inputs and data.target_folder that a place lacks."""
  there = {path.name.lower(): path.name for path in _subfolders(place)}
  name = next(name for name in reading.folders if name.lower() not in there)
  field = "data.target_folder" if name == reading.target else "data.inputs"
  near = difflib.get_close_matches(name.lower(), there, 1)
  suggestion = f"; did you mean {there[near[0]]}?" if near else "."
  return UsageError(f"{field} names the folder {name}, but {place} has none of this name{suggestion}")


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


def _unread_lists(source: Path) -> list[str]:
  """A line about files beside the folders that look like lists of the pairs of splits."""
  found = [path.name for path in files.natural_order(source.iterdir()) if path.is_file() and _is_list(path)]
  if not found:
    return []
  return [
    f"Not read: {few(found, 10)}. Lists of pairs or splits have no effect; if they matter, put the files into "
    "A/train and B/train, A/val and B/val, A/test and B/test."
  ]


def _is_list(path: Path) -> bool:
  """Whether a name is that of a list of the pairs of a split, such as train.txt, val_list.json or pairs.csv."""
  words = re.split(r"[ _.-]", path.stem.lower())
  listed = path.suffix.lower() in (".txt", ".json", ".lst", ".yaml", ".yml") and (
    {*_SPLIT_NAMES, "split", "splits", "pairs"} & set(words)
  )
  return bool(listed) or path.suffix.lower() in (".csv", ".tsv")


# --- Side-by-side files


def _about_halves(members: list[Pair], reading: Reading) -> list[str]:
  """A line that says how files of input and target are cut."""
  if not any(_is_cut(pair, reading) for pair in members):
    return []
  left, right = reading.side_by_side.split("_") if reading.side_by_side in ORDERS else ORDERS[0].split("_")
  return [f"Read as side-by-side images: left half = {left}, right half = {right}."]


def _is_cut(pair: Pair, reading: Reading) -> bool:
  """Whether the halves of a file are the input and the target, and not arrays of an archive."""
  return len(pair.paths) == 1 and not _is_archive(pair, reading)


def _is_archive(pair: Pair, reading: Reading) -> bool:
  return files.suffix(pair.paths[0]) in files.ARCHIVES and len(set(reading.keys)) == 2


def _check_side_by_side(folder: Path, members: list[Pair], reading: Reading) -> None:
  """Refuses a folder in which inputs and targets seem to be files of their own, such as 1_day.png and 1_night.png.

  Raises:
    UsageError: the names come in groups that differ by a constant ending alone, and `data.side_by_side` is not set.
  """
  if reading.side_by_side != PLAIN.side_by_side:
    return
  endings = _groups([pair.id for pair in members if _is_cut(pair, reading)])
  if len(endings) > 1:
    patterns = [_pattern(ending) for ending in endings]
    more = f"; all are {', '.join(patterns)}" if len(patterns) > 2 else ""
    raise UsageError(
      f"{folder} looks like it holds separate files of pairs, not side-by-side images: names differ only by their "
      f"endings. Move the {patterns[0]} files to A/ and the {patterns[1]} files to B/ (inputs go to A and targets to B"
      f"{more}). If each file does hold both sides, give the files of each ending a folder of their own."
    )


def _pattern(ending: str) -> str:
  return f"*{ending}" if ending else "other"


def _groups(names: list[str]) -> list[str]:
  """The endings of words by which alone the names of a folder differ, as in 1_day, 1_night, 2_day, 2_night; else none.

  Numbers are no such endings, because they count images.
  """
  by_word: dict[str, list[str]] = {}
  for name in names:
    word = re.split(r"[ _.-]", name.rpartition("/")[2])[-1]
    by_word.setdefault(word if re.search(r"[^\W\d]", word) else "", []).append(name)
  common = max(by_word, key=lambda word: len(by_word[word]), default="")
  rest = [name for word, members in by_word.items() if word != common for name in members]
  for groups in (list(by_word.values()), [rest, by_word[common]] if rest else []):
    if 2 <= len(groups) <= 5 and (endings := _endings_of(groups)):
      return endings
  return []


def _endings_of(groups: list[list[str]]) -> list[str]:
  """The ending of each group of names, if nearly all names of the others have a partner in the first; else none."""
  first, *others = groups
  endings: list[str] = []
  for other in others:
    partner, (one, theirs) = _by_endings(first, other)
    if len(partner) < 0.9 * max(len(first), len(other)) or (endings and endings[0] != one):
      return []
    endings = [*(endings or [one]), theirs]
  return endings


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


def match(folders: Sequence[Path], notes: list[str], *, recursive: bool = True) -> list[Pair]:
  """The files that all folders hold under one name, in the order of the first; files left out are noted."""
  first, *others = [_files(folder, recursive, notes) for folder in folders]
  found = [Pair(name, (path,)) for name, path in first.images.items()]
  for other in others:
    partners = _match(first, other, notes)
    found = [pair._replace(paths=(*pair.paths, partners[pair.id])) for pair in found if pair.id in partners]
  return found


def _match(inputs: Found, targets: Found, notes: list[str]) -> dict[str, Path]:
  """The partner of each input by the input's name; files without a partner are noted."""
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
  if not partner:
    partner, endings = _by_endings(list(inputs.images), list(targets.images))
    if partner:
      notes.append(
        f"Names in {inputs.folder} and {targets.folder} were matched without their endings, {endings[0]!r} and "
        f"{endings[1]!r}."
      )
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
    for name, path in unmatched.items():
      if files.is_series(path) and (single := [each for each in theirs.images if each.startswith(f"{name}/")]):
        notes.append(
          f"{path} is a DICOM series, one volume, but {theirs.folder / name} holds {len(single)} single "
          "images. Store them as one volume or stack of as many slices, such as "
          f"{theirs.folder / name}.nii.gz or .tif."
        )
        break
    alone = [mine.relative(path) for name, path in unmatched.items() if name not in theirs.left_out]
    if alone:
      notes.append(
        f"{len(alone)} of {len(mine.images)} files in {mine.folder} have no partner of the same name in "
        f"{theirs.folder}: {few(alone, 10)}."
      )
  return {name: targets.images[other] for name, other in partner.items()}


def _by_loose_name(names: list[str], side: str) -> dict[str, str]:
  """Names by what is left of them without case and without a final _A or _B; only where that is unique."""
  found: dict[str, list[str]] = {}
  for name in names:
    found.setdefault(re.sub(rf"[ _-]{side}$", "", name.casefold()), []).append(name)
  return {key: members[0] for key, members in found.items() if len(members) == 1}


def _by_endings(mine: list[str], theirs: list[str]) -> tuple[dict[str, str], tuple[str, str]]:
  """The partners of names that are equal without an ending that all names of their side share, such as
  "_leftImg8bit" and "_gtFine_labelIds"; and those two endings. Empty if that matches less than half of a side.
  """
  best: tuple[dict[str, str], tuple[str, str]] = {}, ("", "")
  for one, other in itertools.product(_endings(mine), _endings(theirs)):
    known = {name.removesuffix(other): name for name in theirs}
    found = {name: known[name.removesuffix(one)] for name in mine if name.removesuffix(one) in known}
    if len(found) > max(1, len(best[0]), min(len(mine), len(theirs)) // 2):
      best = found, (one, other)
  return best


def _endings(names: list[str]) -> list[str]:
  """The endings that all names share and that leave a part of them, each from a separator on; and the empty one."""
  shared = os.path.commonprefix([name[::-1] for name in names])[::-1].rpartition("/")[2]
  endings = [shared[match.start() :] for match in re.finditer(r"[ _.-]", shared)]
  return ["", *(ending for ending in endings if all(Path(name).name != ending for name in names))]


def _slices(members: Sequence[Pair], reading: Reading) -> list[Pair]:
  """Pairs of ordinary images as they are, and in place of those of volumes or stacks a pair for each slice.

  Raises:
    UsageError: files whose slices do not match; the message lists all of them.
  """
  found: list[Pair] = []
  problems: list[str] = []
  for pair in members:
    try:
      counts = [
        _count(path, path.stat().st_mtime_ns, reading.axis, _key_for(path, key))
        for path, key in zip(pair.files, _keys(pair, reading))
      ]
    except (UsageError, OSError):
      found.append(pair._replace(slice=0))  # preparation lists all files that cannot be read
      continue
    if len(set(counts)) > 1:
      listed = [f"{path} is {_describe_count(count)}" for path, count in zip(pair.files, counts)]
      problems.append(f"{', '.join(listed[:-1])}, but {listed[-1]}.")
    elif counts[0] is None:
      found.append(pair)
    elif counts[0] == 1:
      found.append(pair._replace(slice=0))
    else:
      found += [pair._replace(id=f"{pair.id}/{index:04d}", slice=index) for index in range(counts[0])]
  if problems:
    raise UsageError(
      f"{output.counted(len(problems), 'pair')} of files cannot be cut into matching slices: "
      f"{' '.join(problems[:10])} All files of a pair must hold the same number of images."
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


def read_pair(pair: Pair, reading: Reading = PLAIN) -> tuple[np.ndarray, ...]:
  """Every input and the target, each (H, W, C) with the numbers of its file.

  Raises:
    UsageError: files that cannot be read, one on each line of the message; an odd width; or sizes that do not show the
      same view.
  """
  if reading.side_by_side not in ORDERS:
    raise UsageError(f"data.side_by_side is {reading.side_by_side!r}; it is {' or '.join(ORDERS)}.")
  path = pair.paths[0]
  if not _is_cut(pair, reading):
    arrays = _read_all(pair, reading)
    _check_sizes(pair, [array.shape for array in arrays])
    return arrays
  first = _read(path, pair.slice, reading.axis, reading.keys[0], any(reading.colors))
  if first.shape[1] % 2:
    raise UsageError(
      f"{path} is {first.shape[1]} pixels wide; an input and a target side by side have an even width. "
      "Crop it, or put inputs and targets into folders A and B."
    )
  left, right = np.split(first, 2, axis=1)
  return (left, right) if reading.side_by_side == "input_target" else (right, left)


def _check_sizes(pair: Pair, shapes: list[tuple[int, ...]]) -> None:
  """Inputs have one size, and the target the same proportions, up to rounding."""
  sizes = [shape[:2] for shape in shapes]
  (height, width), (last_height, last_width) = sizes[0], sizes[-1]
  other = next((i for i, size in enumerate(sizes[:-1]) if size != sizes[0]), None)
  if other is not None:
    wanted = "The inputs of a pair have one size: resize one of them."
  elif abs(height * last_width - last_height * width) > max(height, width, last_height, last_width):
    other = len(sizes) - 1
    wanted = "The files of a pair must show the same view, in the same proportions: crop one of them."
  else:
    return
  for path, shape, partner in zip(pair.files, shapes, [sizes[other], *[sizes[0]] * other]):
    if shape[1:] == partner and shape[0] < min(partner):
      raise UsageError(
        f"{path} has the shape {shape}. Are the channels first? They belong last: save it as (height, width, channels)."
      )
  raise UsageError(
    f"{pair.files[0]} is {width}×{height} but {pair.files[other]} is {sizes[other][1]}×{sizes[other][0]} (width × "
    f"height). {wanted}"
  )


def _keys(pair: Pair, reading: Reading) -> tuple[str, ...]:
  """The names of the arrays in archives, for each file of a pair."""
  return (*[reading.keys[0]] * (len(pair.files) - 1), reading.keys[1])


def _read_all(pair: Pair, reading: Reading) -> tuple[np.ndarray, ...]:
  """All files of a pair, so that the error names all that cannot be read."""
  arrays, problems = [], []
  colors_of = reading.colors if len(reading.colors) == len(pair.files) else (True,) * len(pair.files)
  for path, key, colors in zip(pair.files, _keys(pair, reading), colors_of):
    try:
      arrays.append(_read(path, pair.slice, reading.axis, key, colors))
    except UsageError as error:
      problems.append(str(error))
  if problems:
    raise UsageError("\n".join(problems))
  return tuple(arrays)


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
