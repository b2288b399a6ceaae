"""From a config's `data` section to a prepared TFDS builder.

Preparation runs once: raw files → TFRecord shards in a folder keyed by everything they were made from (names, sizes
and times of the raw files, the reader's settings), so that two source directories never mix and a changed one is
prepared anew. TFDS writes to a temporary folder and renames it, so that an interrupted preparation leaves nothing behind.
"""

import hashlib
import json
import os
from pathlib import Path
import sys
from typing import Any

import tensorflow_datasets as tfds

from pix2pix_jax.data.readers import facades, folder, kitti_depth, nyu_depth, procedural, winter_summer
from pix2pix_jax.errors import UsageError


def load_shape(data) -> tuple[int, int]:
  """(height, width) to which every picture is resized before the crop."""
  return data.load_size, data.load_width or data.load_size


def crop_shape(data) -> tuple[int, int]:
  """(height, width) of the training crops."""
  return data.crop_size, data.crop_width or data.crop_size


def eval_shape(data) -> tuple[int, int]:
  """(height, width) of validation and test pictures."""
  if not data.eval_size:
    return crop_shape(data)
  return data.eval_size, data.eval_width or data.eval_size


def _source(data) -> str:
  return data.source_dir and str(Path(data.source_dir).expanduser())


def _facades(data, fingerprint):
  return facades.Facades, facades.FacadesConfig(name=fingerprint, source_dir=_source(data))


def _folder(data, fingerprint):
  return folder.Folder, folder.make_config(fingerprint, _source(data), data.side_by_side, data.pair_seed)


def _kitti_depth(data, fingerprint):
  return kitti_depth.KittiDepth, kitti_depth.KittiDepthConfig(
    name=fingerprint, source_dir=_source(data), layout=data.layout
  )


def _nyu_depth(data, fingerprint):
  return nyu_depth.NyuDepth, nyu_depth.NyuDepthConfig(name=fingerprint, source_dir=_source(data))


def _winter_summer(data, fingerprint):
  return winter_summer.WinterSummer, winter_summer.WinterSummerConfig(
    name=fingerprint,
    source_dir=_source(data),
    seed=data.pair_seed,
    threshold=data.attribute_threshold,
    winter=data.winter_attributes,
    summer=data.summer_attributes,
  )


def _procedural(data, fingerprint):
  return procedural.Procedural, procedural.ProceduralConfig(
    name=fingerprint,
    task=data.task,
    size=load_shape(data),
    counts=(data.num_train, data.num_val, data.num_test),
    seed=data.procedural_seed,
  )


READERS = {
  # name: (how to build it, the settings that its prepared files depend on)
  "facades": (_facades, ("source_dir",)),
  "folder": (_folder, ("source_dir", "side_by_side", "pair_seed")),
  "kitti_depth": (_kitti_depth, ("source_dir", "layout")),
  "nyu_depth": (_nyu_depth, ("source_dir",)),
  "procedural": (
    _procedural,
    ("task", "load_size", "load_width", "num_train", "num_val", "num_test", "procedural_seed"),
  ),
  "winter_summer": (
    _winter_summer,
    ("source_dir", "pair_seed", "attribute_threshold", "winter_attributes", "summer_attributes"),
  ),
}

RAW_FILES = {  # what a reader reads, where that is not everything below source_dir
  "folder": lambda source, data: folder.raw_folders(source),
  "kitti_depth": lambda source, data: kitti_depth.raw_folders(source, data.layout),
  "nyu_depth": lambda source, data: nyu_depth.raw_files(source),
}


def prepare(data: Any) -> tfds.core.DatasetBuilder:
  """The builder of `data.name`, its shards written if they are not there yet.

  Args:
    data: the `data` section of a config.
  """
  if data.name not in READERS:
    raise UsageError(f"data.name is {data.name!r}; the readers are {', '.join(READERS)}.")
  make, settings = READERS[data.name]
  key = {"reader": data.name, **{name: data[name] for name in settings}}
  if "source_dir" in settings and data.source_dir:
    source = Path(data.source_dir).expanduser()
    raw = RAW_FILES[data.name](source, data) if data.name in RAW_FILES else [source]
    key |= {"source_dir": str(source.resolve()), "files": [_listing(path) for path in raw]}
  if data.name == "procedural":  # what is drawn follows from the code
    key["code"] = [path.read_text() for path in sorted((Path(__file__).parent / "synthesis").glob("*.py"))]
  fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest()[:16]
  builder_class, builder_config = make(data, fingerprint)
  builder = builder_class(config=builder_config, data_dir=str(prepared_dir(data)))
  if not builder.info.splits:
    if not sys.stderr.isatty():
      tfds.disable_progress_bar()
    print(f"Preparing {data.name} in {builder.data_dir}; this happens once.", flush=True)
    for remark in (
      "_log_download_bytes",
      "_log_download_done",
    ):  # they speak of a download of unknown size, where there is none
      setattr(builder, remark, lambda: None)
    builder.download_and_prepare()
  return builder


def prepared_dir(data) -> Path:
  """`data.prepared_dir`, else $TFDS_DATA_DIR, else the user's cache directory."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return (
    Path(data.prepared_dir or os.environ.get("TFDS_DATA_DIR") or f"{cache}/pix2pix_jax/datasets").expanduser().resolve()
  )


def _listing(raw: Path) -> list[tuple[str, int, int]]:
  """(name, size, modification time in ns) of a file, or of every file below a folder."""
  try:
    return sorted(
      (str(path.relative_to(raw)), path.stat().st_size, path.stat().st_mtime_ns)
      for path in ([raw] if raw.is_file() else raw.rglob("*"))
      if path.is_file()
    )
  except OSError as error:
    raise UsageError(f"data.source_dir {str(raw)!r} cannot be read ({error}).") from error
