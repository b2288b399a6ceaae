"""Raw files and prepared data in buckets, for which a file system in memory stands in."""

import datetime
import io
import sys

import fsspec
import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import prepare, remote, source
from pix2pix_jax.errors import UsageError


class Bucket:
  """A folder of the file system in memory, and its URL."""

  def __init__(self, name):
    self.system, self.root, self.url = fsspec.filesystem("memory"), f"/{name}", f"memory://{name}"

  def put(self, name, content):
    self.system.pipe_file(f"{self.root}/{name}", content)

  def names(self):
    return {path.removeprefix(f"{self.root}/") for path in self.system.find(self.root)}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  found = Bucket(tmp_path.name)
  yield found
  if found.system.exists(found.root):
    found.system.rm(found.root, recursive=True)


def draw(seed):
  """The bytes of a PNG with both sides of a pair."""
  file = io.BytesIO()
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 16, 3), np.uint8)).save(file, "PNG")
  return file.getvalue()


def make_data(**fields):
  data = config_lib.default().data
  data.update({"name": "folder", "load_size": 8, "crop_size": 8, **fields})
  return data


def records(prepared):
  return {split: [bytes(record) for record in prepared._records(split)] for split in prepared.spec.counts}


def test_raw_files_are_mirrored_and_followed(bucket, tmp_path, capsys):
  contents = {f"raw/train/{number}.png": draw(number) for number in range(3)}
  for name, content in contents.items():
    bucket.put(name, content)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
  bucket.put("raw/train/.DS_Store", b"junk")
  data = make_data(source_dir=f"{bucket.url}/raw/")
  first = prepare.prepare(data)
  assert records(first) == records(prepare.prepare(make_data(source_dir=str(tmp_path / "raw"))))
  assert data.source_dir == f"{bucket.url}/raw/", "the configuration keeps the URL"
  assert "Downloading 3 files" in capsys.readouterr().out
  assert prepare.prepare(make_data(source_dir=f"{bucket.url}/raw")).folder == first.folder
  assert "Downloading" not in capsys.readouterr().out

  bucket.put("raw/train/1.png", draw(7))
  bucket.system.store[f"{bucket.root}/raw/train/1.png"].created += datetime.timedelta(seconds=5)
  bucket.system.rm(f"{bucket.root}/raw/train/2.png")
  changed = prepare.prepare(data)
  assert "Downloading 1 file " in capsys.readouterr().out
  assert changed.ids("train") == ["0", "1"] and changed.folder != first.folder
  assert records(changed)["train"][0] == records(first)["train"][0]
  assert records(changed)["train"][1] != records(first)["train"][1]


def test_prepared_data_is_shared(bucket, tmp_path, capsys, monkeypatch):
  for number in range(3):
    bucket.put(f"raw/train/{number}.png", draw(number))
  data = make_data(source_dir=f"{bucket.url}/raw", prepared_dir=f"{bucket.url}/prepared")
  first = prepare.prepare(data)
  below = f"prepared/{first.folder.relative_to(source.user_cache() / 'datasets').as_posix()}"
  uploaded = {name for name in bucket.names() if name.startswith("prepared/")}
  assert uploaded == {f"{below}/{path.name}" for path in first.folder.iterdir()}
  assert "Uploading" in capsys.readouterr().out

  def on_another_computer(name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    found = prepare.prepare(data)
    assert found.folder.is_relative_to(tmp_path / name) and records(found) == records(first)
    return capsys.readouterr().out

  shown = on_another_computer("second")
  assert "Downloading prepared data" in shown and "Preparing" not in shown and "Uploading" not in shown
  (shard,) = (name for name in uploaded if "array_record" in name)
  bucket.put(shard, b"damaged")
  shown = on_another_computer("third")
  assert "is damaged" in shown and "Preparing" in shown and "Uploading" in shown
  assert "Preparing" not in on_another_computer("fourth")
  bucket.system.rm(f"{bucket.root}/{below}/dataset_info.json")  # an interrupted upload
  shown = on_another_computer("fifth")
  assert "Preparing" in shown and "Uploading" in shown
  assert {name for name in bucket.names() if name.startswith("prepared/")} == uploaded


def test_what_cannot_be_read_is_one_message(bucket, monkeypatch):
  with pytest.raises(UsageError, match=rf"data\.source_dir {bucket.url}/none does not exist, or holds no files"):
    prepare.prepare(make_data(source_dir=f"{bucket.url}/none"))
  with pytest.raises(UsageError, match=r"data\.source_dir is nowhere://x/y.*Protocol not known.*mount it"):
    prepare.prepare(make_data(source_dir="nowhere://x/y"))
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(UsageError, match=r"data\.source_dir is gs://x/y: .*install gcsfs.*mount it"):
    prepare.prepare(make_data(source_dir="gs://x/y"))
  with pytest.raises(UsageError, match=r"data\.prepared_dir is gs://x/procedural/.*install gcsfs"):
    prepare.prepare(make_data(name="procedural", num_train=1, prepared_dir="gs://x"))
  with pytest.raises(UsageError, match=r"without '\.\.'"):
    prepare.prepare(make_data(source_dir=f"{bucket.url}/raw/../raw"))


@pytest.mark.parametrize(
  "info",
  [
    {"mtime": 1700000000.25},
    {"LastModified": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)},
    {"updated": "2023-11-14T22:13:20.5Z"},
  ],
)
def test_times_of_all_file_systems_are_the_same(info):
  assert remote._wanted({"size": 3, **info}) == (3, 1700000000)


def test_a_content_stands_in_for_a_time():
  one, other = (remote._wanted({"size": 3, "ETag": tag}) for tag in ("a", "b"))
  assert one != other and one == remote._wanted({"size": 3, "ETag": "a"})


@pytest.mark.parametrize("name", ["../x.png", "train/../../x.png", "..", "train/.ssh/x.png"])
def test_no_name_in_a_bucket_leads_out_of_the_local_folder(name):
  class Hostile:
    def find(self, root, detail):
      return {f"{root}/{each}": {"type": "file", "size": 1} for each in ("train/a..b.png", name)}

  assert list(remote._list(Hostile(), "bucket/raw")) == ["train/a..b.png"]
