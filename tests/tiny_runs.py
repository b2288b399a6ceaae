"""Runs of seconds, which several test modules share."""

import os
from pathlib import Path
import sys

import forked
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import procedural
from pix2pix_jax.inference import Translator
from pix2pix_jax.model import networks
from pix2pix_jax.run import checkpoint

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
  "train.tensorboard": False,  # most of the start of a program is TensorFlow's import
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


def with_devices(count):
  """The environment of a program that shall have several CPU devices."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
  return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(workdir, **fields):
  return forked.run(command(workdir, **fields))


def tiny_config(**fields):
  config = procedural.get_config()
  config.update_from_flattened_dict(TINY | {name.replace("__", "."): value for name, value in fields.items()})
  return config


def latest_step(workdir):
  with checkpoint.Checkpointer(workdir, read_only=True) as checkpointer:
    return checkpointer.latest_step()


def saved_arrays(workdir, step):
  """The leaves of a checkpoint, read by Orbax without this package."""
  path = Path(workdir).resolve() / "checkpoints" / str(step) / "default"
  with ocp.PyTreeCheckpointer() as checkpointer:
    stored = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)  # whatever devices saved them
    tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_bits(one, other):
  assert one.keys() == other.keys() and len(one) > 50
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_same_numbers(one, other):
  """Up to rounding, which the programs of two configurations may do differently; the tests' rate is 2e-4."""
  assert one.keys() == other.keys() and len(one) > 50
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
  return config


def make_translator(**fields):
  """An untrained translator of 3 levels and 2 features."""
  config = config_lib.default()
  config.update_from_flattened_dict(
    {
      "model.base_features": 2,
      "model.levels": 3,
      "model.input_channels": 3,
      "model.output_channels": 3,
      "data.crop_size": 16,
      "data.crop_width": 24,
      "data.input_kind": "image",
      "data.target_kind": "image",
      "data.input_dtype": "uint8",
      "data.target_dtype": "uint8",
      "evaluation.norm_stats": "image",
      **{name.replace("__", "."): value for name, value in fields.items()},
    }
  )
  generator, _ = networks.make_networks(config.model)
  x = jnp.zeros((1, 8, 8, config.model.input_channels))
  return Translator(config, jax.jit(lambda: generator.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))())
