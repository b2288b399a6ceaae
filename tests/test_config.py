"""Configurations: fields, limits, named files, overrides, and config.json."""

import re

import pytest
from tiny_runs import ROOT, run, tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate
from pix2pix_jax.configs import facades as facades_config
from pix2pix_jax.data import prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.train import train_and_evaluate


def failing(tmp_path, **fields):
  """The message of a run that has to fail: one paragraph, no traceback."""
  done = run(tmp_path / "run", **fields)
  assert done.returncode not in (0, None)
  assert "Traceback" not in done.stderr, done.stderr
  (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  return message


def test_a_wrong_field_suggests_the_nearest(tmp_path):
  message = failing(tmp_path, train__batchsize=2)
  assert "batchsize" in message and "batch_size" in message
  assert not (tmp_path / "run").exists()


def test_a_wrong_section_suggests_the_nearest(tmp_path):
  message = failing(tmp_path, trian__batch_size=2)
  assert "trian" in message and "train" in message.replace("trian", "")


def test_a_wrong_value_type_is_an_error(tmp_path):
  assert "train.batch_size" in failing(tmp_path, train__batch_size="many")


def test_an_unknown_variant_lists_the_known(tmp_path):
  assert "variant 'raport'" in failing(tmp_path, config="facades.py:raport")


@pytest.mark.parametrize(
  "fields, message",
  [
    (
      {"data__name": "facade"},
      r"data.name is 'facade'; did you mean facades\? It has to be one of 'facades', 'winter_",
    ),
    ({"data__task": "cats"}, "data.task is 'cats'"),
    ({"data__crop_size": 18, "model__levels": 0}, "18×18 .* cannot be halved twice"),
    ({"data__crop_size": 12}, "12×12 .*multiples of 8"),
    ({"data__input_display": (1, 2)}, r"data.input_display is \(1, 2\); it has to be one or three channels, from 0"),
    ({"data__num_train": 0}, "data.num_train is 0; it has to be between 1"),
    ({"model__input_channels": 4}, "model.input_channels is 4, but the data has 3"),
    ({"loss__gan": "wgan"}, "loss.gan is 'wgan'"),
    ({"model__patch": 20}, "model.patch is 20"),
    (
      {"model__generator": "resnet_6blocks", "model__decoder_widths": "report", "model__levels": 0},
      "model.decoder_widths is 'report', which describes the decoder of a U-Net; a resnet_6blocks has none",
    ),
    ({"model__residual": True}, "model.residual needs depth.*the input is: 8-bit image, 3 channels"),
    ({"model__residual_channel": 1}, "model.residual_channel is 1, but model.residual is off"),
    (
      {"train__num_steps": 0, "train__num_epochs": 1, "train__batch_size": 9},
      "num_epochs=1 with 8 training pairs cannot fill one batch of train.batch_size=9",
    ),
    ({"train__dtype": "float8"}, "train.dtype is 'float8'"),
    ({"train__batch_size": 0}, "train.batch_size is 0; it has to be between 1"),
    ({"train__eval_every_steps": -1}, "train.eval_every_steps is -1; it has to be between 0"),
    ({"optimizer__learning_rate": -1.0}, "optimizer.learning_rate is -1.0; it has to be above 0"),
    ({"optimizer__beta1": 1.0}, "optimizer.beta1 is 1.0; it has to be at least 0 and below 1"),
    ({"optimizer__decay_fraction": 2.0}, "optimizer.decay_fraction is 2.0; it has to be between 0 and 1"),
    ({"optimizer__learning_rate": float("inf")}, "optimizer.learning_rate is inf"),
    ({"seed": -1}, "seed is -1; it has to be between 0"),
    ({"data__depth_range": (10.0, 0.0)}, r"data.depth_range is \(10.0, 0.0\); it has to be two numbers, 0 ≤ nearest"),
    ({"data__depth_range": (5.0, 5.0)}, r"data.depth_range is \(5.0, 5.0\)"),
    ({"data__cache_gib": -1.0}, "data.cache_gib is -1.0; it has to be at least 0"),
    ({"data__crop_size": 0}, "data.crop_size is 0"),
    ({"train__num_epochs": -1}, "train.num_epochs is -1"),
    ({"model__dropout_blocks": (0, 7)}, "model.dropout_blocks names block 7; this generator has blocks 0 to 1"),
    ({"model__levels": 40}, "model.levels is 40"),
    ({"model__base_features": 10**9}, "model.base_features is 1000000000"),
    ({"evaluation__norm_stats": "rows"}, "evaluation.norm_stats is 'rows'"),
    ({"data__input_kind": "depth"}, "data.input_kind is 'depth', but the input of procedural is image"),
    ({"data__target_kind": "height"}, "data.target_kind is 'height'"),
  ],
)
def test_impossible_settings_say_what_to_do(tmp_path, fields, message):
  with pytest.raises(UsageError, match=message):
    train_and_evaluate(tiny_config(**fields), tmp_path / "run")


def test_a_wrong_choice_is_found_before_anything_is_built(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, "prepare", lambda data: pytest.fail("the data were prepared first"))
  with pytest.raises(UsageError, match="loss.gan is 'wgan'"):
    train_and_evaluate(tiny_config(loss__gan="wgan"), tmp_path / "run")


def test_every_config_and_variant_can_be_read():
  assert facades_config.get_config("report,procedural").model.decoder_widths == "report"
  assert facades_config.get_config("procedural").data.name == "procedural"
  with pytest.raises(UsageError, match="no variant 'raport'; it has report, classes, best, labels, procedural"):
    facades_config.get_config("raport")


def test_every_field_has_a_meaning_and_a_default_within_its_limit():
  for name, field in config_lib.each_field():
    assert len(field.meaning) > 20 and field.meaning.endswith("."), name
    assert field.limit is None or field.limit.holds(field.default), name
  config_lib.check(config_lib.default())


@pytest.mark.parametrize(
  "text", [*config_lib.names(), "facades:report,procedural", "kitti:report", "nyu:best,procedural"]
)
def test_every_named_configuration_is_within_the_limits(text):
  config_lib.check(config_lib.load(text))


def test_the_research_files_are_the_named_configurations():
  """configs/NAME.py of the checkout, which users copy and edit, and the package's own give the same."""
  files = sorted((ROOT / "configs").glob("[a-z]*.py"))
  assert [path.stem for path in files] == config_lib.names()
  for path in files:
    assert config_lib.load(str(path)).to_dict() == config_lib.load(path.stem).to_dict()


@pytest.mark.parametrize(
  "content, message",
  [
    ("[1, 2]", "holds list"),
    ("{", "cannot be read"),
    (b"\xff\xfe", "cannot be read"),
    ('{"data": 3}', "data is 3; it has to be a section"),
    ('{"model": {"levels": -1}}', "model.levels is -1"),
    ('{"model": {"levels": "8"}}', "model.levels is '8'; it has to be an integer"),
    ('{"model": {"base_features": 1000000000}}', "model.base_features"),
    ('{"train": {"batch_sise": 1}}', "no field train.batch_sise; did you mean train.batch_size"),
    ("[" * 100000, "cannot be read"),
    ('{"seed": true}', "seed is True; it has to be an integer"),
    ('{"data": {"depth_range": [1, "2"]}}', "data.depth_range"),
    ("{}", "was never resolved"),
  ],
)
def test_a_config_file_that_is_none_is_explained(tmp_path, content, message):
  (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UsageError, match=message):
    config_lib.read(tmp_path)


def test_every_config_field_has_a_reader():
  files = [path for path in ROOT.glob("pix2pix_jax/**/*.py") if path.name != "config.py"]
  source = "".join(path.read_text() for path in [*files, ROOT / "main.py"])
  source += (ROOT / "pix2pix_jax/config.py").read_text().partition("def each_field")[2]
  for name, _ in config_lib.each_field():
    field = name.rpartition(".")[2]
    side = field.replace("input_", "{side}_").replace("target_", "{side}_")
    assert any(f".{field}" in source or f'"{text}"' in source for text in (field, side)), f"nothing reads {name}"


def test_a_workdir_that_does_not_exist_and_one_without_a_run_differ(tmp_path):
  (tmp_path / "facades").mkdir()
  with pytest.raises(UsageError, match=r"facade does not exist; did you mean .*facades\? Give the workdir"):
    config_lib.read(tmp_path / "facade")
  with pytest.raises(UsageError, match=r"facades holds no run: it has no config\.json\. Give the workdir"):
    config_lib.read(tmp_path / "facades")


def test_the_folder_of_the_data_is_recorded_as_an_absolute_path(tmp_path, monkeypatch):
  (tmp_path / "raw").mkdir()
  (tmp_path / "link").symlink_to("raw")
  monkeypatch.chdir(tmp_path)
  config = config_lib.default()
  config.data.source_dir = "raw"
  kept, _ = config_lib.keep_recorded(config, tmp_path / "run")
  assert kept.data.source_dir == str(tmp_path / "raw") and config.data.source_dir == "raw"
  for place, same in {"raw": True, "./raw/": True, str(tmp_path / "raw"): True, "link": True, "other": False}.items():
    config.data.source_dir = place
    assert ("data.source_dir" not in config_lib.differences(kept, config)) == same, place
  for place in ("", "gs://bucket/raw"):
    assert config_lib.absolute_source(place) == place and not config_lib.same_source(place, "raw")


def test_evaluation_says_how_to_name_data_that_was_moved(tmp_path, monkeypatch):
  config = config_lib.default()
  config.data.update({"name": "folder", "source_dir": str(tmp_path / "gone")})
  with pytest.raises(UsageError, match=r"The data of the run, '.*gone', does not exist any more.*--source_dir=DIR"):
    evaluate.configure(tmp_path, config, "", "", None, "")
  with pytest.raises(UsageError, match=r"--source_dir '.*never' does not exist"):
    evaluate.configure(tmp_path, config, "never", "", None, "")
  (tmp_path / "now").mkdir()
  monkeypatch.chdir(tmp_path)
  assert evaluate.configure(tmp_path, config, "now", "", None, "").data.source_dir == str(tmp_path / "now")


@pytest.mark.parametrize(
  "name",
  [
    *("model.generator", "model.upsample", "model.discriminators", "model.spectral_norm"),
    *("loss.gan", "loss.feature_matching", "loss.r1_weight", "train.ema_decay"),
  ],
)
def test_optional_techniques_name_their_source(name):
  (meaning,) = [field.meaning for found, field in config_lib.each_field() if found == name]
  assert re.search(r"arXiv\s+\d{4}\.\d{4,5}|doi\s+10\.", meaning), meaning
