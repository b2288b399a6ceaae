"""Numbers that go bad: which step broke, the limit of gradients, and a discriminator that teaches nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax.cli import parse_train
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import state as state_lib
from pix2pix_jax.run.balance import ROWS, Balance
from pix2pix_jax.run.debugging import repeat_steps
from pix2pix_jax.train import train_and_evaluate

# --- --debug


def test_debug_is_a_flag_of_train(tmp_path):
  flags = ["--config=procedural", f"--workdir={tmp_path}"]
  assert parse_train([*flags, "--debug"]).debug and not parse_train(flags).debug


@pytest.mark.parametrize("gan", ["vanilla", "none"])
def test_the_first_broken_step_is_found_and_can_be_repeated(tmp_path, gan):
  settings = {"data__num_val": 0, "train__checkpoint_every_steps": 1, "loss__gan": gan}
  train_and_evaluate(tiny_config(train__num_steps=2, **settings), tmp_path / "run")
  files = {path for path in tmp_path.rglob("*") if path.is_file()}
  config = tiny_config(train__num_steps=6, optimizer__learning_rate=3e38, **settings)
  with pytest.raises(
    UsageError, match=r"Step 3 is the first .*after/generator.*step_3\.npz.*The batch itself is finite"
  ):
    repeat_steps(config, tmp_path / "run")
  (path,) = {path for path in tmp_path.rglob("*") if path.is_file()} - files  # and nothing else was written
  saved = np.load(path)
  assert saved["before/step"] == 2 and saved["batch/input"].shape == (2, 16, 16, 3)
  assert all(np.isfinite(saved[name]).all() for name in saved.files)


def test_a_run_without_a_broken_step_is_said_to_be_finite(tmp_path, capsys):
  assert repeat_steps(tiny_config(train__num_steps=2, data__num_val=0), tmp_path / "new") == 2
  assert "All numbers are finite up to step 2." in capsys.readouterr().out
  assert not (tmp_path / "new").exists()


def test_a_finished_run_has_nothing_to_check(tmp_path, capsys):
  config = tiny_config(train__num_steps=2, data__num_val=0)
  train_and_evaluate(config, tmp_path / "run")
  assert repeat_steps(config, tmp_path / "run") == 2
  assert "Nothing to check: the newest checkpoint, of step 2, is the last" in capsys.readouterr().out


# --- optimizer.clip_norm


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
  """Adam's first moment after one step is (1 - beta1) times the gradient that it was given."""
  settings = config_lib.load("procedural").optimizer
  grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # norm 5
  moments = {}
  for clip_norm in (0.0, 0.5, 50.0):
    with settings.unlocked():
      settings.clip_norm = clip_norm
    optimizer = state_lib.make_optimizer(settings)
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    moments[clip_norm] = optax.tree.get(state, "mu")
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(grads))
  np.testing.assert_allclose(optax.global_norm(moments[0.5]), 0.25, rtol=1e-6)
  np.testing.assert_allclose(moments[0.5]["a"] / moments[0.0]["a"][0], [0.1, 0], rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, moments[0.0], moments[50.0])


# --- The balance of the two networks


def look(rows, every=200):
  balance = Balance()
  names = ("train/discriminator_accuracy_real", "train/discriminator_accuracy_fake")
  return [balance.look((number + 1) * every, dict(zip(names, row))) for number, row in enumerate(rows)]


@pytest.mark.parametrize(
  "accuracies, advice",
  [((1.0, 0.999), "without an error"), ((1.0, 0.0), "the same answer"), ((0.001, 1.0), "the same answer")],
)
def test_a_discriminator_that_teaches_nothing_is_reported_once(accuracies, advice):
  told = look([(0.8, 0.7)] + [accuracies] * 3 * ROWS)
  assert [number for number, text in enumerate(told) if text] == [ROWS] and advice in told[ROWS]


@pytest.mark.parametrize("rows", [[(0.9, 0.95)] * 20, [(1.0, 1.0), (0.9, 0.9)] * 10, [(0.5, 0.5)] * 20, [()] * 20])
def test_a_balance_that_changes_or_has_no_discriminator_is_no_news(rows):
  assert not any(look(rows))


def test_few_steps_are_no_news_however_many_lines_they_have():
  assert not any(look([(1.0, 1.0)] * 40, every=10))
