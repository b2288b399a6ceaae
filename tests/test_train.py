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

from pix2pix_jax import evaluate, launch
from pix2pix_jax.configs import default, procedural
from pix2pix_jax.configs import facades as facades_config
from pix2pix_jax.data import pipeline
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import checkpoint, history
from pix2pix_jax.train import train_and_evaluate

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


def test_the_workdir_holds_what_was_promised(trained):
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
  } <= rows[1].keys()
  assert "down_0/conv/kernel" in output and "6 steps of 2" in output
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
  assert "Going on from the checkpoint of step 3" in second.stdout, second.stderr
  assert_same_bits(saved_arrays(workdir, 6), saved_arrays(tmp_path / "run", 6))
  strip = lambda rows: [
    {k: v for k, v in row.items() if k not in ("train/steps_per_second", "train/data_wait_share")} for row in rows
  ]
  validations = lambda folder: [row for row in strip(history.read(folder)) if "val/l1" in row]
  assert validations(workdir) == validations(tmp_path / "run")


def test_kill_9_goes_on_to_the_same_parameters(trained, tmp_path):
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
  assert "Going on from" in resumed.stdout, resumed.stderr
  if last == 6:
    reference = workdir
  else:
    reference = tmp_path / "reference"
    assert run(reference, train__num_steps=last).returncode == 0
  assert_same_bits(saved_arrays(reference, last), saved_arrays(tmp_path / "run", last))


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
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
  assert "the same command goes on from there" in output
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
  assert "trian" in message and '"train"' in message


def test_a_workdir_that_is_a_file_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UsageError, match="--workdir .*file cannot be made into a folder"):
    train_and_evaluate(tiny_config(), tmp_path / "file")


def test_a_start_that_failed_leaves_the_workdir_usable(tmp_path):
  with pytest.raises(UsageError, match="model.norm is 'batchnorm'"):
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
    ({"data__name": "facade"}, "data.name is 'facade'; the readers are facades, folder, kitti_depth"),
    ({"data__task": "cats"}, "data.task is 'cats'"),
    ({"data__crop_size": 18, "model__levels": 0}, "18×18 .* cannot be halved twice"),
    ({"data__crop_size": 12}, "12×12 .*multiples of 8"),
    ({"data__num_train": 0}, "no train split"),
    ({"model__input_channels": 4}, "model.input_channels is 4, but the data has 3"),
    ({"loss__gan": "wgan"}, "loss.gan is 'wgan'"),
    ({"model__patch": 20}, "model.patch is 20"),
    ({"model__residual": True}, "model.residual is for depth → depth.*the input is uint8 with 3 channel"),
    ({"train__num_steps": 0, "train__num_epochs": 1, "train__batch_size": 9}, "are not one batch"),
    ({"train__dtype": "float8"}, "train.dtype is 'float8'"),
    ({"train__batch_size": 0}, "train.batch_size is 0; it has to be at least 1"),
    ({"train__eval_every_steps": -1}, "train.eval_every_steps is -1; it has to be at least 0"),
    ({"optimizer__learning_rate": -1.0}, "optimizer.learning_rate is -1.0; it has to be above 0"),
    ({"optimizer__beta1": 1.0}, r"optimizer.beta1 is 1.0; it has to be in \[0, 1\)"),
    ({"optimizer__decay_fraction": 2.0}, r"optimizer.decay_fraction is 2.0; it has to be in \[0, 1\]"),
  ],
)
def test_impossible_settings_say_what_to_do(tmp_path, fields, message):
  with pytest.raises(UsageError, match=message):
    train_and_evaluate(tiny_config(**fields), tmp_path / "run")


def test_a_loss_that_became_nan_is_not_saved_over_the_last_good_checkpoint(tmp_path):
  with pytest.raises(UsageError, match="became NaN or infinite"):
    train_and_evaluate(tiny_config(optimizer__learning_rate=float("inf")), tmp_path / "run")
  assert checkpoint.Checkpointer(tmp_path / "run").latest_step() is None


def test_a_damaged_checkpoint_is_named(tmp_path):
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")
  for path in (tmp_path / "run/checkpoints/2/default").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  with pytest.raises(UsageError, match="checkpoints/2 .*damaged"):
    train_and_evaluate(tiny_config(train__num_steps=4), tmp_path / "run")


def test_training_without_a_validation_split(tmp_path):
  train_and_evaluate(tiny_config(data__num_val=0, train__num_steps=2), tmp_path / "run")
  assert checkpoint.Checkpointer(tmp_path / "run").latest_step() == 2
  assert not (tmp_path / "run/eval").exists()


def test_evaluate_command_measures_each_of_the_test_images_once(trained):
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


def test_evaluation_does_not_depend_on_the_batch_size(trained):
  workdir, _ = trained
  results = []
  for size in (4, 7):
    config = checkpoint.load_config(workdir)
    with config.unlocked():
      config.evaluation.batch_size = size
    checkpoint.save_config(workdir, config)
    results.append(evaluate.evaluate(workdir).per_image)
  assert all(len(values) == 7 for values in results[0].values())
  for name in results[0]:
    np.testing.assert_allclose(results[0][name], results[1][name], rtol=2e-3, atol=1e-4, err_msg=name)


def test_newest_and_best_checkpoints_are_kept(tmp_path):
  import jax.numpy as jnp

  checkpointer = checkpoint.Checkpointer(tmp_path)
  for step, l1 in [(1, 0.5), (2, 0.2), (3, None), (4, 0.4), (5, None)]:
    checkpointer.save(step, {"x": jnp.full(3, float(step))}, l1 and {"l1": l1})
  checkpointer.close()
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "5"]
  reader = checkpoint.Checkpointer(tmp_path, read_only=True)
  assert reader.best() == (2, 0.2)
  assert (reader.resolve_step("best"), reader.resolve_step("latest"), reader.resolve_step("2")) == (2, 5, 2)


def test_it_learns(tmp_path):
  """The negative of façades, under the default protocol: L1 falls far below the mean picture's and the untrained model's."""
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
  prepared = pipeline.PreparedSource(datasets.prepare(config.data))
  photos = {
    split: pipeline.load_split(prepared, split, (36, 36), cache_gib=1).arrays["target"] for split in ("train", "val")
  }
  train_and_evaluate(
    config,
    tmp_path / "run",
    source=pipeline.ArraySource({split: (array, 255 - array) for split, array in photos.items()}),
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


def test_default_config_comments_every_field():
  text = (ROOT / "configs/default.py").read_text().splitlines()
  sections = default.get_config().to_dict()
  names = [f"{section}.{name}" for section, fields in sections.items() if isinstance(fields, dict) for name in fields]
  for name in names:
    (line,) = [i for i, content in enumerate(text) if content.startswith(f"  {name} = ")]
    assert text[line - 1].strip().startswith("#"), f"{name} has no comment"


def test_every_config_field_has_a_reader():
  source = "".join(path.read_text() for path in [*ROOT.glob("pix2pix_jax/**/*.py"), ROOT / "main.py"])
  sections = default.get_config().to_dict()
  for name in [name for section in sections.values() if isinstance(section, dict) for name in section]:
    assert f".{name}" in source or f'"{name}"' in source, f"nothing reads {name}"


def test_kept_memory_is_asked_for_once_and_a_setting_of_ones_own_stays():
  program = (
    "import os, sys; from pix2pix_jax import launch; launch.keep_memory(); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:], product.is_ready())"
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_memory_is_kept_without_a_new_start():
  program = (
    "import os; os.execve = None; from pix2pix_jax import launch; launch.keep_memory(restart=False); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), product.is_ready())"
  )
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
  }
  done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "None True"  # ready at once: it ran in the main thread
