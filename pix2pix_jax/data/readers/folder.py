"""A user's own pairs as a data set; `pix2pix_jax.data.readers.pairs` finds and reads their files.

Every format that `data/files.py` reads is accepted, with any number of channels. `data.input_kind` and
`data.target_kind` declare what the numbers mean (`pix2pix_jax/signals.py`). All inputs must agree in channels and
number type, and so must all targets, unless `model.input_channels` or `model.output_channels` asks for a number of
channels: images are then converted to it.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax import output, palettes, signals
from pix2pix_jax.data import beam, files, summary
from pix2pix_jax.data.encoding import keep_files
from pix2pix_jax.data.readers import examples
from pix2pix_jax.data.readers.negatives import Negatives
from pix2pix_jax.data.readers.pairs import PLAIN, WANTED, WHOLE, Pair, Reading, find_splits, read_pair
from pix2pix_jax.errors import UsageError, few, grouped
from pix2pix_jax.signals import Signal

UNDECLARED = signals.Settings()
_CHANNEL_FIELDS = {"input": "model.input_channels", "target": "model.output_channels"}
MAX_LABELS = 64  # a palette image with more colours is a photograph or a drawing
MAX_PROBLEMS = 100  # preparation stops after this many files that cannot be used


class Side(NamedTuple):
  """The properties that all files of one side share.

  Attributes:
    settings: what the config declares, with the resolved kind.
    field: the field that declares the kind, for messages.
    asked: kind in the config, which may be `auto`.
    convert_to: number of channels to which images are converted; 0: they stay as they are.
    channels: number of channels as stored.
    file_channels: number of channels in the first file.
    dtype: number type as stored.
    raw_dtype: number type in the files.
    first: the file from which these were read.
    label_map: whether that file has a palette of which it uses few colours.
    palette: colours in that file's palette, if its indices are classes.
  """

  settings: signals.Settings = signals.Settings("image")
  field: str = ""
  asked: str = "auto"
  convert_to: int = 0
  channels: int = 3
  file_channels: int = 3
  dtype: str = "uint8"
  raw_dtype: str = "uint8"
  first: Path = Path()
  label_map: bool = False
  palette: tuple[palettes.Color, ...] = ()

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
  def part(self) -> signals.Part:
    """The same side as one of several inputs."""
    is_label_map = self.label_map and self.kind == "image" and self.settings.resampling == "auto"
    settings = dataclasses.replace(self.settings, resampling="nearest") if is_label_map else self.settings
    dtype = self.raw_dtype if self.kind == "quantity" else self.dtype
    return signals.Part("", settings, self.channels, dtype)

  @property
  def feature(self) -> tfds.features.FeatureConnector:
    if self.kind in ("depth", "quantity"):
      return examples.real_numbers(self.channels)
    return examples.picture(self.channels, np.dtype(self.dtype))


@dataclasses.dataclass(eq=False)
class FolderConfig(examples.ReaderConfig):
  """Made by `make_config`, which reads the kind and form of every side from the first pair.

  Attributes:
    sides: `input` and `target`; or the inputs by the names of their folders, and `target`.
  """

  reading: Reading = PLAIN
  seed: int = 0
  whole: bool = False
  sides: dict[str, Side] = dataclasses.field(default_factory=dict)

  @property
  def kinds(self) -> tuple[str, str]:
    """Of the input and the target."""
    return signals.Stack.kind if self.parts else self.sides["input"].kind, self.sides["target"].kind


def make_config(
  name: str,
  source_dir: str,
  reading: Reading = PLAIN,
  *,
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
    reading: how the files are read; `colors` is determined from the kinds.
    seed: seed of the split if there are no split folders.
    input_settings, target_settings: what the config declares about the input, or several, and about the target.
    channels: numbers of channels to which images of input and target are converted; 0: as in the files, which must
      then agree.
    whole: whether all pairs form one split, `whole`, if there are no split folders.

  Raises:
    UsageError: no pairs, or none that can be used.
  """
  splits, _ = find_splits(examples.source_folder(source_dir, "folder", WANTED), seed, whole, reading)
  declared = {part.name: part.settings for part in input_settings.parts} or {"input": input_settings}
  several = len(declared) > 1
  asked = {
    name: Side(settings, f"The kind of {name!r} in data.inputs" if several else "data.input_kind", convert_to=convert)
    for name, settings, convert in (
      (name, settings, 0 if several else channels[0]) for name, settings in declared.items()
    )
  }
  asked["target"] = Side(target_settings, "data.target_kind", convert_to=channels[1])
  sides = _first_usable([pair for members in splits.values() for pair in members], reading, asked)
  for side, found in sides.items():
    if found.channels != found.file_channels:
      name += f"_{side}_of_{found.channels}"
  if WHOLE in splits:
    name += f"_{WHOLE}"
  return FolderConfig(
    name=name,
    source_dir=source_dir,
    reading=reading._replace(colors=tuple(side.reads_colors for side in sides.values())),
    seed=seed,
    whole=whole,
    sides=sides,
    parts=tuple(sides[name].part._replace(name=name) for name in declared) if several else (),
    label_maps=(not several and sides["input"].label_map, sides["target"].label_map),
    raw_dtypes=("" if several else sides["input"].raw_dtype, sides["target"].raw_dtype),
  )


def _first_usable(pairs: list[Pair], reading: Reading, asked: dict[str, Side]) -> dict[str, Side]:
  """The sides that are asked for, as the first usable pair has them. Preparation lists the pairs before it, with all
  others.

  Raises:
    UsageError: none of the first pairs is usable; the message lists the files that cannot be read, or says what is
      wrong with the first of those that can.
  """
  unreadable: list[tuple[Path, str]] = []
  unsuitable: list[UsageError] = []
  for pair in pairs[:MAX_PROBLEMS]:
    try:
      arrays = read_pair(pair, reading)
    except UsageError as error:
      unreadable += _named(error, pair.files)
      continue
    try:
      return _sides_of(pair, reading, arrays, asked)
    except UsageError as error:
      unsuitable.append(error)
  raise unsuitable[0] if unsuitable else UsageError("\n".join(_listed(unreadable)))


def _sides_of(pair: Pair, reading: Reading, arrays: tuple[np.ndarray, ...], asked: dict[str, Side]) -> dict[str, Side]:
  sides, kinds, undeclared = {}, {}, []
  for (name, side), array, path in zip(asked.items(), arrays, pair.files):
    try:
      kinds[name] = signals.choose_kind(side.settings.kind, array, side.field, str(path))
    except UsageError as error:
      undeclared.append(str(error))
  if undeclared:
    raise UsageError("\n".join(undeclared))  # all at once, because every start takes a while
  indices = functools.partial(read_pair, pair, reading._replace(colors=(False,) * len(arrays)))
  for i, ((name, side), array, path) in enumerate(zip(asked.items(), arrays, pair.files)):
    settings = side.settings
    kind = kinds[name]
    label_map = _is_label_map(array, indices, i)
    palette: tuple[palettes.Color, ...] = ()
    if kind == "classes" and array.shape[-1] > 1 and not settings.palette:
      array, palette = indices()[i], files.read_palette(path)
    unchecked = side._replace(
      settings=dataclasses.replace(settings, kind=kind), asked=settings.kind, raw_dtype=str(array.dtype), first=path
    )
    stored = _stored(array, unchecked, path)
    if len(stored.shape) == 3 and stored.shape[-1] > 16 >= stored.shape[0]:
      raise UsageError(
        f"{path} has the shape {stored.shape}: {stored.shape[-1]} channels. If the channels are its first axis, save "
        "it as (height, width, channels)."
      )
    sides[name] = unchecked._replace(
      channels=stored.shape[-1],
      file_channels=array.shape[-1],
      dtype=str(stored.dtype),
      label_map=label_map,
      palette=palette,
    )
  return sides


def _is_label_map(colors: np.ndarray, indices: Callable[[], tuple[np.ndarray, ...]], side: int) -> bool:
  """Whether a file, whose colours were read, has a palette and uses few of its entries; photographs use most."""
  if colors.shape[-1] == 1:
    return False
  found = indices()[side]
  return found.shape[-1] == 1 and np.unique(found).size <= MAX_LABELS


def _stored(array: np.ndarray, side: Side, path: Path) -> np.ndarray:
  """A file's array as data sets store it."""
  signals.choose_kind(side.asked, array, side.field, str(path))
  signal = side.settings.make(array.shape[-1], array.dtype)
  if signal.kind != "image":
    array = signal.mark_missing(array, files.read_nodata(path))
  accepted = signal.accept(array, str(path))
  if side.convert_to not in (0, accepted.shape[-1]) and signal.kind == "image":
    colors = files.holds_colors(path, accepted.shape[-1])
    accepted = files.with_channels(accepted, side.convert_to, str(path), colors=colors)
  return signal.store(accepted)


def _has_value(kind: str, stored: np.ndarray) -> bool:
  return bool({"depth": stored > 0, "quantity": np.isfinite(stored)}.get(kind, np.True_).any())


class Folder(examples.Builder):
  """A user's pairs as `{input, target, id}`.

  Attributes:
    notes: lines for the user about the content of the files, complete after preparation.
  """

  VERSION = tfds.core.Version("1.0.0")
  notes: list[str] = []

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    *inputs, target = config.sides.values()
    together = examples.real_numbers(sum(side.channels for side in inputs))
    features = {"input": together if config.parts else inputs[0].feature, "target": target.feature}
    features["id"] = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict({summary.PALETTES: {name: side.palette for name, side in config.sides.items()}}),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    config = self.builder_config
    source = examples.source_folder(config.source_dir, "folder", WANTED)
    splits, _ = find_splits(source, config.seed, config.whole, config.reading)
    if config.beam:
      make = functools.partial(_attempt, config)
      return {split: beam.examples(members, make, self.findings(split)) for split, members in splits.items()}
    findings, last = Findings(config), list(splits)[-1]
    self.notes = findings.notes
    return {
      split: self._generate_examples(split, members, findings, is_last=split == last)
      for split, members in splits.items()
    }

  def _generate_examples(self, split: str, members: list[Pair], findings: "Findings", is_last: bool) -> Iterator:
    config = self.builder_config
    usable = 0
    for key, pair in examples.in_order(members, split, config):
      if example := _example(config, pair, findings):
        usable += 1
        yield key, example
    if is_last or not usable:
      findings.raise_all()
    if is_last:
      findings.finish()

  def finish(self, of_pairs: list["Findings"]) -> None:
    findings = Findings(self.builder_config)
    for of_pair in of_pairs:
      findings.merge(of_pair)
    findings.raise_all()
    findings.finish()
    self.notes = findings.notes


def _example(config: FolderConfig, pair: Pair, findings: "Findings") -> dict[str, Any] | None:
  """The example of a pair; None if it cannot be used, or is left out, which `findings` gets to know."""
  try:
    arrays = read_pair(pair, config.reading)
  except UsageError as error:
    findings.add_unusable(error, *pair.files)
    return None
  read: dict[str, np.ndarray] = {}
  for (name, side), array, path in zip(config.sides.items(), arrays, pair.files):
    try:
      stored = _stored(array, side, path)
    except UsageError as error:
      findings.add_unusable(error, path)
      continue
    if (stored.shape[-1], str(stored.dtype)) != (side.channels, side.dtype):
      findings.add_different(name, path, stored)
      continue
    if pair.slice is not None and not _has_value(side.kind, stored):
      findings.add_blank(path)
      continue
    if side.kind == "quantity" and not _has_value(side.kind, stored):
      findings.add_unusable(UsageError(f"{path} holds no value at all: every number is NaN, infinite or nodata."), path)
      continue
    findings.add_read(name, path, array)
    read[name] = stored
  return _joined(pair, read) if len(read) == len(config.sides) else None


def _attempt(config: FolderConfig, pair: Pair) -> tuple[dict[str, Any] | None, "Findings"]:
  """The same for a worker of Beam, which sees one pair at a time; see `examples.Builder`."""
  findings = Findings(config)
  example = _example(config, pair, findings)
  return examples.empty(("input", "target", "id")) if findings.has_problems else example, findings


def _joined(pair: Pair, read: dict[str, np.ndarray]) -> dict[str, Any]:
  """An example of one input and a target; several inputs become one array of numbers."""
  *inputs, target = read.values()
  if len(inputs) > 1:
    joined = np.concatenate([array.astype(np.float32) for array in inputs], axis=-1)
    return {"input": joined, "target": target, "id": pair.id}
  example = {"input": inputs[0], "target": target, "id": pair.id}
  return example if pair.slice is not None else keep_files(example, dict(zip(("input", "target"), pair.files)))


def report(source: Path, seed: int = 0, whole: bool = False, reading: Reading = PLAIN) -> list[str]:
  """Lines for the user: what was left out, and the number of pairs in each split."""
  splits, notes = find_splits(source, seed, whole, reading)
  return [*notes, f"Pairs: {', '.join(f'{split} {len(members)}' for split, members in splits.items())}."]


class Findings:
  """Collects findings while files are read, so that one message lists all files that cannot be used.

  Attributes:
    notes: lines for the user, complete after `finish`.
  """

  def __init__(self, config: FolderConfig):
    self._config = config
    self._unusable: list[tuple[Path, str]] = []  # a file and what is wrong with it
    self._different: dict[str, list[str]] = {name: [] for name in config.sides}
    self._channels: dict[str, set[int]] = {name: set() for name in config.sides}
    self._converted: dict[str, list[Path]] = {name: [] for name in config.sides}
    self._transparent: dict[str, list[Path]] = {name: [] for name in config.sides}  # whose alpha is trained
    self._negatives = {name: Negatives() for name in config.sides}
    self._blank: collections.Counter[Path] = collections.Counter()  # slices without a value
    self._distances: dict[str, list[float]] = {name: [] for name in config.sides}  # of label colours from the palette
    self.notes: list[str] = []

  def __getstate__(self) -> dict[str, Any]:
    """Without what all have in common: those of single pairs are sent by Beam, to be merged."""
    return {**self.__dict__, "_config": None}

  def merge(self, other: "Findings") -> None:
    """Adds those about pairs that come later."""
    self._unusable += [each for each in other._unusable if each not in self._unusable]
    for name in self._config.sides:
      self._different[name] += other._different[name]
      self._channels[name] |= other._channels[name]
      self._converted[name] += other._converted[name]
      self._transparent[name] += other._transparent[name]
      self._negatives[name].merge(other._negatives[name])
      self._distances[name] = [*self._distances[name], *other._distances[name]][:MAX_PROBLEMS]
    self._blank.update(other._blank)
    self._stop_at_many()

  @property
  def has_problems(self) -> bool:
    """Whether `raise_all` raises."""
    return bool(self._unusable or any(self._different.values()))

  def add_read(self, name: str, path: Path, array: np.ndarray) -> None:
    """A file of the side `name` that is used, as it was read."""
    side = self._config.sides[name]
    if side.kind == "image" and array.shape[-1] != side.channels:
      self._converted[name].append(path)
    elif side.kind == "image" and array.shape[-1] in (2, 4) and not self._transparent[name]:
      varies = (array[..., -1] != array[0, 0, -1]).any()
      if varies and files.holds_colors(path, array.shape[-1]):
        self._transparent[name].append(path)  # the first is enough
    if side.kind == "classes" and array.shape[-1] >= 3 and len(self._distances[name]) < MAX_PROBLEMS:
      self._distances[name].append(palettes.match(array[..., :3], side.settings.palette, str(path))[1])
    if side.kind == "depth":
      self._negatives[name].add(array)

  def finish(self) -> None:
    """Completes `notes`.

    Raises:
      UsageError: depth most of which is negative.
    """
    if self._blank:
      listed = few(f"{count} of {path.name}" for path, count in self._blank.items())
      self.notes.append(f"Left out {output.counted(self._blank.total(), 'slice')} without a value: {listed}.")
    for name, side in self._config.sides.items():
      if paths := self._converted[name]:
        self.notes.append(
          f"{len(paths)} {_plural(name) if len(paths) > 1 else name} converted to {side.channels} "
          f"channel{'s' * (side.channels != 1)}: {few(path.name for path in paths)}."
        )
      if (paths := self._transparent[name]) and name in _CHANNEL_FIELDS:
        self.notes.append(
          f"Warning: The {_plural(name)} have an alpha channel, such as {paths[0].name}, which is used as channel "
          f"{side.channels}. To composite transparent images onto white instead, set "
          f"--config.{_CHANNEL_FIELDS[name]}={side.channels - 1}."
        )
      if distances := self._distances[name]:
        self.notes.append(
          f"The colours of the {name}'s labels lie {np.mean(distances):.1f} grey levels from the palette's on average, "
          f"at most {max(distances):.1f} in one image; each pixel belongs to the nearest."
        )
      self._negatives[name].check(f"The {name} of {self._config.source_dir}", f"data.{name}_kind")
      if note := self._negatives[name].note(f"the {name}"):
        self.notes.append(note)

  def add_blank(self, path: Path) -> None:
    """A slice without a single value, which is left out."""
    self._blank[path] += 1

  def add_unusable(self, error: UsageError, *paths: Path) -> None:
    """An error about one or several files of a pair."""
    self._unusable += [each for each in _named(error, paths) if each not in self._unusable]  # not once a slice
    self._stop_at_many()

  def add_different(self, name: str, path: Path, array: np.ndarray) -> None:
    """A file of the side `name` whose form is not that of the first."""
    self._different[name].append(f"{path} is {_form(array.shape[-1], array.dtype)}")
    side = self._config.sides[name]
    self._channels[name].add(array.shape[-1] if side.kind == "image" and str(array.dtype) == side.dtype else 0)
    self._stop_at_many()

  def _stop_at_many(self) -> None:
    if len(self._unusable) + sum(map(len, self._different.values())) >= MAX_PROBLEMS:
      self.raise_all()

  def raise_all(self) -> None:
    """Raises one UsageError about all problems, if there are any."""
    parts = []
    for name, found in self._different.items():
      side = self._config.sides[name]
      if found:
        parts.append(
          f"{few(found, 10)}, but {side.first} is {_form(side.channels, side.dtype)}. All {_plural(name)} must agree: "
          f"convert or remove {'it' if len(found) == 1 else f'these {len(found)} files'}.{self._conversion(name)}"
        )
    parts += _listed(self._unusable)
    if parts:
      raise UsageError("\n".join(parts))

  def _conversion(self, name: str) -> str:
    """A sentence about the setting that would convert a side's channels, if that solves the problem."""
    side = self._config.sides[name]
    channels = {side.channels, *self._channels[name]}
    if not channels <= {1, 2, 3, 4} or name not in _CHANNEL_FIELDS:
      return ""
    flag = f"--config.{_CHANNEL_FIELDS[name]}={3 if max(channels) > 2 else 1}"
    return f" Or set {flag} to have them converted (grey to RGB, alpha over white)."


def _plural(name: str) -> str:
  return f"{name}s" if name in ("input", "target") else f"images of {name}"


def _named(error: UsageError, paths: Sequence[Path]) -> list[tuple[Path, str]]:
  """The lines of an error, each with the file of a pair that it is about."""
  about = lambda line: next((path for path in paths if line.startswith(f"{path} ")), paths[0])
  return [(about(line), line) for line in str(error).splitlines()]


def _listed(problems: list[tuple[Path, str]]) -> list[str]:
  """Lines about files that cannot be used: their number, the first ten reasons, and how many more there are."""
  lines = grouped(problems)
  heading = [f"{len(problems)} files cannot be used."] if len(problems) > 1 else []
  return [*heading, *lines[:10], *([f"And {len(lines) - 10} more reasons."] if len(lines) > 10 else [])]


def _form(channels: int, dtype: Any) -> str:
  return f"{dtype} of {channels} channel{'s' * (channels != 1)}"
