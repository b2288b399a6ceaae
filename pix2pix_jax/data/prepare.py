"""From a config's `data` section to a source of examples.

Preparation runs once. It turns raw files into shards in a folder that is keyed by everything they depend on (names,
sizes and times of the raw files, the reader's settings and revision), so two source folders never mix, and a changed
one is prepared again. TFDS writes to a temporary folder and renames it, so an interrupted preparation counts for
nothing; the next one removes what it left. Of several processes that want the same data at once, one prepares it and
the others wait (`pix2pix_jax/data/shards.py`).
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
from pathlib import Path
import sys
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from pix2pix_jax import config as config_lib
from pix2pix_jax import inputs, output
from pix2pix_jax.data import beam, files, remote, shards, summary
from pix2pix_jax.data.readers import facades, folder, kitti_depth, nyu_depth, pairs, procedural, winter_summer
from pix2pix_jax.data.readers.examples import ReaderConfig
from pix2pix_jax.data.source import Damaged, PreparedSource, file_format, user_cache
from pix2pix_jax.errors import UsageError, user_path
from pix2pix_jax.signals import DataSpec, Part, Settings, Stack

REVISION = 3  # of the readers; raise it when the same raw files yield other examples


class Options(NamedTuple):
  """Options that only some readers support; the others ignore them.

  Attributes:
    channels: numbers of channels to which images of input and target are converted; 0: as in the files.
    whole: whether all pairs form one split if the files are not divided into splits.
  """

  channels: tuple[int, int] = (0, 0)
  whole: bool = False


class Reader(NamedTuple):
  """How to prepare one kind of data set.

  Attributes:
    make: (data section, fingerprint, options) → builder class and its config.
    settings: the fields that prepared files depend on.
    kinds: builder config → kinds of input and target.
    raw_files: (source_dir, data section) → the files and folders that the reader reads; None: everything below
      source_dir.
    report: (source_dir, data section, options) → lines about what was found and what was left out.
  """

  make: Callable[[Any, str, Options], tuple[type[tfds.core.DatasetBuilder], ReaderConfig]]
  settings: tuple[str, ...]
  kinds: Callable[[Any], tuple[str, str]]
  raw_files: Callable[[Path, Any], list[Path]] | None = None
  report: Callable[[Path, Any, Options], list[str]] | None = None


def _source(data: Any) -> str:
  return data.source_dir and str(user_path("data.source_dir", data.source_dir))


def _facades(data, fingerprint, _):
  source = _source(data)
  label_maps = (bool(source) and facades.is_cmp_base(Path(source)), False)
  return facades.Facades, facades.FacadesConfig(
    name=fingerprint, source_dir=source, label_maps=label_maps, kinds=_kinds_of_facades(data)
  )


def _kinds_of_facades(data: Any) -> tuple[str, str]:
  """Labels are colours unless they are declared to be classes, on either side."""
  of_input, of_target = ("classes" if data[f"{side}_kind"] == "classes" else "image" for side in ("input", "target"))
  if of_input == of_target == "classes":
    raise UsageError(
      "data.input_kind and data.target_kind are both classes; façades have one label map per photograph."
    )
  return of_input, of_target


def _folder(data, fingerprint, options):
  config = folder.make_config(
    fingerprint,
    _source(data),
    _reading(data),
    seed=data.pair_seed,
    input_settings=config_lib.settings_of(data, "input"),
    target_settings=config_lib.settings_of(data, "target"),
    channels=options.channels,
    whole=options.whole,
  )
  return folder.Folder, config


def _reading(data: Any) -> pairs.Reading:
  axis = None if data.slice_axis < 0 else data.slice_axis
  names = tuple(part.name for part in inputs.parse(tuple(data.inputs)))
  return pairs.Reading(data.side_by_side, (data.input_key, data.target_key), axis, names, data.target_folder)


def _kitti_depth(data, fingerprint, _):
  config = kitti_depth.KittiDepthConfig(
    name=fingerprint, source_dir=_source(data), layout=data.layout, parts=_kitti_parts(data)
  )
  return kitti_depth.KittiDepth, config


def _kitti_parts(data: Any) -> tuple[Part, ...]:
  """The photograph and the scan, if the configuration asks for both as inputs.

  Raises:
    UsageError: other inputs.
  """
  names = tuple(part.name for part in inputs.parse(tuple(data.inputs)))
  if len(names) == 1:
    return ()
  if names != kitti_depth.INPUTS or (data.name == "procedural" and data.task != "kitti_depth"):
    raise UsageError(
      f"data.inputs is {tuple(data.inputs)}, but the inputs of KITTI are {', '.join(kitti_depth.INPUTS)}: "
      "('image', 'velodyne_raw:depth,scale=256'). Only folders have others."
    )
  photo, scan = Settings("image"), Settings("depth", scale=files.KITTI_SCALE)
  return Part(names[0], photo, 3, "uint8"), Part(names[1], scan, 1, "float32")


def _nyu_depth(data, fingerprint, _):
  source = _source(data)
  kinds = ("image", "depth") if source and nyu_depth.holds_frames(Path(source)) else ("depth", "depth")
  return nyu_depth.NyuDepth, nyu_depth.NyuDepthConfig(name=fingerprint, source_dir=source, kinds=kinds)


def _winter_summer(data, fingerprint, _):
  return winter_summer.WinterSummer, winter_summer.WinterSummerConfig(
    name=fingerprint,
    source_dir=_source(data),
    seed=data.pair_seed,
    threshold=data.attribute_threshold,
    winter=data.winter_attributes,
    summer=data.summer_attributes,
  )


def _procedural(data, fingerprint, _):
  if not (size := config_lib.load_shape(data)):
    raise UsageError("data.load_size is 0, but the procedural reader draws images of that size. Set it.")
  return procedural.Procedural, procedural.ProceduralConfig(
    name=fingerprint,
    task=data.task,
    kinds=_procedural_kinds(data),
    size=size,
    counts=(data.num_train, data.num_val, data.num_test),
    seed=data.procedural_seed,
    parts=_kitti_parts(data),
  )


def _procedural_kinds(data: Any) -> tuple[str, str]:
  if data.task == "facades":
    return _kinds_of_facades(data)
  of_input, of_target = procedural.KINDS.get(data.task, ("", ""))
  return Stack.kind if len(data.inputs) > 1 else of_input, of_target


READERS = {
  "facades": Reader(_facades, ("source_dir", "input_kind", "target_kind"), lambda config: config.kinds),
  "folder": Reader(
    _folder,
    (
      *("source_dir", "side_by_side", "pair_seed", "slice_axis", "input_key", "target_key", "inputs", "target_folder"),
      *(f"{side}_{name}" for side in ("input", "target") for name in ("kind", "scale", "nodata", "palette", "ignore")),
    ),
    lambda config: config.kinds,
    lambda source, data: pairs.raw_folders(source, _reading(data)),
    lambda source, data, options: folder.report(source, data.pair_seed, options.whole, _reading(data)),
  ),
  "kitti_depth": Reader(
    _kitti_depth,
    ("source_dir", "layout", "inputs"),
    lambda config: config.kinds,
    lambda source, data: kitti_depth.raw_folders(source, data.layout),
    lambda source, data, _: kitti_depth.report(source, data.layout, scans=bool(_kitti_parts(data))),
  ),
  "nyu_depth": Reader(
    _nyu_depth, ("source_dir",), lambda config: config.kinds, lambda source, data: nyu_depth.raw_files(source)
  ),
  "procedural": Reader(
    _procedural,
    ("task", "load_size", "load_width", "num_train", "num_val", "num_test", "procedural_seed"),
    lambda config: config.kinds,
  ),
  "winter_summer": Reader(
    _winter_summer,
    ("source_dir", "pair_seed", "attribute_threshold", "winter_attributes", "summer_attributes"),
    lambda config: winter_summer.KINDS,
  ),
}


def prepare(data: Any, model: Any = None, *, whole: bool = False) -> PreparedSource:
  """Returns the source of `data.name`, after writing its shards and their summary if they do not exist yet.

  Prints what was found and what was left out, and shows the progress of the preparation.

  Args:
    data: the `data` section of a config.
    model: its `model` section; images in a folder are converted to the channels that it sets. None: they are not.
    whole: whether all pairs of a folder without split folders form one split, `whole`.

  Raises:
    UsageError: no such reader; raw files that are missing, damaged or contradictory; or depth that is mostly out of
      range, or a split in which nothing was measured.
  """
  if data.name not in READERS:
    raise UsageError(f"data.name is {data.name!r}; the readers are {', '.join(READERS)}.")
  reader, place = READERS[data.name], data.source_dir
  if "source_dir" in reader.settings and remote.is_url(place):
    data = data.copy_and_resolve_references()
    data.source_dir = str(remote.mirror(place))
  options = Options(_channels(data, model) if model else (0, 0), whole)
  builder_class, builder_config = reader.make(data, _key(reader, data, place), options)
  builder_config.say = functools.partial(_say_to, sys.stdout)
  builder_config.beam = bool(data.beam.strip())
  make_builder = lambda: builder_class(
    config=builder_config, data_dir=str(prepared_dir(data)), file_format=file_format()
  )
  folder = prepared_dir(data) / builder_class.name / builder_config.name / str(builder_class.VERSION)
  shared = _shared(data) and f"{_shared(data)}/{folder.relative_to(prepared_dir(data)).as_posix()}"
  if shared and not folder.exists():
    remote.download(shared, folder)
  try:
    builder = shards.find(folder, make_builder)
  except Damaged:  # prepared again below, by one process
    builder = None
  source = builder and _source_of(builder, reader, data)
  known = source and summary.read(source)
  if known:
    notes = known.notes
  else:
    notes = reader.report(Path(_source(data)), data, options) if reader.report and data.source_dir else []
  for note in notes:
    output.say(note)
  if is_new := source is None:
    settings = beam.configure(data.beam)
    if not folder.exists():  # contradictions are found before the work
      _spec(make_builder(), reader.kinds(builder_config), data)
    with shards.locked(folder):
      builder = _prepared(folder, make_builder, data, settings)
    for note in (more := getattr(builder, "notes", [])):
      output.say(note)
    notes = [*notes, *more]
    source = _source_of(builder, reader, data)
  known = known or summary.make(source, notes)
  summary.check(known, source.spec)
  if shared:
    remote.upload(folder, shared, replace=is_new)
  source.spec = DataSpec.of(*summary.complete(known, source.spec), source.spec.counts, known.checksum)
  return source


def _prepared(
  folder: Path,
  make_builder: Callable[[], tfds.core.DatasetBuilder],
  data: Any,
  settings: tfds.download.DownloadConfig,
) -> tfds.core.DatasetBuilder:
  """Writes the shards, in a locked folder, unless another process has written them meanwhile."""
  try:
    if builder := shards.find(folder, make_builder):
      return builder
  except Damaged as error:
    output.say(f"The prepared data in {folder} is damaged: {error.why}. It is prepared again.")
    shards.remove(folder)
  by = f" by Apache Beam ({data.beam.strip()})" if data.beam.strip() else ""
  output.say(f"Preparing {data.name} in {folder}{by}; this happens once.")
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size even without one
    return shards.write(folder, make_builder(), make_builder, settings)


def _say_to(stream: Any, text: str) -> None:
  with contextlib.redirect_stdout(stream):
    output.say(text)


def _channels(data: Any, model: Any) -> tuple[int, int]:
  """The channels of input and target that the model sets; 0 where it leaves them to the data."""
  return model.input_channels, max(0, model.output_channels - data.validity_channel)


def _source_of(builder: tfds.core.DatasetBuilder, reader: Reader, data: Any) -> PreparedSource:
  return PreparedSource(builder, _spec(builder, reader.kinds(builder.builder_config), data))


def _key(reader: Reader, data: Any, place: str) -> str:
  """A hash of everything that the prepared files depend on; `place` is the source_dir that the user has given."""
  key = {name: data[name] for name in reader.settings if name != "source_dir"}
  key = {name: "image" if value == "auto" else value for name, value in key.items()}  # what auto stands for, if allowed
  if "inputs" in key:
    several = inputs.parse(tuple(data.inputs))
    key["inputs"] = inputs.stored_form(several) if data.name == "folder" else [part.name for part in several]
  key |= {"reader": data.name, "revision": REVISION}
  if "source_dir" in reader.settings and data.source_dir:
    source = Path(_source(data))
    raw = reader.raw_files(source, data) if reader.raw_files else [source]
    key["source_dir"] = place.rstrip("/") if remote.is_url(place) else str(source.resolve())
    key["files"] = [_listing(path) for path in raw]
  if data.name == "procedural":
    if {"classes", Stack.kind} & set(kinds := _procedural_kinds(data)):
      key["kinds"] = kinds
    # The drawings depend on the code.
    key["code"] = [
      path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "synthesis").glob("*.py"))
    ]
  return hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest()[:16]


def _spec(builder: tfds.core.DatasetBuilder, kinds: tuple[str, str], data: Any) -> DataSpec:
  """Signals and counts of a prepared builder, without a fingerprint.

  Raises:
    UsageError: the config sets another kind than the reader's.
  """
  made = []
  about = builder.builder_config
  for i, (side, kind) in enumerate(zip(("input", "target"), kinds, strict=True)):
    settings, feature = config_lib.settings_of(data, side), builder.info.features[side]
    if settings.kind not in ("auto", kind):
      raise UsageError(
        f"data.{side}_kind is {settings.kind!r}, but the {side} of {data.name} is {kind}; set it to 'auto'."
      )
    nearest = settings.resampling == "auto" and kind == "image" and about.label_maps[i]
    settings = dataclasses.replace(settings, kind=kind, resampling="nearest" if nearest else settings.resampling)
    if settings.parts:
      settings = dataclasses.replace(settings, parts=inputs.complete(settings.parts, about.parts))
    made.append(settings.make(feature.shape[-1], about.raw_dtypes[i] or feature.np_dtype))
    settings.check_display(made[-1], f"data.{side}_display")
  splits = builder.info.splits or {}  # none before the files are prepared
  return DataSpec(made[0], made[1], {name: info.num_examples for name, info in splits.items()})


def prepared_dir(data: Any) -> Path:
  """`data.prepared_dir`, else $TFDS_DATA_DIR; else, and if that is a URL, the user's cache directory."""
  place = "" if _shared(data) else data.prepared_dir or os.environ.get("TFDS_DATA_DIR")
  return user_path("data.prepared_dir", place or user_cache() / "datasets").resolve()


def _shared(data: Any) -> str:
  """The URL from which prepared data is downloaded and to which it is uploaded; empty: none."""
  place = data.prepared_dir or os.environ.get("TFDS_DATA_DIR") or ""
  return place.rstrip("/") if remote.is_url(place) else ""


def _listing(raw: Path) -> list[tuple[str, int, int]]:
  """(name, size, modification time in ns) of a file, or of every file below a folder; links are followed."""
  if not raw.exists():
    return []  # the reader raises an error that explains what belongs there
  try:
    return sorted(
      (str(path.relative_to(raw)), path.stat().st_size, path.stat().st_mtime_ns)
      for path in ([raw] if raw.is_file() else _files_below(raw))
    )
  except OSError as error:
    raise UsageError(f"data.source_dir {str(raw)!r} cannot be read ({error}).") from error


def _files_below(folder: Path) -> list[Path]:
  """Regular files below a folder, following links, each folder once, without operating systems' hidden files."""
  found: list[Path] = []
  seen: set[Path] = set()
  waiting = [folder]
  while waiting:
    current = waiting.pop()
    if (real := current.resolve()) in seen:
      continue
    seen.add(real)
    for path in current.iterdir():
      if files.is_junk(path.name):
        continue
      if path.is_dir():
        waiting.append(path)
      elif path.is_file():
        found.append(path)
  return found
