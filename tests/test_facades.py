"""The façades reader: both raw layouts, written here, and the real files where they are."""

import http.server
import io
import subprocess
import sys
import tarfile
import threading

import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data import source as source_lib
from pix2pix_jax.data.readers import facades
from pix2pix_jax.data.synthesis.facades import LABEL_COLORS
from pix2pix_jax.errors import UsageError


def write_archive(folder, counts, size=16):
  """The pix2pix archive in small: photograph left (a grey that tells the number), labels right (blue)."""
  for split, count in counts.items():
    (folder / split).mkdir(parents=True)
    for number in range(1, count + 1):
      both = np.zeros((size, 2 * size, 3), np.uint8)
      both[:, :size] = number * 10
      both[:, size:, 2] = 200
      Image.fromarray(both).save(folder / split / f"{number}.jpg", quality=95)


def make_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update(
    {"name": "facades", "prepared_dir": str(tmp_path / "prepared"), "load_size": 16, "crop_size": 16, **fields}
  )
  return data


def test_archive_in_numeric_order_with_labels_as_input(tmp_path):
  write_archive(tmp_path / "raw", {"train": 12, "val": 2})
  source = prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw")))
  assert set(source.spec.counts) == {"train", "val"}, "an absent split is absent"
  split = pipeline.load_split(source, "train", (16, 16), cache_gib=1)
  assert split.ids == [str(n) for n in range(1, 13)]
  np.testing.assert_allclose(split.arrays["target"].mean((1, 2, 3)), np.arange(1, 13) * 10, atol=3)
  np.testing.assert_allclose(split.arrays["input"].mean((0, 1, 2)), [0, 0, 200], atol=6)
  with pytest.raises(UsageError, match="no split 'test'.*train, val"):
    pipeline.load_split(source, "test", (16, 16), cache_gib=1)


def test_pictures_beyond_the_budget_are_decoded_from_the_shards_with_the_same_bits(tmp_path):
  write_archive(tmp_path / "raw", {"train": 3})
  source = prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw")))
  in_memory = pipeline.load_split(source, "train", (12, 12), cache_gib=1)
  streamed = pipeline.load_split(source, "train", (12, 12), cache_gib=0)
  assert isinstance(streamed, pipeline.StreamedSplit) and streamed.ids == in_memory.ids
  for index in (2, 0, 1):
    for name, array in streamed.read(index).items():
      np.testing.assert_array_equal(array, in_memory.arrays[name][index])
  raw = sum(path.stat().st_size for path in (tmp_path / "raw").rglob("*.jpg"))
  shards = sum(path.stat().st_size for path in (tmp_path / "prepared").rglob("*array_record*"))
  overhead = 3 * 2**16  # ArrayRecord pads to blocks of 64 KiB
  assert shards < raw + overhead and not list((tmp_path / "prepared").rglob("*decoded*"))


def test_without_array_record_the_encoded_records_are_held_in_memory(tmp_path, monkeypatch):
  write_archive(tmp_path / "raw", {"train": 3})
  data = make_data(tmp_path, source_dir=str(tmp_path / "raw"))
  expected = prepare.prepare(data)
  for module in (prepare, source_lib):
    monkeypatch.setattr(module, "file_format", lambda: "tfrecord")
  data.prepared_dir = str(tmp_path / "other")
  found = prepare.prepare(data)
  assert list((tmp_path / "other").rglob("*tfrecord*")) and not list((tmp_path / "other").rglob("*array_record*"))
  assert found.ids("train") == expected.ids("train") and found.spec == expected.spec
  for index in (2, 0):
    for name, array in expected.read("train", index).items():
      np.testing.assert_array_equal(found.read("train", index)[name], array)


PREPARE = """
import sys
from pix2pix_jax import config
from pix2pix_jax.data import prepare

data = config.default().data
data.name, data.source_dir, data.prepared_dir = "facades", sys.argv[1], sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
source = prepare.prepare(data)
print(source.spec.counts["train"], source.spec.fingerprint, source.read("train", 19)["input"].sum())
"""


def test_processes_that_want_the_same_data_at_once_wait_for_one(tmp_path):
  write_archive(tmp_path / "raw", {"train": 20})
  command = [sys.executable, "-c", PREPARE, str(tmp_path / "raw"), str(tmp_path / "prepared")]
  pipe = subprocess.PIPE
  started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
  for process in started:  # all have imported everything before either begins
    assert process.stdout.readline() == "ready\n"
  for process in started:
    process.stdin.write("\n")
    process.stdin.flush()
  ended = [process.communicate(timeout=120) for process in started]
  assert [process.returncode for process in started] == [0, 0, 0], ended
  results = {out.splitlines()[-1] for out, _ in ended}
  assert len(results) == 1 and results.pop().startswith("20 train 20; checksum")
  assert sum("Preparing facades in" in out for out, _ in ended) == 1
  assert any("Another process is preparing" in out for out, _ in ended), "they came too late: the test shows nothing"
  (folder,) = {path.parent for path in (tmp_path / "prepared").rglob("*array_record*")}
  assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"], "neither locks nor unfinished folders stay"


def test_two_source_directories_never_mix_and_a_changed_one_is_prepared_anew(tmp_path):
  write_archive(tmp_path / "one", {"train": 2})
  write_archive(tmp_path / "two", {"train": 3})
  count = lambda name: prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / name))).spec.counts["train"]
  assert (count("one"), count("two"), count("one")) == (2, 3, 2)
  (tmp_path / "one/train/3.jpg").write_bytes((tmp_path / "two/train/3.jpg").read_bytes())
  assert count("one") == 3


def write_cmp(folder, numbers):
  folder.mkdir(parents=True)
  for number in numbers:
    index = np.full((10, 14), 1 + number % 12, np.uint8)
    index[0, 0] = 0
    picture = Image.fromarray(index, "P")
    picture.putpalette(list(range(256)) * 3)
    picture.save(folder / f"cmp_b{number:04d}.png")
    Image.fromarray(np.full((10, 14, 3), number, np.uint8)).save(folder / f"cmp_b{number:04d}.jpg", quality=95)


def test_cmp_layout_splits_by_number_and_paints_labels_in_the_archives_colours(tmp_path):
  write_cmp(tmp_path / "raw/base", range(1, 21))
  source = prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw")))
  assert source.spec.counts == {"train": 16, "val": 2, "test": 2}
  split = pipeline.load_split(source, "val", (10, 14), cache_gib=1)
  assert split.ids == ["cmp_b0008", "cmp_b0018"]
  colors = list(LABEL_COLORS.values())
  assert tuple(split.arrays["input"][0, 5, 5]) == colors[8]  # index 9
  assert tuple(split.arrays["input"][0, 0, 0]) == colors[0]  # index 0 counts as background


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda raw: None, "is not a directory.*train/, val/ or test/.*base/cmp_b"),
    (lambda raw: raw.mkdir(), "holds no façades: looked for"),
    (
      lambda raw: (write_cmp(raw / "base", [1, 2]), (raw / "base/cmp_b0002.png").unlink()),
      "lacks the label map .*cmp_b0002.jpg",
    ),
  ],
)
def test_wrong_directories_say_what_was_looked_for(tmp_path, make, message):
  make(tmp_path / "raw")
  with pytest.raises(UsageError, match=message):
    prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw")))


def test_a_truncated_jpeg_is_named_and_the_preparation_does_not_count(tmp_path):
  write_archive(tmp_path / "raw", {"train": 3}, size=64)
  damaged = tmp_path / "raw/train/2.jpg"
  whole = damaged.read_bytes()
  damaged.write_bytes(whole[: len(whole) // 2])
  data = make_data(tmp_path, source_dir=str(tmp_path / "raw"))
  with pytest.raises(UsageError, match="train/2.jpg cannot be read as an image"):
    prepare.prepare(data)
  damaged.write_bytes(whole)
  assert prepare.prepare(data).spec.counts["train"] == 3


@pytest.fixture
def archive_server(tmp_path, monkeypatch):
  """Serves a small archive from this machine in place of the real server; gives the counts it holds."""
  counts = {"train": 3, "val": 2, "test": 1}
  write_archive(tmp_path / "tar/facades", counts)
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
    archive.add(tmp_path / "tar/facades", "facades")

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Length", str(len(buffer.getvalue())))
      self.end_headers()
      self.wfile.write(buffer.getvalue())

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setattr(facades, "URL", f"http://127.0.0.1:{server.server_port}/facades.tar.gz")
  yield counts
  server.shutdown()
  server.server_close()


def test_download_is_unpacked_and_its_counts_are_checked(tmp_path, monkeypatch, archive_server):
  with pytest.raises(UsageError, match="'train': 3.*'train': 400.*were expected.*--config.data.source_dir"):
    prepare.prepare(make_data(tmp_path))
  monkeypatch.setattr(facades, "ARCHIVE_COUNTS", archive_server)
  source = prepare.prepare(make_data(tmp_path))
  assert source.spec.counts == archive_server


def test_offline_says_where_to_get_the_file_and_where_to_put_it(tmp_path, monkeypatch):
  monkeypatch.setattr(facades, "URL", "http://127.0.0.1:9/facades.tar.gz")  # nothing listens there
  with pytest.raises(UsageError, match="could not be downloaded.*127.0.0.1:9/facades.tar.gz.*--config.data.source_dir"):
    prepare.prepare(make_data(tmp_path))


def test_real_archive(real_data, tmp_path):
  splits = facades.find_splits(real_data / "facades")
  assert {name: len(paths) for name, paths in splits.items()} == {"train": 400, "val": 100}
  assert [path.stem for path in splits["train"]] == [str(n) for n in range(1, 401)]
  labels, photo = facades.read_archive_pair(splits["train"][0])
  assert labels.shape == photo.shape == (256, 256, 3)
  # Label maps are saturated paint: one channel at least is near 0 or 255 almost everywhere. Photographs are not.
  saturated = lambda picture: ((picture < 12) | (picture > 243)).any(-1).mean()
  assert saturated(labels) > 0.8 > 0.4 > saturated(photo)


def test_real_cmp_labels_are_painted_in_the_colours_of_the_archive(real_data):
  splits = facades.find_splits(real_data / "cmp_facade_base")
  assert sum(len(paths) for paths in splits.values()) == 24
  labels, photo = facades.read_cmp_pair(splits["train"][0])
  assert labels.shape == photo.shape
  palette = np.array(list(LABEL_COLORS.values()), int)
  archive_labels, _ = facades.read_archive_pair(real_data / "facades/train/1.jpg")
  distance = np.abs(archive_labels.reshape(-1, 1, 3).astype(int) - palette).max(-1).min(-1)
  assert np.median(distance) <= 4, "the archive's JPEG colours are the palette's up to compression"
