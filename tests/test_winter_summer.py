"""The winter → summer reader: annotations and photographs written here, and the real annotations where they are."""

import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import winter_summer as winter_summer_config
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.readers import winter_summer
from pix2pix_jax.errors import UsageError

NAMES = ["warm", "cold", "spring", "summer", "winter", "ice"]


def write_annotations(folder, rows):
  """`rows`: camera/file → scores by attribute; the others are 0.1. A score of 1 is written `1`, as in the original."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "attributes.txt").write_text("\n".join(NAMES) + "\n")
  (folder / "annotations.tsv").write_text(
    "".join(path + "".join(f"\t{scores.get(name, 0.1):g},5" for name in NAMES) + "\n" for path, scores in rows.items())
  )


def make_rows(cameras, winters=2, summers=3):
  rows = {}
  for camera in cameras:
    rows |= {f"{camera}/{number}.jpg": {"winter": 0.9} for number in range(winters)}
    rows |= {f"{camera}/{100 + number}.jpg": {"summer": 1} for number in range(summers)}
  return rows


def write_photos(folder, rows):
  for path, scores in rows.items():
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    colour = (0, 0, 200) if "winter" in scores else (0, 200, 0)
    Image.fromarray(np.full((12, 16, 3), colour, np.uint8)).save(folder / path, quality=95)


def make_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update(
    {
      "name": "winter_summer",
      "prepared_dir": str(tmp_path / "prepared"),
      "source_dir": str(tmp_path / "raw"),
      "load_size": 12,
      "load_width": 16,
      "crop_size": 8,
      **fields,
    }
  )
  return data


def test_seasons_are_scores_above_the_threshold_and_both_is_neither(tmp_path):
  write_annotations(
    tmp_path,
    {
      "007/1.jpg": {"winter": 0.9},
      "007/2.jpg": {"ice": 0.81},
      "007/3.jpg": {"cold": 1},  # winter
      "007/4.jpg": {"warm": 0.9},
      "007/5.jpg": {"spring": 0.9, "summer": 0.9},
      "007/10.jpg": {"summer": 0.9},
      "007/11.jpg": {"warm": 1},  # summer
      "007/6.jpg": {"winter": 0.9, "warm": 0.9},  # both
      "007/7.jpg": {"winter": 0.8},
      "007/8.jpg": {},  # neither: not above
      "7/1.jpg": {"winter": 0.9},
      "7/2.jpg": {"summer": 0.9},  # another camera: leading zeros count
      "8/1.jpg": {"winter": 0.9},
    },
  )  # no summer
  found = winter_summer.pairs(tmp_path)
  of_007 = [pair for pair in found if pair.camera == "007"]
  assert len(found) == 4 and len(of_007) == 3
  assert {pair.winter for pair in of_007} == {"1.jpg", "2.jpg", "3.jpg"}
  assert {pair.summer for pair in of_007} < {"4.jpg", "5.jpg", "10.jpg", "11.jpg"}
  assert found[-1] == winter_summer.Pair("7", "1.jpg", "2.jpg") and found[-1].id == "7/1_2"


def test_threshold_and_attributes_are_settings(tmp_path):
  write_annotations(
    tmp_path,
    {"1/1.jpg": {"winter": 0.6}, "1/2.jpg": {"summer": 0.6}, "1/3.jpg": {"cold": 0.9}, "1/4.jpg": {"warm": 0.9}},
  )
  assert [pair.id for pair in winter_summer.pairs(tmp_path)] == ["1/3_4"]
  assert [pair.id for pair in winter_summer.pairs(tmp_path, threshold=0.5, winter=("winter",), summer=("summer",))] == [
    "1/1_2"
  ]
  with pytest.raises(UsageError, match="gives no pair of winter .*cold.*data.attribute_threshold"):
    winter_summer.pairs(tmp_path, threshold=0.95)
  with pytest.raises(UsageError, match="attributes.txt has no attribute 'sumer'; did you mean summer"):
    winter_summer.pairs(tmp_path, summer=("sumer",))


def test_pairs_are_random_but_seeded(tmp_path):
  write_annotations(tmp_path, make_rows(["a", "b"], winters=20, summers=20))
  first = winter_summer.pairs(tmp_path, seed=0)
  assert first == winter_summer.pairs(tmp_path, seed=0) != winter_summer.pairs(tmp_path, seed=1)
  for season in ("winter", "summer"):
    assert len(first) == 40 == len({(pair.camera, getattr(pair, season)) for pair in first})
  assert any(int(pair.winter[:-4]) + 100 != int(pair.summer[:-4]) for pair in first), "not simply in order"


def test_splits_are_by_camera(tmp_path):
  write_annotations(tmp_path, make_rows([f"{number:03d}" for number in range(20)]))
  splits = winter_summer.split_by_camera(winter_summer.pairs(tmp_path), seed=0)
  cameras = {split: {pair.camera for pair in members} for split, members in splits.items()}
  assert {split: len(members) for split, members in cameras.items()} == {"train": 16, "val": 2, "test": 2}
  assert len(set.union(*cameras.values())) == 20, "no camera is in two splits"
  assert splits != winter_summer.split_by_camera(winter_summer.pairs(tmp_path), seed=1)


def test_prepared_pairs_have_winter_as_input(tmp_path):
  rows = make_rows(["00000064", "64", "65"])
  write_annotations(tmp_path / "raw/annotations", rows)
  write_photos(tmp_path / "raw/imageAlignedLD", rows)
  source = prepare.prepare(make_data(tmp_path))
  assert source.spec.counts == {"train": 2, "val": 2, "test": 2}
  ids = []
  for name in source.spec.counts:
    split = pipeline.load_split(source, name, (12, 16), cache_gib=1)
    assert set(split.arrays) == {"input", "target"}
    np.testing.assert_allclose(split.arrays["input"].mean((0, 1, 2)), (0, 0, 200), atol=6)
    np.testing.assert_allclose(split.arrays["target"].mean((0, 1, 2)), (0, 200, 0), atol=6)
    ids += split.ids
  assert sorted(ids) == sorted(pair.id for pair in winter_summer.pairs(tmp_path / "raw/annotations"))
  for other in ({"pair_seed": 1}, {"attribute_threshold": 0.7}, {"winter_attributes": ("winter",)}):
    assert prepare.prepare(make_data(tmp_path, **other)).folder != source.folder, "other settings are other data"


def test_missing_photographs_are_counted_and_named(tmp_path):
  rows = make_rows(["1", "2", "3"], winters=2, summers=2)
  write_annotations(tmp_path / "raw/annotations", rows)
  with pytest.raises(
    UsageError, match="none of the 12 photographs.*12 are missing.*imageAlignedLD.tar.gz from http://transattr"
  ):
    prepare.prepare(make_data(tmp_path))
  write_photos(tmp_path / "raw/imageAlignedLD", rows)
  (tmp_path / "raw/imageAlignedLD/2/101.jpg").unlink()
  with pytest.raises(UsageError, match="holds only 11 of the 12 photographs.*1 are missing: 2/101.jpg"):
    prepare.prepare(make_data(tmp_path))


@pytest.mark.parametrize(
  "text, message",
  [
    ("1/1.jpg\t0.9,5\n", "line 1, should be CAMERA/FILE and 6 times"),
    ("\n1/1.jpg" + "\t0.9,5" * 5 + "\tx,5\n", "line 2, should be CAMERA/FILE and 6 times"),
    ("1.jpg" + "\t0.9,5" * 6, "line 1, should be CAMERA/FILE.*begins '1.jpg"),
  ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
  write_annotations(tmp_path, {})
  (tmp_path / "annotations.tsv").write_text(text)
  with pytest.raises(UsageError, match=message):
    winter_summer.pairs(tmp_path)


def test_wrong_directories_say_what_was_looked_for(tmp_path):
  (tmp_path / "empty").mkdir()
  for source in (str(tmp_path / "empty"), str(tmp_path / "absent"), ""):
    with pytest.raises(UsageError, match="annotations.tsv.*imageAlignedLD.*transattr.cs.brown.edu.*:procedural"):
      prepare.prepare(make_data(tmp_path, source_dir=source))


def test_a_damaged_photograph_is_named(tmp_path):
  rows = make_rows(["1"], winters=1, summers=1)
  write_annotations(tmp_path / "raw/annotations", rows)
  write_photos(tmp_path / "raw/imageAlignedLD", rows)
  path = tmp_path / "raw/imageAlignedLD/1/100.jpg"
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UsageError, match="1/100.jpg cannot be read as an image"):
    prepare.prepare(make_data(tmp_path))


def test_config_and_variants():
  config = winter_summer_config.get_config("report")
  assert (config.data.name, config.data.load_size, config.data.crop_size, config.model.patch) == (
    "winter_summer",
    286,
    256,
    70,
  )
  assert winter_summer_config.get_config("procedural").data.task == "winter_summer"


def test_real_annotations(real_data):
  annotations = real_data / "transient_attributes/annotations"
  found = winter_summer.pairs(annotations)
  assert len(found) == 568 and len({pair.camera for pair in found}) == 70
  assert (
    len({(pair.camera, pair.winter) for pair in found}) == len({(pair.camera, pair.summer) for pair in found}) == 568
  )
  assert not {(pair.camera, pair.winter) for pair in found} & {(pair.camera, pair.summer) for pair in found}
  assert len(winter_summer.pairs(annotations, seed=5)) == 568, "the count does not depend on the seed"
  listed = {line.split("\t")[0] for line in (annotations / "annotations.tsv").read_text().splitlines()}
  assert all(f"{pair.camera}/{name}" in listed for pair in found for name in (pair.winter, pair.summer)), (
    "leading zeros are kept"
  )
  splits = winter_summer.split_by_camera(found, seed=0)
  cameras = {split: len({pair.camera for pair in members}) for split, members in splits.items()}
  assert cameras == {"train": 56, "val": 7, "test": 7}
  with pytest.raises(UsageError, match="holds none of the 1136 photographs.*imageAlignedLD.tar.gz"):
    winter_summer.find_splits(real_data / "transient_attributes")
