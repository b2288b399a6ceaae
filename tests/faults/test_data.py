"""Damaged, hostile or unreachable data: a message that names it, and no harm."""

import contextlib
import faulthandler
import io
import json
import os
from pathlib import Path
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib

from faults import MINUTES
import numpy as np
import pytest
import tifffile

from pix2pix_jax import translate
from pix2pix_jax.configs import folder as folder_config
from pix2pix_jax.configs import procedural
from pix2pix_jax.data import files, prepare, shards, summary
from pix2pix_jax.data.readers import facades, kitti_depth, nyu_depth, pairs, winter_summer
from pix2pix_jax.data.source import Damaged
from pix2pix_jax.errors import UsageError

resource = pytest.importorskip("resource", reason="limits of files and memory, as on Linux and macOS")

NOBODY = 65534


def drawn(prepared_dir, count=4):
  """The `data` section of façades drawn by code, of which a preparation takes a second."""
  data = procedural.get_config().data
  data.update(prepared_dir=str(prepared_dir), num_train=count, num_val=2, num_test=0, load_size=32, crop_size=32)
  return data


@contextlib.contextmanager
def without_privileges(folder):
  """In the block, this process may not read what is closed to all, even if it belongs to root; `folder` is open."""
  if os.geteuid():
    yield
    return
  for each in (folder, *folder.parents):
    if each.stat().st_uid == 0 and each != Path(each.root):
      each.chmod(each.stat().st_mode | 0o755)
  os.seteuid(NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


# --- Prepared data


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  return prepare.prepare(drawn(folder)).folder.relative_to(folder)


@pytest.fixture
def prepared(whole, tmp_path, tmp_path_factory):
  """A copy of prepared data: (prepared_dir, the folder of shards)."""
  shutil.copytree(tmp_path_factory.getbasetemp() / "whole0", tmp_path / "data")
  return tmp_path / "data", tmp_path / "data" / whole


def edit(path, change):
  path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def cut(path, size):
  with path.open("r+b") as file:
    file.truncate(size)


def shard(folder, split="train"):
  return next(folder.glob(f"*-{split}.*"))


DAMAGES = {
  "an empty index": lambda folder: edit(folder / shards.INDEX, lambda text: ""),
  "half an index": lambda folder: edit(folder / shards.INDEX, lambda text: text[: len(text) // 2]),
  "another index": lambda folder: edit(folder / shards.INDEX, lambda text: "{}"),
  "no index": lambda folder: (folder / shards.INDEX).unlink(),
  "too small a count": lambda folder: edit(folder / shards.INDEX, lambda text: text.replace('"4"', '"3"')),
  "too large a count": lambda folder: edit(folder / shards.INDEX, lambda text: text.replace('"4"', '"12"')),
  "a split that is not listed": lambda folder: edit(
    folder / shards.INDEX, lambda text: json.dumps({**json.loads(text), "splits": json.loads(text)["splits"][:1]})
  ),
  "no splits": lambda folder: edit(folder / shards.INDEX, lambda text: json.dumps({**json.loads(text), "splits": []})),
  "a missing shard": lambda folder: shard(folder).unlink(),
  "an empty shard": lambda folder: cut(shard(folder), 0),
  "half a shard": lambda folder: cut(shard(folder), 65536),
  "the last byte of a shard": lambda folder: cut(shard(folder), shard(folder).stat().st_size - 1),
  "nothing but a folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_prepared_data_is_prepared_again_and_the_folder_is_named(damage, prepared, capsys):
  prepared_dir, folder = prepared
  DAMAGES[damage](folder)
  source = prepare.prepare(drawn(prepared_dir))
  said = capsys.readouterr().out
  assert f"The prepared data in {folder} is damaged" in said and "It is prepared again." in said
  assert source.spec.counts == {"train": 4, "val": 2} and len(list(source.pairs("train"))) == 4
  assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_data_that_is_whole_is_not_prepared_again(prepared, capsys):
  prepared_dir, folder = prepared
  times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  prepare.prepare(drawn(prepared_dir))
  assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
  assert capsys.readouterr().out == ""


def test_shards_that_the_system_does_not_open_are_kept(prepared, monkeypatch):
  module = pytest.importorskip("array_record.python.array_record_module")

  def opening(path):
    raise RuntimeError(f"open() failed: Too many open files; opening {path}")

  monkeypatch.setattr(module, "ArrayRecordReader", opening)
  prepared_dir, folder = prepared
  with pytest.raises(UsageError, match="Too many open files"):
    prepare.prepare(drawn(prepared_dir))
  assert shard(folder).exists()


def test_a_flipped_bit_is_found_when_the_record_is_read(prepared):
  prepared_dir, folder = prepared
  content = bytearray(shard(folder).read_bytes())
  place = next(i for i in range(200, len(content)) if content[i])
  content[place] ^= 1
  shard(folder).write_bytes(content)
  source = prepare.prepare(drawn(prepared_dir))
  for reading in (lambda: source.read("train", 0), lambda: list(source.pairs("train")), lambda: source.ids("train")):
    with pytest.raises(Damaged, match="Delete this folder") as caught:
      reading()
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
  "change",
  [
    lambda text: "",
    lambda text: text[:-20],
    lambda text: "[" * 100_000,
    lambda text: text.replace('"count": 4', '"count": 7'),
    lambda text: text.replace('"checksum": "', '"checksum": "f'),
    lambda text: text.replace('"notes": []', '"notes": 5'),
  ],
)
def test_a_damaged_summary_is_made_again(change, prepared):
  prepared_dir, folder = prepared
  before = prepare.prepare(drawn(prepared_dir)).spec.fingerprint
  whole_text = (folder / summary.FILE).read_text(encoding="utf-8")
  edit(folder / summary.FILE, change)
  assert prepare.prepare(drawn(prepared_dir)).spec.fingerprint == before
  assert (folder / summary.FILE).read_text(encoding="utf-8") == whole_text


def test_remains_of_killed_preparations_are_removed_but_not_those_of_living_ones(tmp_path):
  folder = prepare.prepare(drawn(tmp_path)).folder
  keys = folder.parent.parent
  for key in (folder.parent, keys / "killed", keys / "living"):
    (key / "incomplete.ABC_1.0.0").mkdir(parents=True)
    (key / "incomplete.ABC_1.0.0/part").write_bytes(b"x")
  with shards.locked(keys / "living/1.0.0"):
    (keys / "living/incomplete.ABC_1.0.0").mkdir()  # after the lock, as TFDS does
    prepare.prepare(drawn(tmp_path, count=5))
    assert (keys / "living/incomplete.ABC_1.0.0").is_dir()
  assert not (keys / "killed").exists()
  (folder / shards.INDEX).unlink()
  prepare.prepare(drawn(tmp_path))
  assert not list(folder.parent.glob("incomplete.*")) and not (keys / "living").exists()


def test_a_full_disk_stops_preparation_with_a_message_and_leaves_nothing(tmp_path):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))  # a write beyond it fails as on a full disk
  try:
    with pytest.raises(UsageError, match="File too large.*free space") as caught:
      prepare.prepare(drawn(tmp_path))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert str(tmp_path) in str(caught.value)
  assert not [path for path in tmp_path.rglob("*") if path.is_file()]
  assert prepare.prepare(drawn(tmp_path)).spec.counts["train"] == 4


def test_places_for_prepared_data_that_cannot_be_used_are_named(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match=r"file.* cannot be .*data\.prepared_dir"):
    prepare.prepare(drawn(tmp_path / "file"))
  (tmp_path / "closed").mkdir(mode=0o555)
  with without_privileges(tmp_path), pytest.raises(UsageError, match=r"closed.* cannot be .*data\.prepared_dir"):
    prepare.prepare(drawn(tmp_path / "closed"))


@pytest.mark.parametrize("closed", [shards.INDEX, "*-val.*", "."])
def test_prepared_data_that_cannot_be_read_is_not_damaged(closed, prepared):
  prepared_dir, folder = prepared
  path = next(folder.glob(closed)) if closed != "." else folder
  mode = path.stat().st_mode
  path.chmod(0)
  try:
    with without_privileges(folder.parent), pytest.raises(UsageError, match="Permission denied"):
      prepare.prepare(drawn(prepared_dir))
  finally:
    path.chmod(mode)
  assert prepare.prepare(drawn(prepared_dir)).spec.counts["train"] == 4


# --- Files of images


def fuzz(program, *flags, timeout=120):
  """What a program of this folder prints at its end; it must not find a problem."""
  path = Path(__file__).with_name(program)
  environment = os.environ | {"PYTHONHASHSEED": "0"}
  result = subprocess.run(
    [sys.executable, path, *flags], capture_output=True, text=True, timeout=timeout, env=environment
  )
  assert result.returncode == 0, (result.stdout, result.stderr[-2000:])
  assert "0 problems" in result.stdout and "'refused': 0" not in result.stdout
  return result.stdout


def test_only_usage_errors_escape_from_damaged_files():
  """The long version: python tests/faults/fuzz.py --count=6000."""
  fuzz("fuzz.py", "--count=248")


def test_nor_from_files_whose_damage_is_guided_by_coverage():
  """A fixed number of files; in a soak, a sixth of its time. The long version: python tests/faults/guided.py."""
  pytest.importorskip("atheris", reason="pip install atheris, on Linux, damages files guided by coverage")
  seconds = 10 * MINUTES
  limits = [f"--seconds={seconds}", f"--seed={time.time_ns() % 2**31}"] if MINUTES else ["--seconds=60", "--count=600"]
  print(fuzz("guided.py", *limits, timeout=seconds + 120))


def test_a_tiff_whose_side_is_not_one_number_is_refused(tmp_path):
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, np.ones((8, 8), np.uint8), photometric="minisblack", metadata=None)
  content = bytearray(path.read_bytes())
  with tifffile.TiffFile(path) as file:
    tags = file.pages[0].tags
    places = {name: tags[name].offset for name in ("ImageWidth", "ImageLength", "SamplesPerPixel")}
  for name, place in places.items():
    for change in (struct.pack("<HI", 3, 2), struct.pack("<HI", 2, 3)):  # two numbers, or a text
      path.write_bytes(content[: place + 2] + change + content[place + 8 :])
      for reader in (files.read, files.claimed_size, files.lazy_shape, files.count_slices):
        with pytest.raises(UsageError, match="a.tif"):
          reader(path), name


@pytest.mark.parametrize(
  "line", ["NDims = 99999", "NDims:99999", "NDims = 3\nNDims = 99999", "NDims = 6", "NDims = -3", ""]
)
def test_a_metaimage_of_many_dimensions_does_not_reach_its_library(tmp_path, line):
  """SimpleITK would crash, and the interpreter with it."""
  path = tmp_path / "a.mha"
  text = f"ObjectType = Image\n{line}\nElementSpacing = 1 1 1\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
  path.write_bytes(text.encode() + b"ElementDataFile = LOCAL\n" + bytes(8))
  with pytest.raises(UsageError, match=r"a\.mha .*NDims is"):
    files.read(path, slice=0)
  path.write_bytes(path.read_bytes().replace(f"\n{line}\n".encode(), b"\nNDims = 3\n"))
  assert files.read(path, slice=0).shape == (2, 2, 1)


def npy_header(shape, dtype="<f8"):
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
  return stream.getvalue()


def png(width, height):
  """A PNG of one row that claims to be larger."""
  content = b"\x89PNG\r\n\x1a\n"
  for name, data in (
    (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
    (b"IDAT", zlib.compress(bytes(301))),
    (b"IEND", b""),
  ):
    content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
  return content


def hdf5(path, shape, **options):
  h5py = pytest.importorskip("h5py")
  with h5py.File(path, "w") as file:
    dataset = file.create_dataset("x", shape, np.float64, chunks=(1, *shape[1:]), **options)
    dataset[:1] = 1.0


def zeros_in_tiff(path, side):
  """A deflated strip of zeros that claims to be side × side."""
  rows = zlib.compress(bytes(min(side, 10**5)))
  numbers = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: side, 279: len(rows)}
  directory = struct.pack("<H", len(numbers))
  directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
  path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + directory + bytes(4))


BOMBS = {
  "40 GB.npy": lambda path: path.write_bytes(npy_header((50_000, 100_000)) + bytes(64)),
  "4 TB.npy": lambda path: path.write_bytes(npy_header((5 * 10**5, 10**6)) + bytes(64)),
  "overflow.npy": lambda path: path.write_bytes(npy_header((2**40, 2**40)) + bytes(64)),
  "deflated.npz": lambda path: zip_of(path, "x.npy", npy_header((1200, 10**6), "|u1"), zeros=12 * 10**8),
  "10⁹ frames.h5": lambda path: hdf5(path, (10**9, 64, 64)),
  "20000².h5": lambda path: hdf5(path, (20_000, 20_000), compression="gzip"),
  "huge.png": lambda path: path.write_bytes(png(2**30, 2**30)),
  "large.png": lambda path: path.write_bytes(png(60_000, 60_000)),
  "10000².png": lambda path: path.write_bytes(png(10_000, 10_000)),
  "side.tif": lambda path: zeros_in_tiff(path, 2**31 - 1),
  "large.tif": lambda path: zeros_in_tiff(path, 100_000),
}


def zip_of(path, name, head, zeros):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as member:
    member.write(head)
    for _ in range(zeros // 10**7):
      member.write(bytes(10**7))


@pytest.mark.parametrize("name", BOMBS)
def test_sizes_that_a_file_cannot_hold_are_refused_before_memory_is_taken(name, tmp_path):
  path = tmp_path / name
  BOMBS[name](path)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UsageError) as caught:
    files.read(path)
  assert str(path) in str(caught.value) and re.search(r"\d{6}", str(caught.value).replace(str(path), ""))
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_an_archive_that_is_named_npy_is_read_as_what_it_is(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.ones((4, 5), np.uint8))
  assert files.read((tmp_path / "a.npz").rename(tmp_path / "a.npy")).shape == (4, 5, 1)


def test_a_loop_of_tiff_directories_is_refused(tmp_path):
  path = tmp_path / "loop.tif"
  tifffile.imwrite(path, np.ones((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
  with tifffile.TiffFile(path) as file:
    first, last = file.pages[0].offset, file.pages[2].offset
  content = bytearray(path.read_bytes())
  place = last + 2 + 12 * struct.unpack_from("<H", content, last)[0]
  struct.pack_into("<I", content, place, first)
  path.write_bytes(content)
  with pytest.raises(UsageError, match="loop"):
    files.count_slices(path)


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/hostname", "sub/../../secret.raw", "..\\secret.raw"])
def test_headers_cannot_name_files_outside_their_folder(name, tmp_path):
  pytest.importorskip("SimpleITK")
  (tmp_path / "data/sub").mkdir(parents=True)
  for place in ("secret.raw", "data/own.raw"):
    (tmp_path / place).write_bytes(bytes(range(16)))
  meta = "ObjectType = Image\nNDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = {}\n"
  nrrd = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: {}\n\n"
  for suffix, text in (("mhd", meta), ("mha", meta), ("nrrd", nrrd)):
    path = tmp_path / f"data/a.{suffix}"
    path.write_text(text.format("own.raw"))
    assert files.read(path)[1, 1, 0] == 5
    path.write_text(text.format(name))
    with pytest.raises(UsageError, match="outside its folder"):
      files.read(path)
    path.write_text(text.format("LIST\nown.raw\n" + name))
    with pytest.raises(UsageError):
      files.read(path)


def test_hdf5_cannot_refer_to_other_files(tmp_path):
  h5py = pytest.importorskip("h5py")
  (tmp_path / "secret").write_bytes(bytes(range(16)))
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["x"] = np.ones((4, 4), np.uint8)
  with h5py.File(tmp_path / "storage.h5", "w") as file:
    file.create_dataset("x", (4, 4), np.uint8, external=[(str(tmp_path / "secret"), 0, 16)])
  with h5py.File(tmp_path / "link.h5", "w") as file:
    file["x"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
  with h5py.File(tmp_path / "virtual.h5", "w") as file:
    layout = h5py.VirtualLayout((4, 4), np.uint8)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4, 4))
    file.create_virtual_dataset("x", layout)
  for name in ("storage", "link", "virtual"):
    with pytest.raises(UsageError, match=str(tmp_path / name)):
      files.read(tmp_path / f"{name}.h5")


def test_a_frame_of_nyu_cannot_refer_to_other_files_or_claim_more_than_it_holds(tmp_path):
  h5py = pytest.importorskip("h5py")
  (tmp_path / "secret").write_bytes(bytes(64))
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["depth"] = np.ones((4, 4), np.float32)
  makers = {
    "link": lambda file: file.__setitem__("depth", h5py.ExternalLink(str(tmp_path / "other.h5"), "depth")),
    "storage": lambda file: file.create_dataset("depth", (4, 4), "f4", external=[(str(tmp_path / "secret"), 0, 64)]),
    "claim": lambda file: file.create_dataset("depth", (10**6, 10**6), "f4", chunks=(64, 64)),
  }
  for name, make in makers.items():
    with h5py.File(tmp_path / f"{name}.h5", "w") as file:
      file["rgb"] = np.zeros((3, 4, 4), np.uint8)
      make(file)
    with pytest.raises(UsageError, match=f"{name}.h5"):
      nyu_depth.read_photo_and_depth(tmp_path / f"{name}.h5")
  with h5py.File(tmp_path / nyu_depth.FILE, "w") as file:
    for name in ("rawDepths", "depths"):
      file.create_dataset(name, (10**9, 64, 48), "f4", chunks=(1, 64, 48))
  with pytest.raises(UsageError, match="claims"):
    nyu_depth.find_splits(tmp_path / nyu_depth.FILE)


# --- Folders


@pytest.fixture
def no_hang():
  """Ends a test that waits for a pipe, in which nobody writes."""
  faulthandler.dump_traceback_later(30, exit=True)
  yield
  faulthandler.cancel_dump_traceback_later()


def test_pipes_among_the_images_of_every_reader_are_never_opened(tmp_path, no_hang):
  rgb, depth = np.zeros((352, 1216, 3), np.uint8), np.ones((352, 1216, 1), np.uint16)
  selection = tmp_path / "kitti/val_selection_cropped"
  cases = {
    "facades": (tmp_path / "facades/train/1.jpg", lambda source: facades.read_archive_pair(source / "train/1.jpg")),
    "kitti": (
      selection / "image/d_image_0000000005_image_02.png",
      lambda source: kitti_depth.read_frame(kitti_depth.find_splits(source)[0]["train"][0]),
    ),
    "winter": (tmp_path / "winter/annotations/attributes.txt", winter_summer.find_splits),
    "nyu": (tmp_path / "nyu/train/1.h5", nyu_depth.find_frames),
    "folder": (tmp_path / "folder/A/2.png", lambda source: pairs.find_splits(source)[0]["missing"]),
  }
  files.write(
    tmp_path / "kitti/val_selection_cropped/groundtruth_depth/d_groundtruth_depth_0000000005_image_02.png", depth
  )
  files.write(tmp_path / "folder/A/1.png", rgb[:8, :8])
  for name in "12":
    files.write(tmp_path / f"folder/B/{name}.png", rgb[:8, :8])
  (tmp_path / "winter/annotations").mkdir(parents=True)
  (tmp_path / "winter/annotations/annotations.tsv").write_text("1/a.jpg\t1,1\n")
  for name, (pipe, reading) in cases.items():
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    with pytest.raises((UsageError, KeyError)) as caught:
      reading(tmp_path / name)
    assert pipe.name in str(caught.value) or name in ("nyu", "folder"), "left out, and the others are used"
  assert any("2.png" in note and "cannot be opened" in note for note in pairs.find_splits(tmp_path / "folder")[1])


def test_pipes_and_devices_are_never_opened(tmp_path, no_hang):
  os.mkfifo(tmp_path / "a.png")
  (tmp_path / "b.png").symlink_to("/dev/zero")
  for name in "ab":
    with pytest.raises(UsageError, match="not a regular file"):
      files.read(tmp_path / f"{name}.png")
  assert files.find(tmp_path) == ([], [tmp_path / "a.png", tmp_path / "b.png"])
  with pytest.raises(UsageError, match="holds no image"):
    translate.find_inputs(str(tmp_path))


def test_a_pipe_beside_dicom_slices_is_never_opened(tmp_path, no_hang):
  sitk = pytest.importorskip("SimpleITK")
  for number in range(2):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 4, 4), np.int16)), str(tmp_path / f"{number}.dcm"))
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UsageError, match="pipe"):
    files.read(tmp_path)


@pytest.mark.parametrize("path", ["../../secret/a.jpg", "1/../../secret/a.jpg", "1//etc/a.jpg", "/etc/a.jpg"])
def test_annotations_cannot_name_photographs_outside_their_folder(path, tmp_path):
  (tmp_path / "annotations").mkdir()
  (tmp_path / "annotations/attributes.txt").write_text("winter\ncold\nice\nsummer\nwarm\nspring\n")
  (tmp_path / "annotations/annotations.tsv").write_text(
    f"{path}\t" + "\t".join(["0.9,1"] * 3 + ["0,1"] * 3) + "\n1/b.jpg\t" + "\t".join(["0,1"] * 3 + ["0.9,1"] * 3) + "\n"
  )
  with pytest.raises(UsageError, match=r"annotations\.tsv, line 1"):
    winter_summer.find_splits(tmp_path)


@pytest.mark.parametrize("closed", ["A", "A/1.png", "."])
def test_folders_and_files_that_cannot_be_read_are_named(closed, tmp_path):
  for side in "AB":
    for name in "12":
      files.write(tmp_path / f"raw/{side}/{name}.png", np.zeros((8, 8, 3), np.uint8))
  data = folder_config.get_config().data
  data.update(source_dir=str(tmp_path / "raw"), prepared_dir=str(tmp_path / "prepared"))
  path = tmp_path / "raw" / closed
  mode = path.stat().st_mode
  (tmp_path / "prepared").mkdir()
  (tmp_path / "prepared").chmod(0o777)
  with without_privileges(tmp_path / "raw"):
    pass  # opens the parents
  path.chmod(0)
  try:
    if os.geteuid() == 0:
      os.seteuid(NOBODY)
    with pytest.raises(UsageError, match="Permission denied") as caught:
      prepare.prepare(data)
  finally:
    os.seteuid(os.getuid())
    path.chmod(mode)
  assert str(tmp_path / "raw") in str(caught.value)
