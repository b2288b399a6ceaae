"""Preparation on Apache Beam: the same examples in the same order as without it, and errors that name their file."""

import sys

import h5py
import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import beam, files, prepare
from pix2pix_jax.data.encoding import Record
from pix2pix_jax.data.readers import kitti_depth
from pix2pix_jax.errors import UsageError

RUNNER = "--runner=DirectRunner --direct_num_workers=1"
PROCESSES = f"{RUNNER} --direct_running_mode=multi_processing"


@pytest.fixture
def apache_beam():
  return pytest.importorskip("apache_beam", reason="apache-beam is not installed: pip install '.[beam]'")


def make_data(tmp_path, name, **fields):
  data = config_lib.default().data
  data.update({"name": name, "prepared_dir": str(tmp_path / "prepared"), "load_size": 16, "crop_size": 16, **fields})
  return data


def records(source):
  """Ids and encoded arrays of every split, in order. (How protocol buffers order a map depends on the process.)"""
  return {split: [Record.parse(record) for record in source._records(split)] for split in source.spec.counts}


def assert_same_on_beam(tmp_path, data, capsys, splits, options=RUNNER):
  plain = prepare.prepare(data)
  data.update({"prepared_dir": str(tmp_path / "beam"), "beam": options})
  by_beam = prepare.prepare(data)
  shown = capsys.readouterr().out
  assert f"by Apache Beam ({options})" in shown
  assert set(plain.spec.counts) == set(splits)
  assert records(by_beam) == records(plain)
  assert by_beam.spec == plain.spec
  assert by_beam.folder.relative_to(tmp_path / "beam") == plain.folder.relative_to(tmp_path / "prepared")
  assert {path.name for path in by_beam.folder.iterdir()} == {path.name for path in plain.folder.iterdir()}
  data.beam = "--runner=Nonsense"  # it is prepared already
  assert records(prepare.prepare(data)) == records(plain)
  return plain, shown


def draw(seed, *shape):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_image(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def test_procedural(tmp_path, capsys, apache_beam):
  data = make_data(tmp_path, "procedural", num_train=23, num_val=3, num_test=1)
  assert_same_on_beam(tmp_path, data, capsys, ["train", "val", "test"], PROCESSES)


def test_facades(tmp_path, capsys, apache_beam):
  for number in range(1, 13):
    write_image(tmp_path / f"raw/train/{number}.jpg", draw(number, 16, 32, 3))
  data = make_data(tmp_path, "facades", source_dir=str(tmp_path / "raw"))
  plain, _ = assert_same_on_beam(tmp_path, data, capsys, ["train"])
  assert plain.ids("train") == [str(number) for number in range(1, 13)], "numeric order"


def test_kitti(tmp_path, capsys, apache_beam, monkeypatch):
  monkeypatch.setattr(kitti_depth, "HEIGHT", 8)  # the runner's workers are threads of this process
  monkeypatch.setattr(kitti_depth, "WIDTH", 24)
  drive = "2011_09_26_drive_0001_sync"
  depths = tmp_path / f"raw/data_depth_annotated/train/{drive}/proj_depth/groundtruth/image_02"
  photos = tmp_path / f"raw/raw/2011_09_26/{drive}/image_02/data"
  for number in range(10):
    write_image(depths / f"{number:010d}.png", draw(number, 10, 30).astype(np.uint16) * 100)
    write_image(photos / f"{number:010d}.png", draw(number, 10, 30, 3))
  data = make_data(tmp_path, "kitti_depth", source_dir=str(tmp_path / "raw"), depth_range=(0.0, 256.0))
  assert_same_on_beam(tmp_path, data, capsys, ["train", "val", "test"])


def test_nyu(tmp_path, capsys, apache_beam):
  (tmp_path / "raw").mkdir()
  depth = np.random.default_rng(0).uniform(1, 9, (10, 16, 16)).astype(np.float32)
  with h5py.File(tmp_path / "raw/nyu_depth_v2_labeled.mat", "w") as file:
    file["rawDepths"], file["depths"] = depth, depth + 0.5
  data = make_data(tmp_path, "nyu_depth", source_dir=str(tmp_path / "raw"))
  assert_same_on_beam(tmp_path, data, capsys, ["train", "val", "test"])


def test_folder_with_notes_about_its_files(tmp_path, capsys, apache_beam):
  for split, count in (("train", 5), ("val", 2)):
    for number in range(count):
      volume = np.random.default_rng(number).uniform(1, 9, (3, 6, 8, 1)).astype(np.float32)
      files.write_volume(tmp_path / f"raw/A/{split}/{number}.npy", volume)
      volume[number % 3] = np.nan  # left out
      volume[:, :2] = -1 - number  # a warning
      files.write_volume(tmp_path / f"raw/B/{split}/{number}.npy", volume)
  data = make_data(tmp_path, "folder", source_dir=str(tmp_path / "raw"), input_kind="quantity", target_kind="depth")
  _, shown = assert_same_on_beam(tmp_path, data, capsys, ["train", "val"])
  notes = [line for line in shown.splitlines() if "Left out" in line or "are negative" in line]
  assert len(notes) == 4 and notes[:2] == notes[2:], notes
  assert "Left out 7 slices without a value: 1 of 0.npy, 1 of 1.npy" in notes[0]


def test_shards_are_in_the_order_of_the_raw_files(tmp_path, capsys, apache_beam, monkeypatch):
  configure = beam.configure

  def with_shards(options):
    settings = configure(options)
    settings.num_shards = 4
    return settings

  monkeypatch.setattr(beam, "configure", with_shards)
  for number in range(30):
    files.write(tmp_path / f"raw/train/{number}.png", draw(number, 4, 8, 1))
  data = make_data(tmp_path, "folder", source_dir=str(tmp_path / "raw"))
  plain, _ = assert_same_on_beam(tmp_path, data, capsys, ["train"])
  assert len(list(plain.folder.glob("*-train.*-of-00004"))) == 4


def test_all_unusable_files_are_named(tmp_path, capfd, apache_beam):
  for number in range(8):
    files.write(tmp_path / f"raw/{'val' if number > 6 else 'train'}/{number}.png", draw(number, 4, 8, 1 + number % 2))
  for damaged in ("train/2.png", "val/7.png"):
    path = tmp_path / "raw" / damaged
    path.write_bytes(path.read_bytes()[:60])
  data = make_data(tmp_path, "folder", source_dir=str(tmp_path / "raw"))
  with pytest.raises(UsageError) as plain:
    prepare.prepare(data)
  data.beam = PROCESSES
  with pytest.raises(UsageError) as by_beam:
    prepare.prepare(data)
  message = str(by_beam.value)
  assert message == str(plain.value) and all(f"/{number}.png" in message for number in (1, 3, 5, 2, 7)), message
  assert "Traceback" not in capfd.readouterr().err
  assert not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()], "nothing half written is kept"


def test_unusable_facades_are_named(tmp_path, apache_beam):
  for number in range(30):
    write_image(tmp_path / f"raw/train/{number}.jpg", draw(number, 16, 31 if number % 2 else 32, 3))
  with pytest.raises(UsageError) as error:
    prepare.prepare(make_data(tmp_path, "facades", source_dir=str(tmp_path / "raw"), beam=RUNNER))
  lines = str(error.value).splitlines()
  assert [line.split()[0].rpartition("/")[2] for line in lines[:10]] == [f"{number}.jpg" for number in range(1, 20, 2)]
  assert "31 pixels wide" in lines[0] and lines[10:] == ["And 5 more."]


@pytest.mark.parametrize(
  "options, message",
  [
    ("--runner=Drect", "the runner 'Drect' cannot be used.*DirectRunner"),
    ("--direct_num_worker=2", "no flag --direct_num_worker; did you mean --direct_num_workers?"),
    ("--direct_num_workers=two", "does not accept: .*direct_num_workers: invalid int value: 'two'"),
    ("DirectRunner", "'DirectRunner' is not a flag"),
    ("--runner='DirectRunner", "cannot be parsed as flags"),
    ("--help", "does not accept: usage"),
  ],
)
def test_wrong_options_are_found_before_the_work(tmp_path, apache_beam, options, message, capfd):
  data = make_data(tmp_path, "procedural", num_train=1, beam=options)
  with pytest.raises(UsageError, match=rf"(?s)data\.beam.*{message}"):
    prepare.prepare(data)
  assert "usage:" not in "".join(capfd.readouterr()), "the error is one paragraph"


def test_without_apache_beam_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(UsageError, match=r"data\.beam needs the package apache_beam.*pip install '\.\[beam\]'"):
    prepare.prepare(make_data(tmp_path, "procedural", num_train=1, beam=RUNNER))
