"""Fine-tuning: a new run that starts from the networks of another."""

import shutil

import jax
import numpy as np
import pytest
from tiny_runs import assert_same_bits, saved_arrays, tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax import fit
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inspect import inspect
from pix2pix_jax.run import fine_tuning
from pix2pix_jax.run.checkpoint import Checkpointer
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Depth, Image, Settings
from pix2pix_jax.train import train_and_evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("first") / "run"
  train_and_evaluate(tiny_config(train__num_steps=2, data__num_val=0), workdir)
  return workdir


def first_state(init_from, channels=3, spec=None, **fields):
  config = tiny_config(train__init_from=str(init_from), **fields)
  spec = spec or DataSpec(Image(channels), Image(3), {"train": 8})
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


@pytest.mark.parametrize("suffix", ["", "@2"])
def test_a_run_resumes_from_its_own_checkpoint(trained, tmp_path, monkeypatch, capsys, suffix):
  """The other run is read once; afterwards it may be gone, and the flag may be left out or be spelt differently."""
  shutil.copytree(trained, tmp_path / "first")
  settings = {"data__num_val": 0, "train__checkpoint_every_steps": 1}
  for steps, origin in enumerate((f"{tmp_path}/first{suffix}", f"first{suffix}", ""), 1):
    monkeypatch.chdir(tmp_path)
    fields = settings | {"train__num_steps": steps, "train__init_from": origin}
    assert int(train_and_evaluate(tiny_config(**fields), tmp_path / "run").step) == steps
    shutil.rmtree(tmp_path / "first", ignore_errors=True)
    assert config_lib.read(tmp_path / "run").train.init_from == f"{tmp_path}/first{suffix}"
  assert "init_from" not in capsys.readouterr().out


def test_networks_that_are_trained_already_cannot_start_from_others(trained, tmp_path, capsys):
  settings = {"data__num_val": 0, "train__num_steps": 2, "train__checkpoint_every_steps": 1}
  train_and_evaluate(tiny_config(**settings | {"train__num_steps": 1}), tmp_path / "run")
  shutil.copytree(tmp_path / "run", tmp_path / "undisturbed")
  train_and_evaluate(tiny_config(**settings), tmp_path / "undisturbed")
  capsys.readouterr()
  train_and_evaluate(tiny_config(**settings, train__init_from=str(trained)), tmp_path / "run")
  printed = capsys.readouterr().out
  assert f"Warning: --init_from={trained} is ignored: {tmp_path}/run has been trained" in printed
  assert "Changed since the last start: train.num_steps 1 → 2." in printed
  assert config_lib.read(tmp_path / "run").train.init_from == ""
  assert_same_bits(saved_arrays(tmp_path / "run", 2), saved_arrays(tmp_path / "undisturbed", 2))


def test_two_spellings_of_an_origin_are_the_same(trained, tmp_path, monkeypatch):
  (tmp_path / "link").symlink_to(trained.parent)
  monkeypatch.chdir(trained.parent)
  assert fine_tuning.is_same(str(trained), f"{tmp_path}/link/run@best") and fine_tuning.is_same("run", str(trained))
  assert fine_tuning.is_same("", "") and not fine_tuning.is_same("run", "")
  assert not fine_tuning.is_same("run", "run@2") and not fine_tuning.is_same("run", "other")


def spectral_norms(state):
  """By convolution of the discriminator, (estimated, true) largest singular value of the kernel, for each replica."""
  params, vectors = arrays(state.discriminator.params), arrays(state.discriminator.batch_stats)
  found = {}
  for name in vectors:
    if name.endswith("['u']"):
      kernel = params[name.replace("['u']", "['kernel']")]
      u, v = vectors[name], vectors[name.replace("['u']", "['v']")]
      lead = kernel.shape[: u.ndim - 1]
      matrix = kernel.reshape(*lead, -1, kernel.shape[-1]).astype(np.float64)
      found[name] = np.einsum("...i,...io,...o", v, matrix, u), np.linalg.norm(matrix, 2, (-2, -1))
  return found


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("was_normed", [False, True])
def test_spectral_norm_is_that_of_the_kernel_that_was_taken(tmp_path, was_normed, channels, replicas):
  """Not that of the random kernel in its place, whose singular vectors mean another, even a negative, norm."""
  spectral = {"model__spectral_norm": was_normed, "train__num_steps": 1, "data__num_val": 0}
  train_and_evaluate(tiny_config(**spectral), tmp_path / "other")
  state = first_state(tmp_path / "other", channels, seed=77, model__spectral_norm=True, train__num_replicas=replicas)
  norms = spectral_norms(state)
  assert len(norms) > 2
  for estimated, true in norms.values():
    assert np.shape(estimated) == (() if replicas == 1 else (2,))
    np.testing.assert_allclose(estimated, true, rtol=0.1)


def test_without_spectral_norm_kernels_are_those_that_the_layers_used(tmp_path):
  spectral = {"model__spectral_norm": True, "train__num_steps": 1, "data__num_val": 0}
  train_and_evaluate(tiny_config(**spectral), tmp_path / "other")
  normed, plain = first_state(tmp_path / "other", model__spectral_norm=True), first_state(tmp_path / "other")
  norms = spectral_norms(normed)
  for name, kernel in arrays(plain.discriminator.params).items():
    estimated, _ = norms.get(name.replace("['kernel']", "['u']"), (1.0, 1.0))
    np.testing.assert_allclose(kernel, arrays(normed.discriminator.params)[name] / estimated, rtol=1e-5)


@pytest.mark.parametrize("more", [1, -1])
def test_decoders_are_aligned_at_the_output(tmp_path, capsys, more):
  """A network for images of twice or half the size keeps what it knows about textures."""
  levels = 4
  train_and_evaluate(tiny_config(model__levels=levels, data__num_val=0, train__num_steps=1), tmp_path / "other")
  side = 2 ** (levels + more)
  state = first_state(tmp_path / "other", model__levels=levels + more, data__crop_size=side, data__load_size=side)
  saved, taken = saved_arrays(tmp_path / "other", 1), arrays(state.generator.params)
  name = "['conv']['kernel']"
  pairs = [(block, block + more) for block in range(1, levels - 1) if block + more > 0]  # block 0 has no skip
  assert len(pairs) == (2 if more > 0 else 1)
  for old, new in pairs:
    np.testing.assert_array_equal(taken[f"['up_{new}']{name}"], saved[f"['generator']['params']['up_{old}']{name}"])
  np.testing.assert_array_equal(taken["['output']['kernel']"], saved["['generator']['params']['output']['kernel']"])
  assert f"model.levels {levels} → {levels + more}" in capsys.readouterr().out


def test_the_last_kernel_of_another_decoder_is_not_taken(tmp_path):
  """That of a resize-convolution has the shape of the plain one that ends the report's decoder."""
  train_and_evaluate(tiny_config(model__upsample="resize", data__num_val=0, train__num_steps=1), tmp_path / "other")
  report = {"model__upsample": "resize", "model__decoder_widths": "report"}
  state, fresh = first_state(tmp_path / "other", **report, seed=7), first_state("", **report, seed=7)
  kernels = [arrays(each.generator.params)["['output']['kernel']"] for each in (state, fresh)]
  assert kernels[0].shape == saved_arrays(tmp_path / "other", 1)["['generator']['params']['output']['kernel']"].shape
  np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("was_residual", [False, True])
def test_a_correction_is_not_taken_for_depth(tmp_path, was_residual):
  """Nor kernels that see other channels; everything between them is."""
  rooms = {"data__task": "nyu_depth", "data__depth_range": (0.0, 10.0), "data__num_val": 0, "train__num_steps": 1}
  train_and_evaluate(tiny_config(**rooms, model__residual=was_residual), tmp_path / "other")
  spec = DataSpec(Depth(range=(0.0, 10.0)), Depth(range=(0.0, 10.0)), {"train": 8})
  rooms |= {"model__residual": not was_residual, "seed": 7}
  states = [first_state(origin, spec=spec, **rooms) for origin in (tmp_path / "other", "")]
  taken, fresh = (arrays(each.generator.params) for each in states)
  equal = {name for name in taken if "kernel" in name and np.array_equal(taken[name], fresh[name])}
  assert equal == {"['down_0']['conv']['kernel']", "['output']['kernel']"}


def test_transposed_kernels_are_not_taken_for_those_of_resize_convolutions(tmp_path, capsys):
  """Those of a ResNet have the same shape."""
  resnet = {"model__generator": "resnet_6blocks", "model__levels": 2, "data__num_val": 0, "train__num_steps": 1}
  train_and_evaluate(tiny_config(**resnet), tmp_path / "other")
  state = first_state(tmp_path / "other", **resnet, model__upsample="resize")
  fresh = first_state("", **resnet, model__upsample="resize")
  equal = {
    name
    for name, array in arrays(state.generator.params).items()
    if np.array_equal(array, arrays(fresh.generator.params)[name])
  }
  assert {name for name in equal if "kernel" in name} == {f"['up_{block}_conv']['kernel']" for block in (0, 1)}
  assert "model.upsample 'transpose' → 'resize'" in capsys.readouterr().out


def test_a_damaged_best_checkpoint_is_replaced_by_the_next(tmp_path, capsys):
  settings = {"train__eval_every_steps": 1, "train__checkpoint_every_steps": 1, "train__keep_every_steps": 1}
  train_and_evaluate(tiny_config(**settings, train__num_steps=3), tmp_path / "other")
  with Checkpointer(tmp_path / "other", config=config_lib.read(tmp_path / "other"), read_only=True) as checkpointer:
    best, second, *_ = checkpointer._candidates("best")
  shutil.rmtree(tmp_path / f"other/checkpoints/{best}/default")
  first_state(tmp_path / "other")
  printed = capsys.readouterr().out
  assert (
    f"Using the checkpoint of step {second} instead" in printed
    and f"arrays from {tmp_path}/other, step {second}" in printed
  )
  with pytest.raises(UsageError, match=f"train.init_from is .*{best} is damaged"):
    first_state(f"{tmp_path}/other@{best}")


QUANTITY = {"data__task": "mr_ct", "data__input_kind": "quantity", "data__target_kind": "quantity", "data__num_val": 0}


def test_open_ranges_are_those_of_the_other_run_and_other_meanings_are_listed(tmp_path, capsys):
  settings = {**QUANTITY, "train__num_steps": 1}
  ranges = {"data__input_range": (0.0, 500.0), "data__target_range": (-1000.0, 3000.0)}
  train_and_evaluate(tiny_config(**settings, **ranges), tmp_path / "other")
  capsys.readouterr()
  more = {"train__init_from": str(tmp_path / "other"), "data__target_range": (-1000.0, 2000.0)}
  train_and_evaluate(tiny_config(**settings, **more), tmp_path / "run")
  data = config_lib.read(tmp_path / "run").data
  assert (tuple(data.input_range), tuple(data.target_range)) == ((0, 500), (-1000, 2000))
  differs = f"Differs from {tmp_path}/other: data.target_range (-1000.0, 3000.0) → (-1000.0, 2000.0)."
  assert differs in capsys.readouterr().out


def test_fit_and_inspect_adopt_ranges_too(tmp_path, capsys):
  ranges = {"data__input_range": (0.0, 500.0), "data__target_range": (-1000.0, 3000.0)}
  train_and_evaluate(tiny_config(**QUANTITY, **ranges, train__num_steps=1), tmp_path / "other")
  x, y = (np.random.default_rng(i).uniform(0, 100, (8, 16, 16, 1)).astype(np.float32) for i in (0, 1))
  small = {"model.base_features": 2, "model.discriminator_features": 2, "model.patch": 16}
  own = {"batch_size": 2, "epochs": 1, "verbose": 0, "overrides": {**small, "train.init_from": str(tmp_path / "other")}}
  fit(x, y, input_kind="quantity", target_kind="quantity", workdir=tmp_path / "run", **own)
  assert tuple(config_lib.read(tmp_path / "run").data.input_range) == (0, 500)
  capsys.readouterr()
  inspect(tiny_config(**QUANTITY, train__init_from=str(tmp_path / "other")), tmp_path / "sheets")
  assert "-1000 to 3000" in capsys.readouterr().out


def test_classes_and_several_inputs_adopt_what_is_open(tmp_path, monkeypatch):
  other, config = config_lib.default(), config_lib.default()
  for each, count in ((other, 7), (config, 0)):
    each.data.update(input_kind="auto", target_kind="classes", target_classes=count)
  other.data.inputs, config.data.inputs = ("a:quantity,range=0/5", "b:image"), ("a:quantity", "b:image")
  config.train.init_from = "other"
  monkeypatch.setattr(fine_tuning, "find", lambda name: (tmp_path / name, "best"))
  monkeypatch.setattr(config_lib, "read", lambda workdir: other)
  adopted = fine_tuning.adopt(config).data
  assert adopted.target_classes == 7 and tuple(adopted.inputs) == ("a:quantity,range=0/5", "b:image")


def test_ranges_of_other_channels_are_an_error():
  settings = Settings("quantity", range=((0.0, 1.0), (0.0, 2.0), (0.0, 3.0)))
  assert settings.make(3, np.float32).channels == 3
  for channels in (1, 4):
    with pytest.raises(UsageError, match="3 ranges .0 to 1, 0 to 2, 0 to 3., but the data have"):
      settings.make(channels, np.float32)


def test_a_folder_may_be_named_like_a_checkpoint(trained, tmp_path, capsys):
  shutil.copytree(trained, tmp_path / "run@2")
  for suffix in ("", "@latest"):
    first_state(f"{tmp_path}/run@2{suffix}")
    assert f"arrays from {tmp_path}/run@2, step 2." in capsys.readouterr().out


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
