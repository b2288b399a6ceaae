"""The moving average of the generator (train.ema_decay): in steps, checkpoints and wherever the generator is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import assert_same_bits, assert_same_numbers, saved_arrays, tiny_config

from pix2pix_jax import Translator, evaluate, report
from pix2pix_jax import export as export_lib
from pix2pix_jax.extract import extract
from pix2pix_jax.model import state as state_lib
from pix2pix_jax.run import checkpoint, fine_tuning
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.train import train_and_evaluate

AVERAGED = {"train__ema_decay": 0.75, "data__num_val": 2, "train__eval_every_steps": 100}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Four steps, each of which is saved."""
  workdir = tmp_path_factory.mktemp("averaged") / "run"
  settings = {"train__checkpoint_every_steps": 1, "train__keep_every_steps": 1, "train__num_steps": 4}
  train_and_evaluate(tiny_config(**AVERAGED, **settings), workdir)
  return workdir


def parts(arrays, tree):
  return {name.removeprefix(f"['{tree}']"): array for name, array in arrays.items() if name.startswith(f"['{tree}']")}


def test_the_average_by_hand():
  """Decays (1 + n) / (10 + n) = 0.1, 2/11, 0.25, and then the 0.25 that was asked for, in float64."""
  average, expected = {"w": jnp.array([4.0])}, 4.0
  for step, (value, decay) in enumerate(zip([1.0, -2.0, 8.0, 3.0], [0.1, 2 / 11, 0.25, 0.25])):
    average = state_lib.moving_average(average, {"w": jnp.array([value])}, 0.25, jnp.int32(step))
    expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(average["w"], [expected], rtol=1e-6)


def test_every_saved_average_follows_from_the_one_before_and_the_weights(trained):
  """Parameters and batch statistics; with a decay of 0.75 the first steps have the lower decay of short averages."""
  for step in (2, 3, 4):
    before, now = parts(saved_arrays(trained, step - 1), "average"), saved_arrays(trained, step)
    weights, average = parts(now, "generator"), parts(now, "average")
    assert len(average) > 10 and average.keys() < weights.keys()
    decay = step / (9 + step)  # (1 + n) / (10 + n) with n = step - 1
    for name, array in average.items():
      expected = decay * before[name].astype(np.float64) + (1 - decay) * weights[name]
      np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert any(np.abs(array - weights[name]).max() > 1e-6 for name, array in average.items())


def test_a_resumed_run_has_the_same_average_bit_for_bit(trained, tmp_path):
  train_and_evaluate(tiny_config(**AVERAGED, train__num_steps=2), tmp_path / "run")
  train_and_evaluate(tiny_config(**AVERAGED, train__num_steps=4), tmp_path / "run")
  assert_same_bits(saved_arrays(trained, 4), saved_arrays(tmp_path / "run", 4))


def test_translator_evaluate_export_and_fine_tuning_use_the_average(trained, tmp_path):
  experiment, stored = Experiment.read(trained), parts(saved_arrays(trained, 4), "average")
  translator = Translator.load(trained, step=4)
  loaded = {
    jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(translator._variables)
  }
  assert loaded.keys() == stored.keys()
  for name, leaf in loaded.items():
    np.testing.assert_array_equal(leaf, stored[name])

  with checkpoint.Checkpointer(trained, read_only=True) as checkpointer:
    state = checkpointer.restore(4, experiment.abstract())
  jax.tree.map(np.testing.assert_array_equal, state.variables["generator"], translator._variables)
  weights = Translator(translator.config, state.generator.variables)
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  assert np.any(translator(images) != weights(images))

  export_lib.export(trained, tmp_path / "g.stablehlo", step="4")
  exported = jax.export.deserialize((tmp_path / "g.stablehlo").read_bytes())
  difference = np.asarray(exported.call(images, np.uint32(0))).astype(int) - translator(images)
  assert np.abs(difference).max() <= 1

  means = evaluate.evaluate(trained, step="4", baseline=["none"]).means
  averaged = evaluate_rows(experiment, state.variables)
  np.testing.assert_allclose(means["l1"], averaged, rtol=1e-5)
  assert abs(averaged - evaluate_rows(experiment, {**state.variables, "generator": state.generator.variables})) > 1e-7

  fresh = fine_tuning.initial_state(Experiment(tuned(experiment, f"{trained}@4"), experiment.spec))
  jax.tree.map(np.testing.assert_array_equal, fresh.generator.variables, translator._variables)
  jax.tree.map(np.testing.assert_array_equal, fresh.average, fresh.generator.variables)
  assert "moving average of the weights, decay 0.75" in report.write(trained).read_text(encoding="utf-8")


def tuned(experiment, init_from):
  config = experiment.config.copy_and_resolve_references()
  with config.unlocked():
    config.train.init_from = init_from
  return config


def evaluate_rows(experiment, variables):
  from pix2pix_jax.data import pipeline, prepare
  from pix2pix_jax.run import evaluation

  source = prepare.prepare(experiment.config.data, experiment.config.model)
  split = pipeline.load_split(source, "val", (16, 16), cache_gib=1)
  return evaluation.evaluate_split(experiment, variables, split).means["l1"]


def test_averaging_may_begin_and_end_at_a_resume(tmp_path):
  """It begins at the weights of the checkpoint, and does not touch them."""
  plain = {**AVERAGED, "train__ema_decay": 0.0}
  train_and_evaluate(tiny_config(**plain, train__num_steps=2), tmp_path / "run")
  before = saved_arrays(tmp_path / "run", 2)
  assert not parts(before, "average")
  train_and_evaluate(tiny_config(**AVERAGED, train__num_steps=3), tmp_path / "run")
  middle = saved_arrays(tmp_path / "run", 3)
  for name, array in parts(middle, "average").items():
    old, new = parts(before, "generator")[name], parts(middle, "generator")[name]
    np.testing.assert_allclose(array, 0.25 * old.astype(np.float64) + 0.75 * new, rtol=1e-5, atol=1e-7)
  train_and_evaluate(tiny_config(**plain, train__num_steps=4), tmp_path / "run")
  train_and_evaluate(tiny_config(**plain, train__num_steps=4), tmp_path / "whole")
  assert_same_numbers(saved_arrays(tmp_path / "run", 4), saved_arrays(tmp_path / "whole", 4))


def test_a_finished_run_returns_its_average_whatever_the_command_says(tmp_path):
  """As `Translator.load` does; nothing else changes either."""
  averaged = train_and_evaluate(tiny_config(**AVERAGED, train__num_steps=2), tmp_path / "averaged")
  again = train_and_evaluate(
    tiny_config(**AVERAGED | {"train__ema_decay": 0.0}, train__num_steps=2), tmp_path / "averaged"
  )
  for one, other in zip(jax.tree.leaves(averaged.average), jax.tree.leaves(again.average), strict=True):
    np.testing.assert_array_equal(one, other)
  plain = {**AVERAGED, "train__ema_decay": 0.0}
  train_and_evaluate(tiny_config(**plain, train__num_steps=2), tmp_path / "plain")
  assert train_and_evaluate(tiny_config(**AVERAGED, train__num_steps=2), tmp_path / "plain").average is None


def test_extracted_replicas_keep_the_averages_of_every_checkpoint(tmp_path):
  """Also of those from before `train.ema_decay` was turned off or on."""
  replicas = {"train__num_replicas": 2, "train__keep_every_steps": 1, "train__checkpoint_every_steps": 1}
  for steps, decay in enumerate((0.75, 0.0, 0.75), 1):
    train_and_evaluate(
      tiny_config(**AVERAGED | replicas | {"train__ema_decay": decay}, train__num_steps=steps), tmp_path / "run"
    )
  extract(tmp_path / "run", 1, tmp_path / "one")
  for step in (1, 2, 3):
    whole, one = (parts(saved_arrays(tmp_path / name, step), "average") for name in ("run", "one"))
    assert whole.keys() == one.keys() and bool(whole) == (step != 2)
    for name, array in one.items():
      np.testing.assert_array_equal(array, whole[name][1])
