"""All options that are off by default, in a few runs: resume, evaluation, export, report, fine-tuning, replicas."""

import jax
import numpy as np
import pytest
from tiny_runs import TINY, assert_same_bits, saved_arrays, tiny_config

from pix2pix_jax import Translator, evaluate, extract, report, translate
from pix2pix_jax import config as config_lib
from pix2pix_jax import export as export_lib
from pix2pix_jax.data import files
from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import fine_tuning, history, translation, viz
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Image
from pix2pix_jax.train import train_and_evaluate

MODEL = {"model__upsample": "resize", "model__discriminators": 2, "model__spectral_norm": True}
LOSS = {"loss__gan": "hinge", "loss__feature_matching": 10.0, "loss__r1_weight": 10.0, "train__ema_decay": 0.9}
OPTIONS = {**MODEL, **LOSS, "data__num_val": 2, "train__log_every_steps": 1}


OTHERS = {  # what cannot be combined with OPTIONS: name of the configuration, fields
  "resnet": ("procedural", {"model__generator": "resnet_6blocks", "model__levels": 0, "loss__gan": "lsgan"}),
  "encoder_decoder": ("procedural", {"model__generator": "encoder_decoder", "loss__gan": "none"}),
  "best": ("facades:best,procedural", {}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("options") / "run"
  train_and_evaluate(tiny_config(**OPTIONS, train__num_steps=4), workdir)
  return workdir


def test_a_resumed_run_has_the_same_bits(trained, tmp_path):
  train_and_evaluate(tiny_config(**OPTIONS, train__num_steps=2), tmp_path / "run")
  train_and_evaluate(tiny_config(**OPTIONS, train__num_steps=4), tmp_path / "run")
  arrays = saved_arrays(trained, 4)
  assert_same_bits(arrays, saved_arrays(tmp_path / "run", 4))
  assert "['discriminator']['batch_stats']['scale_1']['conv_2']['v']" in arrays


def test_every_term_is_logged_and_reported(trained, tmp_path, capsys, monkeypatch):
  (row,) = [row for row in history.read(trained) if row["step"] == 4 and "train/r1_penalty" in row]
  total = row["train/gan_loss"] + 100 * row["train/l1_loss"] + 10 * row["train/feature_loss"]
  np.testing.assert_allclose(row["train/generator_loss"], total, rtol=1e-5)
  facts = report.gather(trained)["facts"]
  assert "3 levels, resize-convolutions;" in facts["Generator"]
  assert facts["Discriminator"].startswith("2 scales of a 16×16 PatchGAN, spectral norm; ")
  assert facts["Loss"].startswith("generator_loss = gan_loss + 100 · l1_loss + 10 · feature_loss; ")
  assert facts["Loss"].endswith("; hinge GAN; R1 penalty on the discriminator, γ 10")
  assert facts["Training"].endswith("moving average of the weights, decay 0.9")
  means = evaluate.evaluate(trained, split="test", baseline=["none"]).means
  assert np.isfinite(means["feature_loss"]) and "r1_penalty" not in means
  assert "feature_loss" in capsys.readouterr().out
  titles = []
  monkeypatch.setattr(viz, "_finish_axis", lambda axis, title, *rest: titles.append(title))
  viz.curves(history.read(trained), tmp_path / "curves.png")
  assert {"feature loss", "R1 penalty"} <= set(titles)


def test_the_exported_program_is_the_translators(trained, tmp_path):
  export_lib.export(trained, tmp_path / "g.stablehlo")
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  exported = jax.export.deserialize((tmp_path / "g.stablehlo").read_bytes())
  difference = np.asarray(exported.call(images, np.uint32(0))).astype(int) - Translator.load(trained)(images)
  assert np.abs(difference).max() <= 1


def test_a_replica_is_its_run(tmp_path):
  fields = {**OPTIONS, "train__num_steps": 3}
  train_and_evaluate(tiny_config(**fields, seed=4, train__num_replicas=2), tmp_path / "both")
  train_and_evaluate(tiny_config(**fields, seed=5), tmp_path / "alone")
  extract.extract(tmp_path / "both", 1, tmp_path / "one")
  one, alone = (saved_arrays(tmp_path / name, 3) for name in ("one", "alone"))
  assert one.keys() == alone.keys() and "['discriminator']['batch_stats']['scale_1']['conv_2']['v']" in one
  for name, array in one.items():
    np.testing.assert_allclose(array, alone[name], atol=1e-4 * np.abs(alone[name]).max() + 1e-7, err_msg=name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_options_survive(name, tmp_path, capsys):
  """A resumed run has the bits of an undisturbed one; evaluation, report, translation and export use its generator."""
  config, fields = OTHERS[name]
  settings = {field: value for field, value in TINY.items() if field != "data.load_size"} | {"data.load_size": 16}

  def train(steps, workdir):
    made = config_lib.load(config)
    fields_ = {field.replace("__", "."): value for field, value in fields.items()}
    config_lib.update(made, settings | {"data.num_val": 2, "train.num_steps": steps} | fields_)
    train_and_evaluate(made, workdir)

  train(4, tmp_path / "run")
  train(2, tmp_path / "parts")
  train(4, tmp_path / "parts")
  assert_same_bits(saved_arrays(tmp_path / "run", 4), saved_arrays(tmp_path / "parts", 4))
  means = evaluate.evaluate(tmp_path / "run", split="test", baseline=["none"]).means
  assert np.isfinite(list(means.values())).all()
  translator = Translator.load(tmp_path / "run")
  label_map = facades.draw(7, 0, (16, 16))["input"]
  files.write(tmp_path / "labels.png", label_map)
  translate.main(
    [f"--workdir={tmp_path / 'run'}", f"--input={tmp_path / 'labels.png'}", f"--output={tmp_path / 'x.png'}"]
  )
  signal = translator.input_signal
  raw = translation.read(signal, tmp_path / "labels.png").images
  np.testing.assert_array_equal(files.read(tmp_path / "x.png"), translator(raw[0]))
  export_lib.export(tmp_path / "run", tmp_path / "g.stablehlo")
  exported = jax.export.deserialize((tmp_path / "g.stablehlo").read_bytes())
  assert np.abs(np.asarray(exported.call(raw, np.uint32(0))).astype(int) - translator(raw)).max() <= 1
  facts = report.gather(tmp_path / "run")["facts"]
  generator, gan = {
    "resnet": ("resnet_6blocks, 2 features, batch norm, 2 levels; ", "lsgan GAN"),
    "encoder_decoder": ("encoder-decoder, paper widths from 2 features, batch norm, 3 levels; ", "the error on [0, 1]"),
    "best": ("U-Net, paper widths from 2 features, batch norm, 3 levels; ", "vanilla GAN"),
  }[name]
  assert facts["Generator"].startswith(generator) and facts["Loss"].endswith(gan)
  assert facts["Generator"] in report.write(tmp_path / "run").read_text(encoding="utf-8")


def test_options_of_the_architecture_are_fixed_and_those_of_the_loss_are_not(trained):
  old = config_lib.read(trained)
  for name, value in {"upsample": "transpose", "discriminators": 1, "spectral_norm": False}.items():
    new = old.copy_and_resolve_references()
    with new.unlocked():
      new.model[name] = value
    with pytest.raises(UsageError, match=f"another architecture .model.{name}"):
      config_lib.require_same_model(trained, old, new)
  new = old.copy_and_resolve_references()
  with new.unlocked():
    new.loss.update(gan="vanilla", feature_matching=0.0, r1_weight=0.0)
    new.train.ema_decay = 0.0
  assert len(config_lib.differences(old, new)) == 4
  config_lib.require_same_model(trained, old, new)


def test_a_generator_can_get_new_discriminators(trained):
  """By fine-tuning, as for an imported generator; the discriminators start afresh."""
  run = Experiment.read(trained)
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.model.discriminators = 1
    config.train.update(init_from=str(trained), init_networks=("generator",))
  state = fine_tuning.initial_state(Experiment(config, run.spec))
  translator = Translator.load(trained)
  jax.tree.map(np.testing.assert_array_equal, state.generator.variables, translator._variables)
  assert "scale_0" not in state.discriminator.params


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_statistics_of_batch_norm_are_refused_without_it(tmp_path, norm, capsys):
  settings = {"model__norm": norm, "train__num_steps": 1}
  with pytest.raises(UsageError, match="evaluation.norm_stats=running chooses statistics of batch norm"):
    train_and_evaluate(tiny_config(**settings, evaluation__norm_stats="running"), tmp_path / "run")
  train_and_evaluate(tiny_config(**settings), tmp_path / "run")
  with pytest.raises(UsageError, match="--norm_stats=batch chooses statistics of batch norm"):
    evaluate.evaluate(tmp_path / "run", norm_stats="batch")
  evaluate.evaluate(tmp_path / "run")
  assert "norm statistics: none" in capsys.readouterr().out


def test_a_discriminator_that_is_not_used_is_not_described():
  config = tiny_config(loss__gan="none", model__discriminators=2, model__spectral_norm=True)
  spec = DataSpec(Image(3), Image(3), {"train": 8})
  run = Experiment(config_lib.resolve(config, spec), spec)
  assert run.describe()[1] == "Discriminator: not used (loss.gan is none)."
