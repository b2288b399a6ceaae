"""Workdirs of earlier versions: what they hold stays usable."""

import json
from pathlib import Path
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pix2pix_jax import Translator, report
from pix2pix_jax import config as config_lib
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Two steps of KITTI-like data by version 0.1, a U-Net of two levels and two features, and a translation by it."""
  return extract(tmp_path_factory.mktemp("old") / "run")


def extract(folder):
  with tarfile.open(Path(__file__).parent / "data" / "workdir_0.1.tar.gz") as archive:
    archive.extractall(folder, filter="data")
  return folder


def test_version_0_1_translates_as_it_did(workdir):
  translator = Translator.load(workdir)
  assert (translator.input_signal.kind, translator.target_signal.describe()) == ("image", "depth, 0 to 80 m, 1 channel")
  images = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
  # Rounding differs between machines and forms of the convolution; the outputs have a standard deviation of 0.17 m.
  np.testing.assert_allclose(translator(images, dropout=False), np.load(workdir / "expected.npy"), atol=1e-3)


def test_a_decaying_learning_rate_of_version_0_1_can_be_resumed(tmp_path):
  """Its optimizer also stored the number of updates, which now follows from the step."""
  run = Experiment.read(extract(tmp_path))
  state = run.init()
  old = {
    name: {"params": network.params, "batch_stats": network.batch_stats}
    | {"opt_state": (network.opt_state[0], {"count": jnp.int32(3)})}
    for name, network in (("generator", state.generator), ("discriminator", state.discriminator))
  }
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "checkpoints/3/default", old | {"step": jnp.int32(3)})
  (tmp_path / "checkpoints/3/_CHECKPOINT_METADATA").write_text("{}")
  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    restored = checkpointer.restore(3, run.abstract())
  assert int(restored.step) == 3
  jax.tree.map(np.testing.assert_array_equal, restored.generator, state.generator)


def test_version_0_1_can_be_resumed_and_reported(workdir):
  """Its optimizer state has the same tree; the random streams are others, so that the continuation has other noise."""
  run = Experiment.read(workdir)
  with checkpoint.Checkpointer(workdir) as checkpointer:
    state = checkpointer.restore(2, run.abstract())
  assert int(state.step) == 2 and int(state.generator.opt_state[0].count) == 2
  assert np.abs(np.asarray(state.generator.opt_state[0].mu["output"]["kernel"])).max() > 0
  assert config_lib.read(workdir).data.depth_range == (0.0, 80.0)
  assert "kitti" in report.write(workdir).read_text(encoding="utf-8")


def test_version_0_1_can_be_evaluated(workdir):
  """Choices that later versions added have the value that was the only one then, not one that is still to be made."""
  run = Experiment.read(workdir)
  open_fields = [name for name, field in config_lib.each_field() if field.default == "auto"]
  still_open = [name for name in open_fields if config_lib.get(run.config, name) == "auto"]
  assert still_open == ["data.layout", "train.data_on_device"]  # they change no bit
  batch = {
    "input": jnp.zeros((1, 16, 32, 3)),
    "target": jnp.zeros((1, 16, 32, 1)),
    "mask": jnp.ones((1, 16, 32, 1)),
    "index": jnp.zeros(1, jnp.int32),
    "is_real": jnp.ones(1, bool),
  }
  _, values = run.eval_step(run.init().variables, batch)
  assert {"l1", "l1_loss", "rmse"} <= values.keys() and np.isfinite(values["generator_loss"]).all()


def test_decoder_widths_without_effect_are_forgotten(tmp_path):
  """A ResNet could be trained with the report's, which describe U-Nets."""
  path = extract(tmp_path) / "config.json"
  fields = json.loads(path.read_text())
  fields["model"] |= {"generator": "resnet_6blocks", "decoder_widths": "report"}
  path.write_text(json.dumps(fields))
  assert config_lib.read(tmp_path).model.decoder_widths == "paper"
