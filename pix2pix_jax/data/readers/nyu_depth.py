"""NYU Depth v2: the depth of a Kinect with its holes → the dense depth (Silberman et al., "Indoor Segmentation and
Support Inference from RGBD Images", ECCV 2012), 1,449 frames of 464 rooms.

Raw file: `nyu_depth_v2_labeled.mat` (MATLAB 7.3, which is HDF5), of which `rawDepths` and `depths` are read, both
(1449, 640, 480) float32 metres, each frame transposed; a raw depth of 0 is a hole. The two differ by some millimetres
even where the raw depth was measured. They are read frame by frame, so the file's 2.8 GB are never in memory at once.

Splits. With the official `splits.mat` beside it (trainNdxs, testNdxs, counted from 1), its test frames are `test`;
every tenth of its train frames is `val`, the rest `train`. That val shares rooms with train; test shares none. Without
splits.mat, the first 80 % are `train`, the next 10 % `val`, the rest `test`. Neighbouring frames show the same room, so
contiguous blocks leak least.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data.readers import examples
from pix2pix_jax.errors import UsageError, few

KINDS = ("depth", "depth")
FILE = "nyu_depth_v2_labeled.mat"
WANTED = (
  f"{FILE} and, for the official split, splits.mat. Get them from "
  "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html "
  "(http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat, 2.8 GB, and "
  "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat). Without any download, "
  "--config=configs/nyu.py:procedural trains on built-in rooms"
)


@dataclasses.dataclass(eq=False)
class NyuDepthConfig(examples.ReaderConfig):
  """`source_dir` is the .mat file, or its folder."""


class NyuDepth(tfds.core.GeneratorBasedBuilder):
  """NYU as `{input: raw depth, target: dense depth, id}`, float32 metres (480, 640, 1)."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {
          "input": examples.real_numbers(),
          "target": examples.real_numbers(),
          "id": tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    path = find_file(examples.source_folder(self.builder_config.source_dir, "NYU", WANTED))
    return {split: self._generate_examples(path, split, frames) for split, frames in find_splits(path).items()}

  def _generate_examples(self, path: Path, split: str, frames: list[int]) -> Iterator:
    with open_frames(path) as (raw, dense):
      for key, frame in examples.in_order(frames, split, self.builder_config):
        depths = {"input": read_frame(raw, frame, path), "target": read_frame(dense, frame, path)}
        yield key, {**depths, "id": f"{frame + 1:04d}"}


def find_file(source: Path) -> Path:
  """The .mat file that `source` is or holds."""
  path = source / FILE if source.is_dir() else source
  if not path.is_file():
    raise UsageError(f"data.source_dir {str(source)!r} holds no {FILE}. It should hold {WANTED}.")
  return path


def raw_files(source: Path) -> list[Path]:
  """The files that the reader reads; there may be none."""
  folder = source if source.is_dir() else source.parent
  return [path for path in (source / FILE if source.is_dir() else source, folder / "splits.mat") if path.is_file()]


def find_splits(path: Path) -> dict[str, list[int]]:
  """The frames, counted from 0, of each split that exists."""
  with open_frames(path) as (raw, _):
    count = len(raw)
  official = path.with_name("splits.mat")
  if official.is_file():
    train, test = (_indices(official, name, count) for name in ("trainNdxs", "testNdxs"))
    if set(train) & set(test):
      raise UsageError(
        f"{official} has {len(set(train) & set(test))} frames that are both in trainNdxs and in testNdxs. "
        "Replace it, or remove it for a fixed split."
      )
    splits = {"train": [frame for i, frame in enumerate(train) if i % 10 != 9], "val": train[9::10], "test": test}
  else:
    splits = examples.blocks(range(count), 0.8, 0.1)
  return {split: frames for split, frames in splits.items() if frames}


def _indices(path: Path, name: str, count: int) -> list[int]:
  """A list of frames of splits.mat, counted from 0."""
  import scipy.io  # takes 0.3 seconds, and only this needs it

  try:
    indices = np.unique(scipy.io.loadmat(path, variable_names=[name])[name].astype(int)) - 1
  except Exception as error:  # scipy's parser may raise anything on a damaged file
    raise UsageError(
      f"{path} cannot be read as the official split, a MATLAB 5 file with trainNdxs and testNdxs "
      f"({type(error).__name__}: {error}). Replace it, or remove it for a fixed split."
    ) from error
  if indices.size and not 0 <= indices[0] <= indices[-1] < count:
    raise UsageError(
      f"{path} counts frames {indices[0] + 1} to {indices[-1] + 1} in {name}, but there are {count} in the .mat "
      "beside it. They belong to different sets: replace it, or remove it for a fixed split."
    )
  return indices.tolist()


@contextlib.contextmanager
def open_frames(path: Path) -> Iterator[tuple[h5py.Dataset, h5py.Dataset]]:
  """Returns (rawDepths, depths) of the file, to be read frame by frame.

  Raises:
    UsageError: damaged, or without both of them in metres.
  """
  advice = f"It may be damaged or half downloaded: get it again ({WANTED})."
  try:  # a chunk may span several frames; the cache holds it whole, so that none is unpacked twice
    file = h5py.File(path, "r", rdcc_nbytes=64 * 2**20, rdcc_nslots=10007)
  except OSError as error:
    raise UsageError(f"{path} cannot be read as a MATLAB 7.3 (HDF5) file ({error}). {advice}") from error
  with file:
    missing = [name for name in ("rawDepths", "depths") if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
      raise UsageError(f"{path} has no {' and no '.join(missing)}, only {few(file, 20)}. {advice}")
    raw, dense = file["rawDepths"], file["depths"]
    if (
      raw.ndim != 3
      or raw.shape != dense.shape
      or not len(raw)
      or any(array.dtype.kind != "f" for array in (raw, dense))
    ):
      raise UsageError(
        f"{path}: rawDepths and depths should both be metres, (frames, width, height); they are {raw.dtype} "
        f"{raw.shape} and {dense.dtype} {dense.shape}. {advice}"
      )
    yield raw, dense


def read_frame(array: h5py.Dataset, frame: int, path: Path) -> np.ndarray:
  """Depth in metres, float32 (H, W, 1); 0 where there is none."""
  try:
    depth = array[frame].T.astype(np.float32)
  except OSError as error:
    raise UsageError(
      f"{path} cannot be read at frame {frame + 1} of {array.name} ({error}). It may be damaged or half "
      "downloaded: get it again."
    ) from error
  return np.ascontiguousarray(np.where(np.isfinite(depth) & (depth > 0), depth, 0))[..., None]
