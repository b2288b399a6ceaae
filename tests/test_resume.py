"""What a run leaves and how it continues: checkpoints, interruptions, changes between starts."""

import re
import shutil
import signal
import subprocess
import time

import forked
import numpy as np
import pytest
from tiny_runs import (
  assert_same_bits,
  assert_same_numbers,
  changed,
  command,
  latest_step,
  run,
  saved_arrays,
  tiny_config,
)

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, output, report
from pix2pix_jax.data import pipeline
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.run import baselines, checkpoint, evaluation, history
from pix2pix_jax.signals import DataSpec, Image
from pix2pix_jax.train import Observer, train_and_evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of six steps through main.py."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  done = run(workdir)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


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
  victim = forked.Popen(
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
  process = forked.Popen(
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


def test_another_architecture_is_refused_and_nothing_is_overwritten(trained):
  workdir, _ = trained
  before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
  with pytest.raises(UsageError, match="another architecture .*model.base_features 2 → 3.*new --workdir"):
    train_and_evaluate(tiny_config(model__base_features=3), workdir)
  assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("gan", ["vanilla", "none"])
def test_a_broken_state_is_not_saved_over_the_last_good_checkpoint(tmp_path, gan):
  """Losses are computed before the update: at gan=none they are finite in the step that destroys the parameters."""
  settings = {"loss__gan": gan, "train__checkpoint_every_steps": 1, "train__eval_every_steps": 100, "data__num_val": 0}
  train_and_evaluate(tiny_config(train__num_steps=1, **settings), tmp_path / "run")
  good = saved_arrays(tmp_path / "run", 1)
  with pytest.raises(UsageError, match="At step 2, .*became NaN or infinite.*earlier checkpoints are intact"):
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
  assert_same_numbers(saved_arrays(tmp_path / "resumed", 4), saved_arrays(tmp_path / "whole", 4))
  evaluate.evaluate(tmp_path / "resumed", split="test")
  rates = [row["train/learning_rate"] for row in history.read(tmp_path / "resumed")]
  np.testing.assert_allclose(rates, [2e-4, 1.5e-4], rtol=1e-5)  # means of (1, 1) and (1, 0.5) times 2e-4


def test_a_failed_restore_leaves_the_configuration(tmp_path, monkeypatch):
  train_and_evaluate(tiny_config(train__num_steps=2, data__num_val=0), tmp_path / "run")
  before = (tmp_path / "run/config.json").read_text()
  monkeypatch.setattr(config_lib, "require_same_model", lambda *configs: None)
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


class Signal(Observer):
  """Sends a Ctrl-C after a step."""

  def __init__(self, step):
    self.step = step

  def step_ended(self, step, metrics, validation):
    if step == self.step:
      signal.raise_signal(signal.SIGINT)
    return False


def interrupted_output(start, capsys):
  """What a command prints that is interrupted, in order; its exit status has to be 130."""
  with pytest.raises(SystemExit) as stop:
    run_command(start)
  assert stop.value.code == 130
  shown = capsys.readouterr()
  assert shown.err == ""
  return shown.out.splitlines()


def test_an_interruption_is_announced_before_the_save_and_explained_last(tmp_path, capsys):
  start = lambda step: lambda: train_and_evaluate(tiny_config(), tmp_path / "run", observer=Signal(step))
  lines = interrupted_output(start(3), capsys)
  assert lines[-2:] == ["Interrupted: saving step 4 …", "Stopped at step 4 of 6; run the same command to resume."]
  assert latest_step(tmp_path / "run") == 4
  told = "Interrupted after the last step, 6, which is saved. Run the same command for the final evaluation."
  assert interrupted_output(start(6), capsys)[-1] == told
  assert latest_step(tmp_path / "run") == 6 and not (tmp_path / "run/eval").exists()


def test_an_interrupted_final_evaluation_is_announced_and_made_later(tmp_path, capsys, monkeypatch):
  start = lambda: train_and_evaluate(tiny_config(), tmp_path / "run")
  with monkeypatch.context() as patch:
    patch.setattr(baselines, "measure", lambda *_: signal.raise_signal(signal.SIGINT))
    lines = interrupted_output(start, capsys)
  assert lines[-2:] == [
    "Final evaluation: comparing 7 validation images with baselines …",
    "Interrupted after the last step, 6, which is saved. Run the same command for the final evaluation.",
  ]
  assert sum(bool(re.search(r"  validation  .* psnr \d+\.\d{4} dB  ssim", line)) for line in lines) == 3
  assert not (tmp_path / "run/eval/val/metrics.json").exists()
  start()
  assert evaluation.read_summary(tmp_path / "run/eval/val")["step"] == 6


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_output_has_the_stages_of_the_start_and_every_parameter(verbose, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(output, "_verbose", verbose)
  config = tiny_config(train__num_steps=1)
  train_and_evaluate(config, tmp_path / "run")
  lines = capsys.readouterr().out.splitlines()
  stages = [line.partition(" took ")[0] for line in lines if re.search(r" took \d+\.\d+ s\.$", line)]
  expected = ["Preparing the data", "Reading the data", "Initializing the networks", "Validating the initial networks"]
  assert stages == ([*expected, "Final evaluation"] if verbose else [])
  sizes = [int(line.split()[-1].replace(",", "")) for line in lines if re.match(r"  \S+/(kernel|scale|bias) ", line)]
  total = sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) parameters", "\n".join(lines)))
  assert sum(sizes) == (total if verbose else 0) and total > 0


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


@pytest.mark.parametrize(
  "is_evaluated, fields, ignored",
  [
    (True, {}, []),
    (True, {"train__num_steps": 4}, ["train.num_steps 6 → 4"]),
    (False, {"data__procedural_seed": 1, "optimizer__learning_rate": 1e-4}, ["data.fingerprint 'train 8,", "→ 0.0001"]),
  ],
)
def test_a_start_without_a_step_to_train_changes_no_file(trained, tmp_path, capsys, is_evaluated, fields, ignored):
  shutil.copytree(trained[0], tmp_path / "run")
  if not is_evaluated:
    (tmp_path / "run/eval/val/metrics.json").unlink()
  paths = lambda: [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "run.lock"]
  content = lambda: {path: path.read_bytes() for path in paths()}
  before = content()
  assert int(train_and_evaluate(tiny_config(**fields), tmp_path / "run").step) == 6
  assert content() == before
  output = capsys.readouterr().out
  assert f"Already finished: 6 of {fields.get('train__num_steps', 6)} steps; nothing was changed." in output
  assert ("differs from the run and was ignored" in output) == bool(fields)
  assert all(text in output for text in ignored) and "Changed since" not in output


def test_a_damaged_checkpoint_is_named(tmp_path):
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")
  for path in (tmp_path / "run/checkpoints/2/default").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  with pytest.raises(UsageError, match="checkpoints/2 is damaged .*the only checkpoint") as error:
    train_and_evaluate(tiny_config(train__num_steps=4), tmp_path / "run")
  assert "emove" not in str(error.value) and "delete" not in str(error.value)


def test_the_two_newest_and_the_best_checkpoints_are_kept(tmp_path):
  import jax.numpy as jnp

  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    for step, l1 in [(1, 0.5), (2, 0.2), (3, None), (4, 0.4), (5, None)]:
      checkpointer.save(step, {"x": jnp.full(3, float(step))}, l1 and {"l1": l1})
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "4", "5"]
  with checkpoint.Checkpointer(tmp_path, read_only=True) as reader:
    assert reader.best() == (2, 0.2)
    assert (reader.resolve_step("best"), reader.resolve_step("latest"), reader.resolve_step("2")) == (2, 5, 2)
    with pytest.raises(UsageError, match="no checkpoint '²'"):
      reader.resolve_step("²")


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


QUICK = {"train__num_steps": 2, "train__eval_every_steps": 1, "train__checkpoint_every_steps": 1}


def test_a_resume_shows_records_and_marks_what_changed(tmp_path, capsys):
  train_and_evaluate(tiny_config(**QUICK), tmp_path / "run")
  assert not (tmp_path / "run/config_history.jsonl").exists()
  changes = {"train__num_steps": 3, "optimizer__learning_rate": 1e-4}
  train_and_evaluate(tiny_config(**QUICK | changes), tmp_path / "run")
  assert "optimizer.learning_rate 0.0002 → 0.0001; train.num_steps 2 → 3" in capsys.readouterr().out
  (row,) = config_lib.read_changes(tmp_path / "run")
  assert (row["step"], row["changes"]) == (2, {"optimizer.learning_rate": [2e-4, 1e-4], "train.num_steps": [2, 3]})
  train_and_evaluate(tiny_config(**QUICK | changes), tmp_path / "run")
  assert "Changed since" not in capsys.readouterr().out and len(config_lib.read_changes(tmp_path / "run")) == 1


def test_best_belongs_to_its_data(tmp_path, capsys):
  """After other pairs, or other labels of the same pairs, an older and better validation is no longer the best."""
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
  easy, hard = np.full_like(x, 128), rng.integers(0, 256, x.shape, np.uint8)
  spec = lambda content: DataSpec.of(Image(3), Image(3), {"train": 4, "val": 4}, content)
  settings = {"data__load_size": 16, "data__name": "arrays", "train__best_metric": "l1"}
  for target, content, steps in ((easy, "easy", 2), (hard, "hard", 4)):
    source = pipeline.ArraySource({"train": (x, target), "val": (x, target)}, spec(content))
    train_and_evaluate(tiny_config(**QUICK | settings | {"train__num_steps": steps}), tmp_path / "run", source=source)
  output = capsys.readouterr().out
  change = "data.fingerprint 'train 4, val 4; checksum easy' → 'train 4, val 4; checksum hard'"
  assert change in output and "Warning: the first 2 steps were trained on other data." in output
  rows = {row["step"]: row["val/l1"] for row in history.read(tmp_path / "run") if "val/l1" in row}
  assert max(rows[1], rows[2]) < min(rows[3], rows[4])
  with checkpoint.Checkpointer(tmp_path / "run", config=config_lib.read(tmp_path / "run"), read_only=True) as reader:
    assert reader.best() == (min((3, 4), key=rows.get), pytest.approx(min(rows[3], rows[4]), rel=1e-6))


PROTOCOLS = {
  "dropout": {"evaluation__dropout": False},
  "norm_stats": {"evaluation__norm_stats": "running"},
  "batch": {"evaluation__norm_stats": "batch"},
  "size": {"data__eval_size": 32},
  "resampling": {"data__target_resampling": "nearest"},
  "ignore": {"data__target_ignore": 3},
}


@pytest.mark.parametrize("fields", PROTOCOLS.values(), ids=PROTOCOLS)
def test_best_belongs_to_its_protocol(tmp_path, fields):
  """A validation by another protocol, which may be far easier, is not the best one after a change."""
  import jax.numpy as jnp

  old = tiny_config(**QUICK, train__best_metric="l1", train__keep_every_steps=1, evaluation__norm_stats="image")
  for config, step, l1, starts_over in ((old, 1, 0.1, False), (changed(old, **fields), 2, 0.3, True)):
    with checkpoint.Checkpointer(tmp_path, config=config) as checkpointer:
      assert checkpointer.starts_over() == starts_over
      checkpointer.save(step, {"step": jnp.int32(step)}, {"l1": l1})
    with checkpoint.Checkpointer(tmp_path, config=config, read_only=True) as reader:
      assert reader.best() == (step, l1) and reader.resolve_step("best") == step
      assert (reader.validation(1) is None) == (step == 2) and reader.all_steps()[0] == 1
  with checkpoint.Checkpointer(tmp_path, read_only=True) as reader:
    assert reader.best() == (1, 0.1)  # without a configuration, all are compared by L1


def test_a_change_of_the_protocol_is_announced(tmp_path, capsys):
  settings = {"evaluation__norm_stats": "image", "train__best_metric": "l1"}
  train_and_evaluate(tiny_config(**QUICK | settings | {"train__num_steps": 2}), tmp_path / "run")
  settings |= {"evaluation__dropout": False, "train__num_steps": 4}
  train_and_evaluate(tiny_config(**QUICK | settings), tmp_path / "run")
  assert "Warning: earlier validations used other data or another protocol" in (out := capsys.readouterr().out)
  rows = {row["step"]: row["val/l1"] for row in history.read(tmp_path / "run") if "val/l1" in row}
  best = min((4, 3), key=rows.get)
  assert f"at step {best}." in out.rpartition("Best validation l1")[2]
  assert report.gather(tmp_path / "run")["best_step"] == best
  train_and_evaluate(tiny_config(**QUICK | settings | {"train__num_steps": 5}), tmp_path / "run")
  assert "another protocol" not in capsys.readouterr().out


def test_resampling_that_is_left_open_stays(tmp_path):
  train_and_evaluate(tiny_config(data__target_resampling="nearest", train__num_steps=1), tmp_path / "run")
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")
  assert config_lib.read(tmp_path / "run").data.target_resampling == "nearest"


def test_of_equal_validations_the_newest_is_the_best(tmp_path, capsys):
  """It is the one that is kept. The log, a resumed run and the commands agree on it."""
  still = {"optimizer__learning_rate": 1e-20, "evaluation__norm_stats": "image", "train__best_metric": "l1"}
  train_and_evaluate(tiny_config(**QUICK | still | {"train__num_steps": 5}), tmp_path / "run")
  rows = [row["val/l1"] for row in history.read(tmp_path / "run") if "val/l1" in row]
  assert len(rows) == 6 and len(set(rows)) == 1
  assert "Best validation l1" in (out := capsys.readouterr().out) and "at step 5." in out
  with checkpoint.Checkpointer(tmp_path / "run", config=config_lib.read(tmp_path / "run"), read_only=True) as reader:
    assert reader.best()[0] == reader.resolve_step("best") == 5


@pytest.mark.parametrize("side", ["input", "target"])
def test_the_meaning_of_numbers_is_fixed(tmp_path, side):
  """Another range would turn the same outputs into other metres, and another palette into other classes."""
  depth = {"data__task": "nyu_depth" if side == "input" else "kitti_depth", "data__num_val": 0, "train__num_steps": 1}
  train_and_evaluate(tiny_config(**depth), tmp_path / "depth")
  with pytest.raises(UsageError, match=r"another architecture .data.depth_range"):
    train_and_evaluate(tiny_config(**depth, data__depth_range=(0.0, 160.0)), tmp_path / "depth")
  old = config_lib.default()
  old.model.update(input_channels=2 if side == "input" else 3, output_channels=3 if side == "input" else 2)
  old.data.update(input_kind="image", target_kind="image")
  old.data.update({f"{side}_kind": "classes", f"{side}_classes": 2, f"{side}_palette": "#000000,#ffffff"})
  new = old.copy_and_resolve_references()
  new.data[f"{side}_palette"] = "#000000, #FFFFFF"
  config_lib.require_same_model(tmp_path, old, new)
  new.data[f"{side}_palette"] = "#ffffff,#000000"
  with pytest.raises(UsageError, match=f"another architecture .data.{side}_palette"):
    config_lib.require_same_model(tmp_path, old, new)
  images = old.copy_and_resolve_references()
  images.data[f"{side}_kind"] = "image"
  other = images.copy_and_resolve_references()
  other.data.depth_range = (0.0, 160.0)
  config_lib.require_same_model(tmp_path, images, other)  # it means nothing to images


def test_every_nth_checkpoint_is_kept_for_good(tmp_path):
  train_and_evaluate(tiny_config(train__keep_every_steps=2, data__num_val=0), tmp_path / "run")
  assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdigit()) == [
    "2",
    "4",
    "6",
  ]


def test_a_workdir_keeps_its_best_metric_and_norm_statistics(tmp_path):
  """Also if they are left to the program, which chose L1 and image statistics in earlier versions."""
  steps = {"train__num_steps": 1, "train__eval_every_steps": 1}
  old = {"train__best_metric": "l1", "evaluation__norm_stats": "image"}
  train_and_evaluate(tiny_config(**QUICK | steps | old), tmp_path / "run")
  train_and_evaluate(tiny_config(**QUICK | steps | {"train__num_steps": 2}), tmp_path / "run")
  kept = config_lib.read(tmp_path / "run")
  assert (kept.train.best_metric, kept.evaluation.norm_stats) == ("l1", "image")
  train_and_evaluate(tiny_config(**QUICK | steps), tmp_path / "new")
  chosen = config_lib.read(tmp_path / "new")
  assert (chosen.train.best_metric, chosen.evaluation.norm_stats) == ("ssim", "running")


def test_the_best_metric_decides(tmp_path):
  import jax.numpy as jnp

  values = [(1, 0.1, 10.0), (2, 0.3, 30.0), (3, 0.2, 20.0)]
  for metric, best in (("l1", (1, 0.1)), ("psnr", (2, 30.0))):
    config = tiny_config(train__best_metric=metric)
    with checkpoint.Checkpointer(tmp_path / metric, config=config) as checkpointer:
      for step, l1, psnr in values:
        checkpointer.save(step, {"x": jnp.zeros(3)}, {"l1": l1, "psnr": psnr})
    with checkpoint.Checkpointer(tmp_path / metric, config=config, read_only=True) as reader:
      assert reader.best() == best and reader.resolve_step("best") == best[0]
      assert reader.is_better(*((0.1, 0.2) if metric == "l1" else (20.0, 10.0)))
  with pytest.raises(
    UsageError, match="train.best_metric is 'rmse', but the metrics of this target .* are l1, psnr, ssim"
  ):
    train_and_evaluate(tiny_config(train__best_metric="rmse"), tmp_path / "run")


class RecordingLogger:
  """A logger as a user would write it."""

  made = []

  def __init__(self, config, workdir):
    self.config, self.workdir, self.rows, self.images, self.closed = config, workdir, [], [], False
    RecordingLogger.made.append(self)

  def log(self, step, scalars):
    self.rows.append((step, scalars))

  def log_images(self, step, images):
    self.images.append((step, {name: image.shape for name, image in images.items()}))

  def close(self):
    self.closed = True


def test_a_logger_gets_what_the_history_gets(tmp_path):
  train_and_evaluate(tiny_config(**QUICK, train__logger="test_resume:RecordingLogger"), tmp_path / "run")
  import test_resume

  (logger,) = test_resume.RecordingLogger.made
  assert logger.config["train"]["num_steps"] == 2 and logger.workdir == str(tmp_path / "run") and logger.closed
  assert [{"step": step, **scalars} for step, scalars in logger.rows] == history.read(tmp_path / "run")
  assert [step for step, _ in logger.images] == [0, 1, 2] and logger.images[0][1].keys() == {"val/samples"}
  for name in ("nowhere:Logger", "test_resume:Nothing", "text"):
    with pytest.raises(UsageError, match=f"train.logger is '{name}', which cannot be loaded"):
      train_and_evaluate(tiny_config(**QUICK, train__logger=name), tmp_path / "other")


def test_tensorboard_has_the_configuration_and_charts_of_both_splits(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator

  train_and_evaluate(tiny_config(**QUICK, train__tensorboard=True), tmp_path / "run")
  events = event_accumulator.EventAccumulator(str(tmp_path / "run"))
  events.Reload()
  tags = events.Tags()["tensors"]
  assert {"train/l1", "val/l1", "train/learning_rate", "config", "custom_scalars__config__"} <= set(tags)
  text = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
  assert "| model.base_features | 2 |" in text
  assert b"^(train|val)/l1$" in events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
