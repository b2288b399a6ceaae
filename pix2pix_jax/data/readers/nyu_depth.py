"""NYU Depth v2: the depth of a Kinect with its holes → the dense depth, or photographs → depth (Silberman et al.,
"Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012), 1,449 labelled frames of 464 rooms.

In either of two raw layouts:

* `nyu_depth_v2_labeled.mat` (MATLAB 7.3, which is HDF5), of which `rawDepths` and `depths` are read, both
  (1449, 640, 480) float32 metres, each frame transposed; a raw depth of 0 is a hole. The two differ by some millimetres
  even where the raw depth was measured. They are read frame by frame, so the file's 2.8 GB are never in memory at once.
* one HDF5 file for each frame, as repositories for depth prediction use: `train/SCENE/00001.h5`,
  `val/official/00045.h5`, each with `rgb`, uint8 (3, H, W) or (H, W, 3), and `depth`, float (H, W) in metres. They are
  pairs of photograph → depth. A folder that holds both layouts is read as the .mat.

Splits of the .mat. With the official `splits.mat` beside it (trainNdxs, testNdxs, counted from 1), its test frames are
`test`; every tenth of its train frames is `val`, the rest `train`. That val shares rooms with train; test shares none.
Without splits.mat, the first 80 % are `train`, the next 10 % `val`, the rest `test`. Neighbouring frames show the same
room, so contiguous blocks leak least.

Splits of frames are the folders train/, val/ and test/; a split without a folder does not exist.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data import files
from pix2pix_jax.data.formats import hdf5
from pix2pix_jax.data.readers import examples
from pix2pix_jax.errors import UsageError, few

FILE = "nyu_depth_v2_labeled.mat"
SPLITS = ("train", "val", "test")
SUFFIXES = (".h5", ".hdf5")  # of single frames
WANTED = (
  f"{FILE} and, for the official split, splits.mat; or HDF5 files of single frames, train/SCENE/00001.h5 and "
  "val/SCENE/00045.h5, each with rgb and depth. Get the .mat files from "
  "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html "
  "(http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat, 2.8 GB, and "
  "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat). Without any download, "
  "--config=configs/nyu.py:procedural trains on built-in rooms"
)


@dataclasses.dataclass(eq=False)
class NyuDepthConfig(examples.ReaderConfig):
  """`source_dir` is the .mat file, its folder, or the folder that holds the frames' train/ and val/.

  Attributes:
    kinds: kinds of input and target, `("image", "depth")` for single frames.
  """

  kinds: tuple[str, str] = ("depth", "depth")

  @property
  def has_photos(self) -> bool:
    return self.kinds[0] == "image"


class NyuDepth(examples.Builder):
  """NYU as `{input: raw depth, target: dense depth, id}`, float32 metres (480, 640, 1); of single frames, the input is
  the photograph, uint8 (H, W, 3).
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {
          "input": examples.picture() if self.builder_config.has_photos else examples.real_numbers(),
          "target": examples.real_numbers(),
          "id": tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    source = examples.source_folder(self.builder_config.source_dir, "NYU", WANTED)
    if self.builder_config.has_photos:
      found = find_frames(source)
      return {split: self._generate_frames(source / split, split, paths) for split, paths in found.items()}
    path = find_file(source)
    return {split: self._generate_examples(path, split, frames) for split, frames in find_splits(path).items()}

  def _generate_frames(self, folder: Path, split: str, paths: list[Path]) -> Any:
    return self.generate(split, paths, functools.partial(_example_of_file, folder))

  def _generate_examples(self, path: Path, split: str, frames: list[int]) -> Any:
    return self.generate(split, frames, _Frames(path))


def _example_of_file(folder: Path, path: Path) -> dict[str, Any]:
  photo, depth = read_photo_and_depth(path)
  return {"input": photo, "target": depth, "id": path.relative_to(folder).with_suffix("").as_posix()}


class _Frames:
  """The examples of a .mat file by frame. Each process opens the file once, for the first frame that it reads."""

  def __init__(self, path: Path):
    self._path, self._opened = path, contextlib.ExitStack()
    self._depths: tuple[h5py.Dataset, ...] = ()

  def __reduce__(self) -> tuple[type, tuple[Path]]:
    return _Frames, (self._path,)

  def __call__(self, frame: int) -> dict[str, Any]:
    self._depths = self._depths or self._opened.enter_context(open_frames(self._path))
    raw, dense = (read_frame(depths, frame, self._path) for depths in self._depths)
    return {"input": raw, "target": dense, "id": f"{frame + 1:04d}"}


def holds_frames(source: Path) -> bool:
  """Whether a folder holds HDF5 files of single frames, and no .mat file."""
  return source.is_dir() and not (source / FILE).is_file() and any(map(Path.is_dir, _split_folders(source)))


def _split_folders(source: Path) -> list[Path]:
  return [source / split for split in SPLITS]


def find_frames(source: Path) -> dict[str, list[Path]]:
  """The files of single frames of each split that exists, in natural order.

  Raises:
    UsageError: there are none.
  """
  found = {folder.name: files.find(folder)[0] for folder in _split_folders(source) if folder.is_dir()}
  frames = {split: [path for path in paths if path.suffix.lower() in SUFFIXES] for split, paths in found.items()}
  if not any(frames.values()):
    raise UsageError(
      f"data.source_dir {str(source)!r} holds no HDF5 files in {' and '.join(f'{split}/' for split in frames)}. It "
      f"should hold {WANTED}."
    )
  return {split: paths for split, paths in frames.items() if paths}


def find_file(source: Path) -> Path:
  """The .mat file that `source` is or holds."""
  path = source / FILE if source.is_dir() else source
  if not path.is_file():
    raise UsageError(f"data.source_dir {str(source)!r} holds no {FILE}. It should hold {WANTED}.")
  return path


def raw_files(source: Path) -> list[Path]:
  """The files and folders that the reader reads; there may be none."""
  if holds_frames(source):
    return [folder for folder in _split_folders(source) if folder.is_dir()]
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
    missing = [name for name in ("rawDepths", "depths") if hdf5.get(file, name) is None]
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
    try:
      for array in (raw, dense):
        hdf5.check(array, path.stat().st_size)
    except ValueError as error:
      raise UsageError(f"{path} cannot be read ({error}). {advice}") from error
    yield raw, dense


def read_frame(array: h5py.Dataset, frame: int, path: Path) -> np.ndarray:
  """Depth in metres, float32 (H, W, 1); 0 where there is none."""
  try:
    depth = array[frame].T.astype(np.float32)
  except (OSError, ValueError, RuntimeError) as error:
    raise UsageError(
      f"{path} cannot be read at frame {frame + 1} of {array.name} ({error}). It may be damaged or half "
      "downloaded: get it again."
    ) from error
  return _metres(depth)


def _metres(depth: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(np.where(np.isfinite(depth) & (depth > 0), depth, 0), dtype=np.float32)[..., None]


def read_photo_and_depth(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """The photograph, uint8 (H, W, 3), and the depth in metres, float32 (H, W, 1), 0 where there is none, of a frame.

  Raises:
    UsageError: damaged, or without both of them in these forms.
  """
  try:
    with h5py.File(path, "r") as file:
      missing = [name for name in ("rgb", "depth") if hdf5.get(file, name) is None]
      if missing:
        others = f", only {few(file, 20)}" if len(file) else ""
        raise UsageError(f"{path} has no {' and no '.join(missing)}{others}. A frame holds rgb and depth.")
      photo, depth = (hdf5.whole(file[name], path.stat().st_size) for name in ("rgb", "depth"))
  except UsageError:
    raise
  except (OSError, ValueError, RuntimeError, KeyError) as error:  # by h5py, of a damaged file
    raise UsageError(
      f"{path} cannot be read as an HDF5 file ({error}). It may be damaged or half downloaded: get it again, or remove "
      "it."
    ) from error
  rgb = np.moveaxis(photo, 0, -1) if photo.shape == (3, *depth.shape) else photo
  if depth.ndim != 2 or depth.dtype.kind != "f" or rgb.shape != (*depth.shape, 3) or rgb.dtype != np.uint8:
    raise UsageError(
      f"{path}: depth should be float metres, (height, width), and rgb uint8 of the same size, (3, height, width) or "
      f"(height, width, 3); they are {depth.dtype} {depth.shape} and {photo.dtype} {photo.shape}."
    )
  return np.ascontiguousarray(rgb), _metres(depth)
