"""Training through main.py: resume bit for bit, kill, errors; and that it learns."""

import json
import os
from pathlib import Path
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, launch
from pix2pix_jax.configs import facades as facades_config
from pix2pix_jax.configs import procedural
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import checkpoint, evaluation, history
from pix2pix_jax.train import Observer, train_and_evaluate

ROOT = Path(__file__).parent.parent
TINY = {  # a network of 3 levels and 2 features on eight 16×16 façades
  "data.load_size": 18,
  "data.crop_size": 16,
  "data.num_train": 8,
  "data.num_val": 7,
  "data.num_test": 3,
  "model.base_features": 2,
  "model.levels": 3,
  "model.patch": 16,
  "train.batch_size": 2,
  "train.num_steps": 6,
  "train.eval_every_steps": 3,
  "train.checkpoint_every_steps": 2,
  "train.log_every_steps": 2,
  "evaluation.batch_size": 4,
}


def command(workdir, config="procedural.py", **fields):
  settings = TINY | {name.replace("__", "."): value for name, value in fields.items()}
  return [
    sys.executable,
    str(ROOT / "main.py"),
    f"--config={ROOT}/configs/{config}",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in settings.items()),
  ]


def run(workdir, **fields):
  return subprocess.run(command(workdir, **fields), capture_output=True, text=True, check=False, timeout=300)


def tiny_config(**fields):
  config = procedural.get_config()
  config.update_from_flattened_dict(TINY | {name.replace("__", "."): value for name, value in fields.items()})
  return config


def latest_step(workdir):
  with checkpoint.Checkpointer(workdir, read_only=True) as checkpointer:
    return checkpointer.latest_step()


def saved_arrays(workdir, step):
  """The leaves of a checkpoint, read by Orbax without this package."""
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(Path(workdir).resolve() / "checkpoints" / str(step) / "default")
  import jax

  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_bits(one, other):
  assert one.keys() == other.keys() and len(one) > 50
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of six steps through main.py."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  done = run(workdir)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def test_the_workdir_is_complete(trained):
  workdir, output = trained
  config = json.loads((workdir / "config.json").read_text())
  assert config["model"]["input_channels"] == config["model"]["output_channels"] == 3
  assert config["loss"]["l1_weight"] == 100.0
  assert [path.name for path in sorted((workdir / "samples").iterdir())] == [
    "step_00000000.png",
    "step_00000003.png",
    "step_00000006.png",
  ]
  assert list(workdir.glob("events.out.tfevents.*"))
  assert Image.open(workdir / "curves.png").size == (1300, 650)
  rows = history.read(workdir)
  assert [row["step"] for row in rows if "train/generator_loss" in row] == [2, 4, 6]
  assert [row["step"] for row in rows if "val/generator_loss" in row] == [0, 3, 6]
  assert {
    "train/discriminator_loss",
    "train/gan_loss",
    "train/l1",
    "train/discriminator_accuracy_real",
    "train/discriminator_accuracy_fake",
    "train/data_wait_share",
    "train/learning_rate",
    "train/generator_gradient_norm",
    "train/discriminator_gradient_norm",
  } <= rows[1].keys()
  assert "Generator: unet, 3 levels, 2 features" in output and "6 steps, batch size 2" in output
  summary = json.loads((workdir / "eval/val/metrics.json").read_text())
  assert (summary["count"], summary["step"]) == (7, 6)
  table = (workdir / "eval/val/per_image.csv").read_text().splitlines()
  assert len(table) == 8 and table[1].startswith("facades_00008,")
  column = table[0].split(",").index("l1")
  np.testing.assert_allclose(
    np.mean([float(line.split(",")[column]) for line in table[1:]]), summary["metrics"]["l1"], rtol=1e-4
  )


def test_2n_steps_are_n_stop_resume_n_bit_for_bit(trained, tmp_path):
  """Parameters, statistics, both Adam states, and so the data order, the jitter and the noise."""
  workdir, _ = trained
  first = run(tmp_path / "run", train__num_steps=3)
  assert first.returncode == 0, first.stderr
  second = run(tmp_path / "run")
  assert "Resuming from step 3" in second.stdout, second.stderr
  assert_same_bits(saved_arrays(workdir, 6), saved_arrays(tmp_path / "run", 6))
  strip = lambda rows: [
    {k: v for k, v in row.items() if k not in ("train/steps_per_second", "train/data_wait_share")} for row in rows
  ]
  validations = lambda folder: [row for row in strip(history.read(folder)) if "val/l1" in row]
  assert validations(workdir) == validations(tmp_path / "run")


def test_kill_9_resumes_to_the_same_parameters(trained, tmp_path):
  workdir, _ = trained
  victim = subprocess.Popen(
    command(tmp_path / "run", train__num_steps=100000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  checkpoints = tmp_path / "run/checkpoints"
  try:
    for _ in range(2400):
      if (
        victim.poll() is not None
        or checkpoints.is_dir()
        and any(path.name in ("2", "4") for path in checkpoints.iterdir())
      ):
        break
      time.sleep(0.05)
  finally:
    victim.kill()
    victim.wait()
  assert victim.returncode == -signal.SIGKILL
  saved = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
  # The run may have gone past step 6 before it was killed: the uninterrupted run then is one to the same later step.
  last = max(6, max(saved) + 2)
  resumed = run(tmp_path / "run", train__num_steps=last)
  assert "Resuming from" in resumed.stdout, resumed.stderr
  if last == 6:
    reference = workdir
  else:
    reference = tmp_path / "reference"
    assert run(reference, train__num_steps=last).returncode == 0
  assert_same_bits(saved_arrays(reference, last), saved_arrays(tmp_path / "run", last))


def test_ctrl_c_saves_and_prints_how_to_resume(tmp_path):
  process = subprocess.Popen(
    command(
      tmp_path / "run", train__num_steps=1000000, train__checkpoint_every_steps=1000000, train__eval_every_steps=1000000
    ),
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if line.startswith("step 4/"):
      process.send_signal(signal.SIGINT)
      break
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 130
  assert "run the same command to resume" in output
  assert len([path for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdigit()]) == 1


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


def test_a_workdir_that_is_a_file_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UsageError, match="--workdir .*file cannot be created as a folder"):
    train_and_evaluate(tiny_config(), tmp_path / "file")


def test_a_start_that_failed_leaves_the_workdir_usable(tmp_path):
  with pytest.raises(UsageError, match="model.norm is 'batchnorm'; it has to be one of 'batch'"):
    train_and_evaluate(tiny_config(train__num_steps=2, model__norm="batchnorm"), tmp_path / "run")
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")


def test_a_wrong_value_type_is_an_error(tmp_path):
  assert "train.batch_size" in failing(tmp_path, train__batch_size="many")


def test_an_unknown_variant_lists_the_known(tmp_path):
  assert "variant 'raport'" in failing(tmp_path, config="facades.py:raport")


def test_another_architecture_is_refused_and_nothing_is_overwritten(trained):
  workdir, _ = trained
  before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
  with pytest.raises(UsageError, match="another architecture .*model.base_features 2 → 3.*new --workdir"):
    train_and_evaluate(tiny_config(model__base_features=3), workdir)
  assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"data__name": "facade"}, "data.name is 'facade'; it has to be one of 'facades', 'winter_summer'"),
    ({"data__task": "cats"}, "data.task is 'cats'"),
    ({"data__crop_size": 18, "model__levels": 0}, "18×18 .* cannot be halved twice"),
    ({"data__crop_size": 12}, "12×12 .*multiples of 8"),
    ({"data__num_train": 0}, "data.num_train is 0; it has to be between 1"),
    ({"model__input_channels": 4}, "model.input_channels is 4, but the data has 3"),
    ({"loss__gan": "wgan"}, "loss.gan is 'wgan'"),
    ({"model__patch": 20}, "model.patch is 20"),
    ({"model__residual": True}, "model.residual is for depth → depth.*the input is: 8-bit image, 3 channels"),
    ({"train__num_steps": 0, "train__num_epochs": 1, "train__batch_size": 9}, "do not fill one batch"),
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


@pytest.mark.parametrize("gan", ["vanilla", "none"])
def test_a_broken_state_is_not_saved_over_the_last_good_checkpoint(tmp_path, gan):
  """Losses are computed before the update: at gan=none they are finite in the step that destroys the parameters."""
  settings = {"loss__gan": gan, "train__checkpoint_every_steps": 1, "train__eval_every_steps": 100, "data__num_val": 0}
  train_and_evaluate(tiny_config(train__num_steps=1, **settings), tmp_path / "run")
  good = saved_arrays(tmp_path / "run", 1)
  with pytest.raises(UsageError, match="At step 2 .*became NaN or infinite.*earlier checkpoints are intact"):
    train_and_evaluate(tiny_config(optimizer__learning_rate=3e38, train__num_steps=6, **settings), tmp_path / "run")
  assert_same_bits(good, saved_arrays(tmp_path / "run", latest_step(tmp_path / "run")))
  assert all(np.isfinite(array).all() for array in good.values())


def test_a_decay_may_begin_at_a_resume(tmp_path):
  """Adam's moments are kept: the resumed run equals one that had the decay from the start, whose first half has the
  full rate.
  """
  train_and_evaluate(tiny_config(train__num_steps=2, data__num_val=0), tmp_path / "resumed")
  settings = {"train__num_steps": 4, "data__num_val": 0, "optimizer__decay_fraction": 0.5}
  train_and_evaluate(tiny_config(**settings), tmp_path / "resumed")
  train_and_evaluate(tiny_config(**settings), tmp_path / "whole")
  assert_same_bits(saved_arrays(tmp_path / "resumed", 4), saved_arrays(tmp_path / "whole", 4))
  evaluate.evaluate(tmp_path / "resumed", split="test")
  rates = [row["train/learning_rate"] for row in history.read(tmp_path / "resumed")]
  np.testing.assert_allclose(rates, [2e-4, 1.5e-4], rtol=1e-5)  # means of (1, 1) and (1, 0.5) times 2e-4


def test_a_failed_restore_leaves_the_configuration(tmp_path, monkeypatch):
  train_and_evaluate(tiny_config(train__num_steps=2, data__num_val=0), tmp_path / "run")
  before = (tmp_path / "run/config.json").read_text()
  monkeypatch.setattr(config_lib, "require_same_model", lambda workdir, config: None)
  with pytest.raises(UsageError, match="belongs to other networks.*in the checkpoint") as error:
    train_and_evaluate(tiny_config(model__base_features=3, data__num_val=0), tmp_path / "run")
  assert "emove" not in str(error.value)
  assert (tmp_path / "run/config.json").read_text() == before


class Hook(Observer):
  """Stops, or fails, after a step."""

  def __init__(self, step, error=None):
    self.step, self.error = step, error

  def step_ended(self, step, metrics, validation):
    if step == self.step and self.error:
      raise self.error
    return step == self.step


def test_an_observers_stop_saves_the_step(tmp_path):
  state = train_and_evaluate(tiny_config(train__checkpoint_every_steps=100), tmp_path / "run", observer=Hook(5))
  assert int(state.step) == latest_step(tmp_path / "run") == 5
  np.testing.assert_array_equal(
    state.generator.params["output"]["kernel"],
    saved_arrays(tmp_path / "run", 5)["['generator']['params']['output']['kernel']"],
  )


def test_an_exception_leaves_files_closed_and_the_running_save_complete(tmp_path):
  with pytest.raises(RuntimeError, match="of the caller"):
    train_and_evaluate(tiny_config(), tmp_path / "run", observer=Hook(4, RuntimeError("of the caller")))
  assert latest_step(tmp_path / "run") == 3  # the best validation so far; the save of step 4 had not begun
  assert (tmp_path / "run/curves.png").exists()
  resumed = train_and_evaluate(tiny_config(), tmp_path / "run")
  assert int(resumed.step) == 6


def test_a_run_killed_before_its_final_evaluation_makes_it(tmp_path, capsys):
  train_and_evaluate(tiny_config(), tmp_path / "run")
  expected = evaluation.read_summary(tmp_path / "run/eval/val")
  (tmp_path / "run/eval/val/metrics.json").unlink()
  train_and_evaluate(tiny_config(), tmp_path / "run")
  actual = evaluation.read_summary(tmp_path / "run/eval/val")
  assert actual["metrics"].pop("l1") == pytest.approx(expected["metrics"].pop("l1"), rel=1e-6)
  assert actual["step"] == 6 and actual["count"] == 7
  assert "Already finished: 6 of 6 steps. Raise train.num_epochs" in capsys.readouterr().out
  before = (tmp_path / "run/eval/val/metrics.json").stat().st_mtime_ns
  train_and_evaluate(tiny_config(train__num_steps=4), tmp_path / "run")
  assert "Already finished: 6 of 4 steps" in capsys.readouterr().out
  assert (tmp_path / "run/eval/val/metrics.json").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_is_named(tmp_path):
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")
  for path in (tmp_path / "run/checkpoints/2/default").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  with pytest.raises(UsageError, match="checkpoints/2 is damaged .*the only checkpoint") as error:
    train_and_evaluate(tiny_config(train__num_steps=4), tmp_path / "run")
  assert "emove" not in str(error.value) and "delete" not in str(error.value)


def test_training_without_a_validation_split(tmp_path):
  train_and_evaluate(tiny_config(data__num_val=0, train__num_steps=2), tmp_path / "run")
  assert latest_step(tmp_path / "run") == 2
  assert not (tmp_path / "run/eval").exists()


def test_evaluate_command_measures_every_test_image_once(trained):
  workdir, _ = trained
  done = subprocess.run(
    [sys.executable, "-m", "pix2pix_jax.evaluate", f"--workdir={workdir}", "--split=test", "--step=latest"],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  summary = json.loads((workdir / "eval/test/metrics.json").read_text())
  assert (summary["count"], summary["step"], summary["protocol"]["norm_stats"]) == (3, 6, "image")
  assert len((workdir / "eval/test/per_image.csv").read_text().splitlines()) == 4
  with pytest.raises(UsageError, match="no checkpoint '5'"):
    evaluate.evaluate(workdir, step="5")
  with pytest.raises(UsageError, match="config.json cannot be read"):
    evaluate.evaluate(workdir / "nowhere")


def test_results_of_another_protocol_step_or_data_get_their_own_folder(trained):
  """The run's own results are never replaced by results that mean something else."""
  workdir, _ = trained
  own = (workdir / "eval/val/metrics.json").read_bytes()
  evaluate.evaluate(workdir, dropout=False, norm_stats="running", step="latest", baseline=["none"])
  evaluate.evaluate(workdir, step=3 if (workdir / "checkpoints/3").is_dir() else 6, baseline=["none"])
  config = config_lib.read(workdir)
  assert (workdir / "eval/val/metrics.json").read_bytes() == own or not (workdir / "checkpoints/3").is_dir()
  summary = evaluation.read_summary(workdir / "eval/val@step6,dropout=off,norm_stats=running")
  assert (summary["protocol"]["dropout"], summary["protocol"]["norm_stats"]) == (False, "running")
  name = lambda **changes: evaluate._results_folder(workdir, "val", 6, False, changed(config, **changes), config).name
  assert name() == "val" and name(data__source_dir="/elsewhere/my data") == "val@data=my_data"
  assert evaluate._results_folder(workdir, "val", 3, False, config, config).name == "val@step3"
  assert evaluate._results_folder(workdir, "train", 3, True, config, config).name == "train"


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
  return config


def test_data_of_another_kind_is_refused(trained, tmp_path):
  workdir, _ = trained
  for side in "AB":
    (tmp_path / side).mkdir()
    for name in range(2):
      Image.fromarray(np.full((16, 16), 50 * name, np.uint8)).save(tmp_path / side / f"{name}.png")
  with pytest.raises(UsageError, match="The input of this data is: 8-bit image, 1 channel, but .*on: .*3 channels"):
    evaluate.evaluate(workdir, split="train", source_dir=tmp_path, reader="folder")


def test_evaluation_does_not_depend_on_the_batch_size(trained):
  workdir, _ = trained
  results = []
  for size in (4, 7):
    config_lib.write(workdir, changed(config_lib.read(workdir), evaluation__batch_size=size))
    results.append(evaluate.evaluate(workdir).per_image)
  assert all(len(values) == 7 for values in results[0].values())
  for name in results[0]:
    np.testing.assert_allclose(results[0][name], results[1][name], rtol=2e-3, atol=1e-4, err_msg=name)


def test_newest_and_best_checkpoints_are_kept(tmp_path):
  import jax.numpy as jnp

  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    for step, l1 in [(1, 0.5), (2, 0.2), (3, None), (4, 0.4), (5, None)]:
      checkpointer.save(step, {"x": jnp.full(3, float(step))}, l1 and {"l1": l1})
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "5"]
  with checkpoint.Checkpointer(tmp_path, read_only=True) as reader:
    assert reader.best() == (2, 0.2)
    assert (reader.resolve_step("best"), reader.resolve_step("latest"), reader.resolve_step("2")) == (2, 5, 2)
    with pytest.raises(UsageError, match="no checkpoint '²'"):
      reader.resolve_step("²")


def test_it_learns(tmp_path):
  """The negative of façades, under the default protocol: L1 falls far below the mean target's and the untrained
  model's.
  """
  config = procedural.get_config()
  config.update_from_flattened_dict(
    {
      "data.load_size": 36,
      "data.crop_size": 32,
      "data.num_train": 64,
      "data.num_val": 16,
      "model.base_features": 16,
      "model.patch": 16,
      "train.num_steps": 400,
      "train.eval_every_steps": 400,
      "train.checkpoint_every_steps": 400,
    }
  )
  prepared = prepare.prepare(config.data)
  photos = {
    split: pipeline.load_split(prepared, split, (36, 36), cache_gib=1).arrays["target"] for split in ("train", "val")
  }
  train_and_evaluate(
    config,
    tmp_path / "run",
    source=pipeline.ArraySource({split: (array, 255 - array) for split, array in photos.items()}, prepared.spec),
  )
  assert config.evaluation.dropout and config.evaluation.norm_stats == "image"
  untrained, trained = (row["val/l1"] for row in history.read(tmp_path / "run") if "val/l1" in row)
  baseline = json.loads((tmp_path / "run/eval/val/metrics.json").read_text())["baselines"]["mean_target"]["l1"]
  assert trained < 0.75 * baseline and trained < 0.6 * untrained, (
    trained,
    baseline,
    untrained,
  )  # 0.63 and 0.44 were seen


def test_history_keeps_what_the_resumed_state_has_seen(tmp_path):
  first = history.History(tmp_path, 0)
  for step in (0, 5, 10):
    first.append(step, {"val/l1": step / 10})
  with (tmp_path / "history.jsonl").open("a") as file:
    file.write(
      '[1]\n"text"\n{"val/l1": 1}\n\udcff\n'.encode("utf-8", "surrogateescape").decode("latin-1")
    )  # no records
    file.write('{"step": 15, "val/')  # cut off by a crash
  history.History(tmp_path, 5).append(7, {"val/l1": 0.7})
  assert [row["step"] for row in history.read(tmp_path)] == [0, 5, 7]
  history.History(tmp_path, 0)
  assert history.read(tmp_path) == []


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
  env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  done = subprocess.run(
    command(tmp_path / "run", train__num_steps=1, data__prepared_dir=tmp_path / "prepared"),
    check=False,
    env=env | {"XDG_CACHE_HOME": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert any("train_step" in path.name for path in (tmp_path / "pix2pix_jax/xla").iterdir())


def test_every_config_and_variant_can_be_read():
  assert facades_config.get_config("report,procedural").model.decoder_widths == "report"
  assert facades_config.get_config("procedural").data.name == "procedural"
  with pytest.raises(UsageError, match="no variant 'raport'.*report, procedural"):
    facades_config.get_config("raport")


def test_every_field_has_a_meaning_and_a_default_within_its_limit():
  for name, field in config_lib.each_field():
    assert len(field.meaning) > 20 and field.meaning.endswith("."), name
    assert field.limit is None or field.limit.holds(field.default), name
  config_lib.check(config_lib.default())


@pytest.mark.parametrize("text", [*config_lib.names(), "facades:report,procedural", "kitti:report", "nyu:procedural"])
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


def test_kept_memory_is_requested_once_and_a_users_own_setting_stays():
  program = (
    "import os, sys; from pix2pix_jax import launch; launch.keep_memory(); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), "
    "sys.argv[1:], product.is_ready())"
  )
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
  }
  kept = platform.libc_ver()[0] == "glibc"
  for given, expected in (
    ({}, (launch.KEEP_MEMORY, True) if kept else ("None", False)),
    ({"GLIBC_TUNABLES": "x.y=1"}, ("x.y=1", False)),
  ):
    done = subprocess.run(
      [sys.executable, "-c", program, "a b"], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{expected[0]} ['a b'] {expected[1]}"  # ready at once: it ran in the main thread


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked to keep memory")
def test_memory_is_kept_without_a_restart():
  program = (
    "import os; os.execve = None; from pix2pix_jax import launch; launch.keep_memory(restart=False); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), "
    "product.is_ready())"
  )
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
  }
  done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "None True"  # ready at once: it ran in the main thread
