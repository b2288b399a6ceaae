"""Fine-tuning: a new run that starts from the networks of another."""

import jax
import numpy as np
import pytest
from tiny_runs import saved_arrays, tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import fine_tuning
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Image
from pix2pix_jax.train import train_and_evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("first") / "run"
  train_and_evaluate(tiny_config(train__num_steps=2, data__num_val=0), workdir)
  return workdir


def first_state(init_from, channels=3, **fields):
  config = tiny_config(train__init_from=str(init_from), **fields)
  spec = DataSpec(Image(channels), Image(3), {"train": 8})
  return fine_tuning.initial_state(Experiment(config_lib.resolve(config, spec), spec))


def arrays(tree):
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("suffix", ["", "@2", "@latest", "@best"])
def test_both_networks_start_where_the_other_run_ended(trained, suffix, capsys):
  state = first_state(f"{trained}{suffix}")
  saved = saved_arrays(trained, 2)
  for network in ("generator", "discriminator"):
    for part in ("params", "batch_stats"):
      found = arrays(getattr(getattr(state, network), part))
      assert found
      for name, array in found.items():
        np.testing.assert_array_equal(array, saved[f"['{network}']['{part}']{name}"])
  assert int(state.step) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(state.generator.opt_state))
  printed = capsys.readouterr().out
  assert "Generator: " in printed and f"from {trained}, step 2." in printed and "random" not in printed


def test_what_does_not_fit_stays_random(trained, capsys):
  state, fresh = first_state(trained, channels=4), first_state("", channels=4)
  names = [
    name
    for name, array in arrays(state.generator.params).items()
    if np.array_equal(array, arrays(fresh.generator.params)[name])
  ]
  assert len(names) == 1 and f"random: ['params']{names[0]}" in capsys.readouterr().out


def test_one_network_alone(trained):
  state, fresh = first_state(trained, train__init_networks=("generator",)), first_state("")
  for name, array in arrays(state.discriminator).items():
    np.testing.assert_array_equal(array, arrays(fresh.discriminator)[name])
  assert any(np.any(array != arrays(fresh.generator)[name]) for name, array in arrays(state.generator).items())


def test_a_run_resumes_from_its_own_checkpoint(trained, tmp_path):
  """The other run is read once; afterwards it may be gone."""
  settings = {"train__init_from": str(trained), "data__num_val": 0, "train__checkpoint_every_steps": 1}
  state = train_and_evaluate(tiny_config(**settings, train__num_steps=1), tmp_path / "run")
  assert int(state.step) == 1
  again = train_and_evaluate(tiny_config(**settings, train__num_steps=2), tmp_path / "run")
  assert int(again.step) == 2


@pytest.mark.parametrize(
  "name, reason", [("nowhere", "nowhere does not exist"), ("{trained}@77", "has no checkpoint '77'")]
)
def test_a_wrong_origin_is_an_error_before_the_data_are_read(trained, tmp_path, name, reason):
  config = tiny_config(train__init_from=name.format(trained=trained), data__name="folder", data__source_dir="nowhere")
  with pytest.raises(UsageError, match=f"train.init_from is .*{reason}"):
    train_and_evaluate(config, tmp_path / "run")


def test_another_architecture_is_an_error(trained):
  with pytest.raises(UsageError, match="no kernel of the generator"):
    first_state(trained, model__base_features=5, model__norm="none", train__init_networks=("generator",))
