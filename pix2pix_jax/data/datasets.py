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

from pix2pix_jax.data import facades
from pix2pix_jax.data import procedural
from pix2pix_jax.errors import UsageError


def load_shape(data) -> tuple[int, int]:
  """(height, width) to which every picture is resized before the crop."""
  return data.load_size, data.load_width or data.load_size


def crop_shape(data) -> tuple[int, int]:
  """(height, width) of the pictures that the networks see."""
  return data.crop_size, data.crop_width or data.crop_size


def _facades(data, fingerprint):
  return facades.Facades, facades.FacadesConfig(name=fingerprint, source_dir=data.source_dir and str(Path(data.source_dir).expanduser()))


def _procedural(data, fingerprint):
  return procedural.Procedural, procedural.ProceduralConfig(
      name=fingerprint, task=data.task, size=load_shape(data), counts=(data.num_train, data.num_val, data.num_test), seed=data.procedural_seed)


READERS = {
    # name: (how to build it, the settings that its prepared files depend on)
    "facades": (_facades, ("source_dir",)),
    "procedural": (_procedural, ("task", "load_size", "load_width", "num_train", "num_val", "num_test", "procedural_seed")),
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
    key |= {"source_dir": str(Path(data.source_dir).expanduser().resolve()), "files": _listing(Path(data.source_dir).expanduser())}
  fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest()[:16]
  folder = prepared_dir(data)
  builder_class, builder_config = make(data, fingerprint)
  builder = builder_class(config=builder_config, data_dir=str(folder))
  if not builder.info.splits:
    if not sys.stderr.isatty():
      tfds.disable_progress_bar()
    print(f"Preparing {data.name} in {builder.data_dir}; this happens once.", flush=True)
    builder.download_and_prepare()
  return builder


def prepared_dir(data) -> Path:
  """`data.prepared_dir`, else $TFDS_DATA_DIR, else the user's cache directory."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(data.prepared_dir or os.environ.get("TFDS_DATA_DIR") or f"{cache}/pix2pix_jax/datasets").expanduser().resolve()


def _listing(folder: Path) -> list[tuple[str, int, int]]:
  """(name, size, modification time in ns) of every file below a folder."""
  try:
    return sorted((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
                  for path in folder.rglob("*") if path.is_file())
  except OSError as error:
    raise UsageError(f"data.source_dir {str(folder)!r} cannot be read ({error}).") from error
