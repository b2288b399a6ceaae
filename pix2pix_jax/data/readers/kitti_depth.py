"""KITTI's depth set: photograph → sparse LiDAR depth (Uhrig et al., "Sparsity Invariant CNNs", 3DV 2017), in either of
two raw layouts:

* `annotated`: `data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_0[23]/FRAME.png`, with the
  photographs of KITTI's raw data, `DATE/DRIVE/image_0[23]/data/FRAME.png` (or .jpg). About 1242×375, cropped here.
* `selection`: `val_selection_cropped/{image,groundtruth_depth}`, 1000 pairs of 1216×352, cropped already. The first
  `image` in a photograph's name is `groundtruth_depth` in the name of its depth.

For depth completion, `data.inputs` names the photograph and the depth of a single LiDAR scan, `image` and
`velodyne_raw`. The scan is `proj_depth/velodyne_raw/image_0[23]/FRAME.png` beside the annotated depth, or the file in
the selection's `velodyne_raw/` in whose name `velodyne_raw` stands for `groundtruth_depth`.

Depth has 16 bits in units of 1/256 metre, 0 where nothing was measured; it is read exactly and never resampled.
Photograph and depth are cropped to the bottom 352 rows and the middle 1216 columns, like the selection: no LiDAR beam
reaches the rows above.

Splits. If the depth set's own train and val folders exist, they are `train` and `val` (its test set has no public
depth). Otherwise, of three or more drives, the last tenth by date is `test` and the tenth before it `val`. Fewer drives
are divided by time: the first 70 % of each drive's frames are `train`, the next 15 % `val`, the rest `test`. Both
cameras of a frame are in one split. Where two such blocks meet, frames are a tenth of a second apart, which is good
enough for a trial but not for a published result.
"""

import dataclasses
import functools
from pathlib import Path
import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data import files
from pix2pix_jax.data.encoding import keep_files
from pix2pix_jax.data.readers import examples
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.signals import Stack

INPUTS = ("image", "velodyne_raw")  # of depth completion; the first alone otherwise
HEIGHT, WIDTH = 352, 1216
LAYOUTS = ("auto", "selection", "annotated")
WANTED = (
  "either data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_0[23]/FRAME.png with the photographs "
  "DATE/DRIVE/image_0[23]/data/FRAME.png in it, in raw/, in kitti_raw/ or beside it; or val_selection_cropped/image "
  "and "
  "val_selection_cropped/groundtruth_depth. Get data_depth_annotated.zip or data_depth_selection.zip from "
  "https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction and the photographs with its raw "
  "data "
  "download script (registration; for non-commercial use). Without any download, --config=kitti:procedural "
  "trains on built-in scenes"
)


@dataclasses.dataclass(eq=False)
class KittiDepthConfig(examples.ReaderConfig):
  """`layout`: annotated, selection, or auto (see `find_splits`)."""

  layout: str = "auto"

  @property
  def kinds(self) -> tuple[str, str]:
    """Of the input and the target."""
    return Stack.kind if self.parts else "image", "depth"


class KittiDepth(examples.Builder):
  """KITTI as `{input: uint8 (352, 1216, 3), target: float32 metres (352, 1216, 1), id}`; for depth completion the input
  is float32 (352, 1216, 4), the photograph and the metres of a scan.
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {
          "input": examples.real_numbers(4) if self.builder_config.parts else examples.picture(),
          "target": examples.real_numbers(),
          "id": tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    config = self.builder_config
    source = examples.source_folder(config.source_dir, "KITTI", WANTED)
    splits, _ = find_splits(source, config.layout, scans=bool(config.parts))
    return {split: self._generate_examples(split, frames) for split, frames in splits.items()}

  def _generate_examples(self, split: str, frames: list["Frame"]) -> Any:
    return self.generate(split, frames, functools.partial(_example, bool(self.builder_config.parts)))


class Frame(NamedTuple):
  """A photograph of one camera (image_02 is left, image_03 right) with its depth. Sorts by time."""

  drive: str
  number: str
  camera: str
  photo: Path
  depth: Path
  scan: Path | None = None

  @property
  def id(self) -> str:
    return f"{self.drive}/{self.camera}/{self.number}"


def _example(with_scan: bool, frame: Frame) -> dict[str, Any]:
  photo, depth, *scans = read_frame(frame if with_scan else frame._replace(scan=None))
  example = {"input": photo}
  if scans:
    example["input"] = np.concatenate([photo.astype(np.float32), *scans], axis=-1)
  else:
    example = keep_files(example, {"input": frame.photo})
  return {**example, "target": depth, "id": frame.id}


def find_splits(source: Path, layout: str = "auto", *, scans: bool = False) -> tuple[dict[str, list[Frame]], list[str]]:
  """Returns the frames of each split that exists, in order, and lines about files that were found or skipped.

  Args:
    source: the folder of either layout, or one above it.
    layout: `auto` prefers the selection if `source` itself is one (val_selection_cropped), else the annotated layout
      if it has photographs, else the selection.
    scans: whether only frames with the depth of a single scan are used.

  Raises:
    UsageError: no frames, or an unknown layout.
  """
  if layout not in LAYOUTS:
    raise UsageError(f"data.layout is {layout!r}; the layouts of KITTI are {', '.join(LAYOUTS)}.")
  tried = ["selection", "annotated"] if _is_selection(source) else ["annotated", "selection"]
  notes = []
  for name in tried if layout == "auto" else [layout]:
    found, unmatched = _annotated_frames(source) if name == "annotated" else _selection_frames(source)
    problems = []
    if unmatched:
      problems.append(f"{len(unmatched)} depth maps of the {name} layout have no photograph, such as {unmatched[0]}")
    if scans:
      without = [frame.depth for frames in found.values() for frame in frames if frame.scan is None]
      found = {split: [frame for frame in frames if frame.scan] for split, frames in found.items()}
      if without:
        problems.append(f"{len(without)} depth maps of the {name} layout have no scan in velodyne_raw: {few(without)}")
    notes += problems
    splits = {split: frames for split, frames in _cut(found).items() if frames}
    if splits:
      counts = []
      for split, frames in splits.items():
        drives = len({frame.drive for frame in frames})
        counts.append(f"{split} {len(frames)} frame{'s' * (len(frames) > 1)} from {drives} drive{'s' * (drives > 1)}")
      skipped = [f"KITTI: skipped: {problem}." for problem in problems]
      return splits, [*skipped, f"KITTI, {name} layout: {', '.join(counts)}."]
  raise UsageError(
    f"data.source_dir {str(source)!r} holds no pairs of KITTI (data.layout {layout!r})"
    f"{': ' + '; '.join(notes) if notes else ''}. Looked for {WANTED}."
  )


def report(source: Path, layout: str = "auto", *, scans: bool = False) -> list[str]:
  """Lines for the user about files that were found or skipped."""
  return find_splits(source, layout, scans=scans)[1]


def raw_folders(source: Path, layout: str = "auto") -> list[Path]:
  """The folders that hold the images `find_splits` finds; there may be none."""
  parts = ("image", "groundtruth_depth", "velodyne_raw")
  selection = [folder / part for folder in _selections(source) for part in parts]
  drives = [drive for root in _annotated_roots(source) for drive in sorted(root.glob("*/*_drive_*"))]
  annotated = [drive / "proj_depth" for drive in drives]
  for drive in drives:
    annotated += _photo_folders(source, drive.name, "image_02") + _photo_folders(source, drive.name, "image_03")
  return {"selection": selection, "annotated": annotated, "auto": selection + annotated}.get(layout, [])


def _is_selection(folder: Path) -> bool:
  return (folder / "image").is_dir() and (folder / "groundtruth_depth").is_dir()


def _selections(source: Path) -> list[Path]:
  candidates = [source / part for part in ("", "val_selection_cropped", "depth_selection/val_selection_cropped")]
  return [folder for folder in candidates if _is_selection(folder)][:1]


def _annotated_roots(source: Path) -> list[Path]:
  candidates = (source, source / "data_depth_annotated")
  return [root for root in candidates if any((root / split).is_dir() for split in ("train", "val"))][:1]


def _photo_folders(source: Path, drive: str, camera: str) -> list[Path]:
  """The folders, in `source` or beside it, that may hold the photographs of a drive."""
  roots = [base / part for base in (source, source.absolute().parent) for part in ("", "raw", "kitti_raw")]
  return [folder for root in roots if (folder := root / drive[:10] / drive / camera / "data").is_dir()]


def _annotated_frames(source: Path) -> tuple[dict[str, list[Frame]], list[Path]]:
  """({train or val: frames}, depth maps without photograph)."""
  found: dict[str, list[Frame]] = {"train": [], "val": []}
  unmatched = []
  for root in _annotated_roots(source):
    for split, frames in found.items():
      for folder in sorted(root.glob(f"{split}/*_drive_*/proj_depth/groundtruth/image_0[23]")):
        drive, camera = folder.parents[2].name, folder.name
        photos: dict[str, Path] = {}
        for photo_folder in reversed(_photo_folders(source, drive, camera)):  # the nearest wins, and .png over .jpg
          for suffixes in ((".jpg", ".jpeg"), (".png",)):
            photos |= {photo.stem: photo for photo in examples.images_in(photo_folder, suffixes)}
        for depth in examples.images_in(folder, (".png",)):
          if depth.stem in photos:
            scan = folder.parents[1] / "velodyne_raw" / camera / depth.name
            found_scan = scan if scan.exists() else None
            frames.append(Frame(drive, depth.stem, camera, photos[depth.stem], depth, found_scan))
          else:
            unmatched.append(depth)
  return found, unmatched


def _selection_frames(source: Path) -> tuple[dict[str, list[Frame]], list[Path]]:
  """({"": frames}, depth maps without photograph)."""
  frames, unmatched = [], []
  for root in _selections(source):
    for depth in examples.images_in(root / "groundtruth_depth", (".png",)):
      parts = re.fullmatch(r"(.+)_groundtruth_depth_(\d+)_(image_0[23])", depth.stem)
      if not parts:
        raise UsageError(
          f"{depth} is not named as the selection names its files, DRIVE_groundtruth_depth_FRAME_image_02.png. "
          "Rename or remove it."
        )
      photo = root / "image" / depth.name.replace("groundtruth_depth", "image", 1)
      scan = root / "velodyne_raw" / depth.name.replace("groundtruth_depth", "velodyne_raw", 1)
      if photo.exists():
        frames.append(Frame(parts[1], parts[2], parts[3], photo, depth, scan if scan.exists() else None))
      else:
        unmatched.append(depth)
  return {"": frames}, unmatched


def _cut(found: dict[str, list[Frame]]) -> dict[str, list[Frame]]:
  """KITTI's own train and val if both have frames; else by drive, or by time within each drive."""
  found = {split: sorted(frames) for split, frames in found.items() if frames}
  if set(found) == {"train", "val"}:
    return found
  frames = next(iter(found.values()), [])
  drives = sorted({frame.drive for frame in frames})
  if len(drives) >= 3:
    split_of = {drive: split for split, members in examples.held_out(drives).items() for drive in members}
    return {split: [frame for frame in frames if split_of[frame.drive] == split] for split in ("train", "val", "test")}
  splits: dict[str, list[Frame]] = {"train": [], "val": [], "test": []}
  for drive in drives:
    of_drive = [frame for frame in frames if frame.drive == drive]
    numbers = sorted({frame.number for frame in of_drive})
    split_of = {number: split for split, members in examples.blocks(numbers, 0.7, 0.15).items() for number in members}
    for frame in of_drive:
      splits[split_of[frame.number]].append(frame)
  return splits


def read_frame(frame: Frame) -> tuple[np.ndarray, ...]:
  """(photograph uint8 (352, 1216, 3), depth float32 metres (352, 1216, 1)), and the scan's metres if there is one."""
  photo = examples.read_rgb(frame.photo)
  depths = [(path, read_depth(path)) for path in filter(None, (frame.depth, frame.scan))]
  for path, depth in depths:
    if photo.shape[:2] != depth.shape[:2]:
      raise UsageError(
        f"{frame.photo} is {_size(photo)} but its depth {path} is {_size(depth)} (width × height); "
        "they should be of one frame: restore or remove them."
      )
  return crop(photo, frame.photo), *(crop(depth, path) for path, depth in depths)


def read_depth(path: Path) -> np.ndarray:
  """A 16-bit depth map as float32 metres (H, W, 1); 0 where nothing was measured."""
  depth = files.read(path)
  if depth.shape[-1] != 1 or depth.dtype != np.uint16:
    raise UsageError(
      f"{path} should be a depth map of one 16-bit channel; it is {depth.dtype} {depth.shape}. "
      "It may have been converted, which loses the depth; use the original."
    )
  return depth.astype(np.float32) / np.float32(files.KITTI_SCALE)


def crop(image: np.ndarray, path: Path) -> np.ndarray:
  """The bottom 352 rows and the middle 1216 columns."""
  height, width = image.shape[:2]
  if height < HEIGHT or width < WIDTH:
    raise UsageError(f"{path} is {_size(image)}; KITTI's images are {WIDTH}×{HEIGHT} (width × height) or larger.")
  left = (width - WIDTH) // 2
  return image[height - HEIGHT :, left : left + WIDTH]


def _size(image: np.ndarray) -> str:
  return f"{image.shape[1]}×{image.shape[0]}"
