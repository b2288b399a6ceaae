"""Several seeds in one program (train.num_replicas): each is the run of its seed; results are means and spreads."""

import contextlib
import dataclasses
import io
import math
import re
import shutil
import statistics

import jax
import numpy as np
import pytest
from test_report import browse, in_browser
from test_resume import Hook
from tiny_runs import assert_same_bits, changed, saved_arrays, tiny_config

import pix2pix_jax as p2p
from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, extract, report
from pix2pix_jax import export as export_lib
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import checkpoint, debugging, feeding, fine_tuning, history, replicas
from pix2pix_jax.run.evaluation import read_summary
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.run.finite import require_finite
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Stack
from pix2pix_jax.train import train_and_evaluate

SEEDS = (5, 6)
SEVERAL = {"seed": SEEDS[0], "train__num_replicas": len(SEEDS)}

CURVES = True  # see conftest.py


def trained_in(workdir, **fields):
  """Trains in a workdir; returns it and what was printed."""
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    train_and_evaluate(tiny_config(**fields), workdir)
  return workdir, printed.getvalue()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  """Six steps of both seeds, validated at 0, 3 and 6."""
  return trained_in(tmp_path_factory.mktemp("several") / "run", **SEVERAL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The run of the second seed."""
  return trained_in(tmp_path_factory.mktemp("alone") / "run", seed=SEEDS[1])[0]


@pytest.fixture(scope="module")
def extracted(several, tmp_path_factory):
  """A workdir of each replica."""
  folder = tmp_path_factory.mktemp("extracted")
  return [extract.extract(several[0], k, folder / str(k)) for k in range(len(SEEDS))]


def of_replica(arrays, k):
  return {name: array[k] if array.ndim else array for name, array in arrays.items()}


def close(one, other, tolerance=2e-5):
  """Whether arrays of equal names are equal up to rounding, relative to the largest number in each."""
  assert one.keys() == other.keys() and len(one) > 50
  largest = {name: np.abs(np.float64(array)).max() + 1e-30 for name, array in other.items()}
  return all(np.abs(np.float64(one[name]) - other[name]).max() / largest[name] < tolerance for name in one)


# --- Each replica is a run


def test_replicas_begin_with_the_weights_and_batches_of_their_seeds_bit_for_bit():
  config = tiny_config(**SEVERAL)
  source = prepare.prepare(config.data, config.model)
  split = pipeline.load_split(source, "train", config_lib.load_shape(config.data), cache_gib=4)

  def begin(**fields):
    run = Experiment(config_lib.resolve(changed(config, **fields), source.spec), source.spec)
    feed = feeding.open_feed(run, split, 3, every_step=False)
    return jax.device_get((run.init(), [feed.take(1) for _ in range(2)]))

  state, batches = begin()
  assert state.step.shape == () and batches[0]["input"].shape == (2, 2, 16, 16, 3)
  for k, seed in enumerate(SEEDS):
    own_state, own_batches = begin(seed=seed, train__num_replicas=1)
    jax.tree.map(np.testing.assert_array_equal, replicas.state_of(state, k), own_state)
    jax.tree.map(np.testing.assert_array_equal, [replicas.state_of(each, k) for each in batches], own_batches)
  assert not np.array_equal(batches[0]["input"][0], batches[0]["input"][1])


def test_a_replica_is_the_run_of_its_seed_up_to_rounding(several, alone):
  """Both networks, their statistics and Adam's moments after six steps, and all validations."""
  saved, own = saved_arrays(several[0], 6), saved_arrays(alone, 6)
  assert close(of_replica(saved, 1), own) and not close(of_replica(saved, 0), own, tolerance=1e-3)
  for row, other in zip(history.read(several[0]), history.read(alone), strict=True):
    found = replicas.scalars_of(row, 1)
    assert found.keys() == other.keys()
    for name in found.keys() - {"train/steps_per_second", "train/data_wait_share"}:
      assert found[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), (row["step"], name)


def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(several, tmp_path):
  train_and_evaluate(tiny_config(**SEVERAL), tmp_path / "run", observer=Hook(3))
  _, printed = trained_in(tmp_path / "run", **SEVERAL)
  assert "Resuming from step 3." in printed
  assert_same_bits(saved_arrays(several[0], 6), saved_arrays(tmp_path / "run", 6))
  validations = lambda folder: [row for row in history.read(folder) if "val/l1" in row]
  assert validations(several[0]) == validations(tmp_path / "run") and len(validations(several[0])) == 3


@pytest.mark.parametrize("per_dispatch", [1, 3])
def test_data_on_the_device_trains_the_same_replicas(several, tmp_path, per_dispatch):
  fields = {"train__data_on_device": "yes", "train__steps_per_dispatch": per_dispatch, "train__log_every_steps": 3}
  _, printed = trained_in(tmp_path / "run", **SEVERAL, **fields)
  assert "on the device, " in printed
  saved, expected = saved_arrays(tmp_path / "run", 6), saved_arrays(several[0], 6)
  assert close(saved, expected)
  if per_dispatch == 1:
    assert_same_bits(saved, expected)
  means = lambda folder: [row["train/l1/replica_1"] for row in history.read(folder) if "train/l1" in row]
  every_second, every_third = means(several[0]), means(tmp_path / "run")
  assert np.mean(every_second) == pytest.approx(np.mean(every_third), rel=1e-5) and len(every_third) == 2


OPTIONS = {
  "discriminator": (
    DataSpec(Image(3), Image(3), {"train": 4}),
    {"loss__gan": "hinge", "loss__feature_matching": 10.0, "loss__r1_weight": 10.0, "model__spectral_norm": True}
    | {"model__discriminators": 2, "optimizer__clip_norm": 1.0, "train__ema_decay": 0.9, "train__remat": True},
  ),
  "depth": (
    DataSpec(Depth(1, (0.5, 21.7)), Depth(1, (0.5, 21.7)), {"train": 4}),
    {"data__validity_channel": True, "model__residual": True, "data__depth_range": (0.5, 21.7)},
  ),
  "completion": (
    DataSpec(Stack((Image(3), Depth(range=(0.5, 21.7))), ("rgb", "lidar")), Depth(range=(0.5, 21.7)), {"train": 4}),
    {"model__residual": True, "data__depth_range": (0.5, 21.7), "data__inputs": ("rgb", "lidar:depth")},
  ),
  "classes": (DataSpec(Image(3), Classes(7), {"train": 4}), {"loss__gan": "none", "evaluation__norm_stats": "batch"}),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_has_replicas(options):
  """Shapes alone: whatever a step computes has the axis of the replicas."""
  spec, fields = OPTIONS[options]
  config = tiny_config(**SEVERAL, data__crop_size=32, data__load_size=32, **fields)
  run = Experiment(config_lib.resolve(config, spec), spec)
  channels = {"input": spec.input.channels, "target": spec.target.channels} | (
    {"mask": 1} if spec.target.kind == "depth" else {}
  )
  shape = lambda *sizes, dtype="float32": jax.ShapeDtypeStruct(sizes, dtype)
  state, own = run.abstract(), {"index": shape(3, dtype="int32"), "is_real": shape(3, dtype="bool")}
  batch = {name: shape(2, 3, 32, 32, count) for name, count in channels.items()}
  after, metrics = jax.eval_shape(run.train_step.function, state, batch)
  shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
  assert shapes(after) == shapes(state) and set(shapes(metrics).values()) == {(2,)}
  assert set(shapes(jax.eval_shape(run.update_norms, after)).values()) == {(2,)}
  own |= {name: shape(3, 32, 32, count) for name, count in channels.items()}
  outputs, values = jax.eval_shape(run.eval_step.function, state.variables, own)
  assert outputs.shape[:2] == (2, 3) and {each.shape[:2] for each in values.values()} == {(2, 3)}


# --- Results


def test_history_has_the_mean_the_spread_and_every_replica(several):
  for row in history.read(several[0]):
    split = "val" if "val/l1" in row else "train"
    for name in ("l1", "generator_loss", "discriminator_loss"):
      values = [row[f"{split}/{name}/replica_{k}"] for k in range(len(SEEDS))]
      assert row[f"{split}/{name}"] == pytest.approx(statistics.mean(values), rel=1e-6)
      assert row[f"{split}/{name}/std"] == pytest.approx(statistics.stdev(values), rel=1e-6) and values[0] != values[1]
    common = {"train/learning_rate", "train/steps_per_second", "train/data_wait_share"}
    assert {name.partition("/std")[0] for name in row} - {"step"} - common == {
      name.removesuffix("/replica_1") for name in row if name.endswith("/replica_1")
    } | {name for name in row if "/replica_" in name}


def test_the_log_and_the_final_evaluation_have_the_spread(several):
  workdir, printed = several
  assert "Replicas: 2 of both networks, seeds 5 to 6; metrics are mean ± standard deviation." in printed
  last = [row for row in history.read(workdir) if "val/l1" in row][-1]
  assert (
    f"validation  generator_loss {last['val/generator_loss']:.4f} ± {last['val/generator_loss/std']:.4f}" in printed
  )
  summary = read_summary(workdir / "eval/val")
  assert [one["seed"] for one in summary["replicas"]] == list(SEEDS) and summary["std"].keys() == summary[
    "metrics"
  ].keys()
  for name, mean in summary["metrics"].items():
    assert mean == last[f"val/{name}"] and summary["std"][name] == last[f"val/{name}/std"]
    assert [one["metrics"][name] for one in summary["replicas"]] == [last[f"val/{name}/replica_{k}"] for k in (0, 1)]
  (line,) = [line for line in printed.splitlines() if line.startswith("  l1 ")]
  assert line.split()[1:3] == [f"{last['val/l1']:.4f}", f"{last['val/l1/std']:.4f}"]
  assert "seeds 5 to 6" in summary["protocol"]["replicas"]


def test_the_best_checkpoint_has_the_best_mean(several):
  workdir, printed = several
  means = {row["step"]: row["val/ssim"] for row in history.read(workdir) if "val/ssim" in row and row["step"]}
  step, mean = max(means.items(), key=lambda item: item[1])
  with checkpoint.Checkpointer(workdir, config=config_lib.read(workdir), read_only=True) as checkpointer:
    assert checkpointer.best() == (step, mean)
  assert f"Best validation ssim (mean of the replicas): {mean:.4f} at step {step}." in printed


def test_the_report_shows_means_with_their_spread(several):
  data = report.gather(several[0])
  (split,) = data["splits"]
  assert split["summary"]["std"]["l1"] > 0 and len(split["summary"]["replicas"]) == 2
  assert "2 replicas, seeds 5 to 6" in data["facts"]["Training"]
  assert data["parameters"] == report.gather(several[0])["parameters"] and data["parameters"][0] < 5000
  assert any("val/l1/std" in row for row in data["rows"]) and not any("replica_" in name for name in data["rows"][-1])
  assert "standard deviation" in data["rows_note"] and "seed 5" in data["samples"]["note"]
  assert (several[0] / "curves.png").stat().st_size > 10_000


@in_browser
def test_the_page_draws_bands(several, tmp_path):
  """In plain and in logarithmic charts, as the probe clicks through them."""
  seen = browse(several[0], tmp_path)
  assert seen["errors"] is None and seen["broken"] == 0 and seen["sideways"] == 0


def test_a_broken_replica_is_named():
  values = {"train/l1": np.array([0.5, math.nan, 0.5])}
  with pytest.raises(UsageError, match="At step 7, train/l1/replica_1 became NaN"):
    require_finite(7, replicas.scalars(values))


# --- One of them


def test_an_extracted_replica_is_an_ordinary_workdir(several, extracted, tmp_path, capsys):
  saved, by_replica = saved_arrays(several[0], 6), read_summary(several[0] / "eval/val")["replicas"]
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  outputs = []
  for k, workdir in enumerate(extracted):
    config = config_lib.read(workdir)
    assert (config.seed, config.train.num_replicas) == (SEEDS[k], 1)
    assert_same_bits(saved_arrays(workdir, 6), of_replica(saved, k))
    found = evaluate.evaluate(workdir, step=6).means
    assert found == pytest.approx(by_replica[k]["metrics"], rel=1e-5)
    outputs.append(p2p.Translator.load(workdir, step=6)(image))
    export_lib.export(workdir, tmp_path / f"{k}.stablehlo", step="6", height=16, width=16)
    exported = jax.export.deserialize((tmp_path / f"{k}.stablehlo").read_bytes()).call(image[None], np.uint32(0))
    assert np.abs(np.asarray(exported, int)[0] - outputs[k]).max() <= 1
    assert report.write(workdir).exists()
  assert not np.array_equal(*outputs)


def test_it_resumes_as_the_run_of_its_seed(extracted, alone, tmp_path):
  """Two more steps of replica 1, and of the run that it equals up to rounding."""
  for workdir, name in ((extracted[1], "replica"), (alone, "alone")):
    shutil.copytree(workdir, tmp_path / name)
    train_and_evaluate(tiny_config(seed=SEEDS[1], train__num_steps=8), tmp_path / name)
  assert close(saved_arrays(tmp_path / "replica", 8), saved_arrays(tmp_path / "alone", 8))
  (change,) = config_lib.read_changes(tmp_path / "replica")
  assert change["changes"] == {"train.num_steps": [6, 8]}


def test_extracting_refuses_what_is_not_there(several, extracted, alone, tmp_path):
  with pytest.raises(UsageError, match="--replica is 2; it has to be an integer, between 0 and 1"):
    extract.extract(several[0], 2, tmp_path / "new")
  with pytest.raises(UsageError, match="already exists. Choose a new folder"):
    extract.extract(several[0], 0, extracted[0])
  with pytest.raises(UsageError, match="holds a single network .* use it as it is"):
    extract.extract(alone, 0, tmp_path / "new")
  (tmp_path / "begun").mkdir()
  shutil.copy(several[0] / "config.json", tmp_path / "begun")
  with pytest.raises(UsageError, match="begun has no checkpoints"):
    extract.extract(tmp_path / "begun", 0, tmp_path / "new")
  assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_damaged_checkpoint_is_left_out(several, tmp_path, capsys):
  copy = tmp_path / "run"
  shutil.copytree(several[0], copy)
  (path,) = (copy / "checkpoints/6").rglob("_METADATA")
  path.write_bytes(b"")
  extract.extract(copy, 0, tmp_path / "new")
  assert "6 is damaged" in capsys.readouterr().out
  steps = lambda workdir: {path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
  assert {"4", "6"} <= steps(copy) and steps(tmp_path / "new") == steps(copy) - {"6"}


def test_all_checkpoints_are_copied_however_the_replica_ranks_them(several, tmp_path):
  """A run keeps the two newest ones and the best by the mean, which may be the worst of a replica."""
  shutil.copytree(several[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
  (tmp_path / "run/checkpoints").mkdir()
  run = Experiment.read(several[0])
  metric = run.config.train.best_metric
  with checkpoint.Checkpointer(several[0], config=run.config, read_only=True) as source:
    state = source.restore(6, run.abstract())
  with checkpoint.Checkpointer(tmp_path / "run", config=run.config) as target:
    for step, own in {3: 0.1, 4: 0.2, 5: 0.3, 6: 0.4}.items():
      mean = 0.9 if step == 3 else 0.5
      values = {metric: mean, f"{metric}/replica_0": 2 * mean - own, f"{metric}/replica_1": own}
      target.save(step, dataclasses.replace(state, step=jax.numpy.full_like(state.step, step)), values)
  extract.extract(tmp_path / "run", 1, tmp_path / "one")
  with checkpoint.Checkpointer(tmp_path / "one", config=config_lib.read(tmp_path / "one"), read_only=True) as copied:
    assert (copied.all_steps(), copied.resolve_step("best")) == ([3, 5, 6], 6)


# --- Elsewhere


@pytest.mark.parametrize(
  "use",
  [
    p2p.Translator.load,
    evaluate.evaluate,
    lambda workdir: export_lib.export(workdir, workdir / "x.stablehlo"),
    lambda workdir: fine_tuning.find(str(workdir)),
  ],
  ids=["Translator", "evaluate", "export", "init_from"],
)
def test_what_needs_one_network_says_how_to_get_it(several, use):
  with pytest.raises(
    UsageError, match="holds 2 generators, one for each seed from 5 to 6 .*pix2pix_jax extract --workdir"
  ):
    use(several[0])


def test_replicas_are_refused_where_they_are_not_trained(several, tmp_path, monkeypatch):
  config, images = tiny_config(**SEVERAL), np.zeros((4, 16, 16, 3), np.uint8)
  with pytest.raises(UsageError, match="train.num_replicas is 2, but --debug repeats .*pix2pix_jax extract"):
    debugging.repeat_steps(config, tmp_path / "run")
  with pytest.raises(UsageError, match="train.num_replicas is 2, but fit trains one network"):
    p2p.fit(images, images, overrides={"train.num_replicas": 2})
  with pytest.raises(UsageError, match="the last replica would have the seed 2147483648, but .* Lower seed"):
    train_and_evaluate(changed(config, seed=2**31 - 1), tmp_path / "run")
  with pytest.raises(UsageError, match="holds 2 networks of each kind, but train.num_replicas is 3"):
    train_and_evaluate(changed(config, train__num_replicas=3), several[0])
  monkeypatch.setattr(replicas.jax, "device_count", lambda: 4)
  with pytest.raises(UsageError, match="trained on one device by one process, and there are 4 devices"):
    train_and_evaluate(config, tmp_path / "run")
  assert not list(tmp_path.iterdir())


def test_replicas_begin_with_the_networks_of_another_run_and_keep_averages(alone, tmp_path):
  workdir, printed = trained_in(
    tmp_path / "run", **SEVERAL, train__init_from=f"{alone}@6", train__ema_decay=0.9, train__num_steps=1
  )
  assert re.search(r"Generator: (\d+) of \1 arrays from", printed)
  state, stored = fine_tuning.initial_state(Experiment.read(workdir)), saved_arrays(alone, 6)
  for k in range(len(SEEDS)):
    own = replicas.state_of(jax.device_get(state), k)
    np.testing.assert_array_equal(
      own.generator.params["output"]["kernel"], stored["['generator']['params']['output']['kernel']"]
    )
    jax.tree.map(np.testing.assert_array_equal, own.average, own.generator.variables)
  arrays = saved_arrays(workdir, 1)
  assert not np.array_equal(*arrays["['average']['params']['output']['kernel']"])  # other batches


def test_scalars_of_one_network_are_as_ever():
  assert replicas.scalars({"l1": np.float32(0.1)}) == {"l1": float(np.float32(0.1))}
  rows = [{"l1": np.float32(0.1)}, {"l1": np.array([0.7, 0.2], np.float32)}]
  expected = np.mean(np.array([0.1, 0.7, 0.2], np.float32))
  assert replicas.scalars(replicas.steps_mean(rows, 1)) == {"l1": float(expected)}
