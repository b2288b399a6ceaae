"""Damaged, hostile or unreachable data: a message that names it, and no harm."""

import contextlib
import json
import os
from pathlib import Path
import shutil

import pytest

from pix2pix_jax.configs import procedural
from pix2pix_jax.data import prepare, shards, summary
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
