"""`fit`, `predict` and `evaluate` on arrays, and the translator they give."""

import atexit
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import warnings

import jax
import numpy as np
import pytest
from tiny_runs import make_translator

import pix2pix_jax as p2p
from pix2pix_jax import UsageError
from pix2pix_jax import config as config_lib
from pix2pix_jax.model import metrics
from pix2pix_jax.model import networks as models
from pix2pix_jax.run import checkpoint, history
from pix2pix_jax.signals import DataSpec, Image, Quantity

TINY = {"model.base_features": 2, "model.levels": 3, "model.patch": 16}


def pairs(count=10, size=16, dtype=np.uint8):
  """Inputs of one grey each; the target is the same grey, inverted, in three channels."""
  grey = np.random.default_rng(0).integers(0, 255, (count, 1, 1, 1))
  x = np.broadcast_to(grey, (count, size, size, 1)).astype(np.uint8)
  y = np.repeat(255 - x, 3, -1)
  return (x, y) if dtype == np.uint8 else (x.astype(dtype) / 255, y.astype(dtype) / 255)


class Recorder:
  """A callback with every Keras method."""

  def __init__(self):
    self.calls, self.epoch_logs = [], []

  def __getattr__(self, name):
    if not name.startswith(("on_", "set_")):
      raise AttributeError(name)
    return lambda *args: (
      self.calls.append((name, args[0] if args and isinstance(args[0], int) else None))
      or (self.epoch_logs.append(args[1]) if name == "on_epoch_end" else None)
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  recorder = Recorder()
  x, y = pairs()
  result = p2p.fit(
    x,
    y,
    batch_size=3,
    epochs=2,
    validation_split=0.2,
    callbacks=[recorder],
    overrides=TINY,
    workdir=tmp_path_factory.mktemp("fit") / "run",
  )
  return result, recorder


def test_callbacks_are_called_as_by_keras(fitted):
  _, recorder = fitted
  batches = [call for n in range(2) for call in (("on_train_batch_begin", n), ("on_train_batch_end", n))]
  epochs = [call for n in range(2) for call in [("on_epoch_begin", n), *batches, ("on_epoch_end", n)]]
  assert recorder.calls == [
    ("set_params", None),
    ("set_model", None),
    ("on_train_begin", None),
    *epochs,
    ("on_train_end", None),
  ]


def test_history_is_what_the_callbacks_saw(fitted):
  result, recorder = fitted
  assert {"generator_loss", "discriminator_loss", "val_generator_loss", "val_l1", "val_ssim"} <= result.history.keys()
  for name, value in recorder.epoch_logs[1].items():
    np.testing.assert_allclose(result.history[name][1], value, rtol=1e-5, err_msg=name)
  assert len(result.history["val_generator_loss"]) == 2


def test_a_workdir_resumes_where_it_was(fitted):
  result, _ = fitted
  recorder = Recorder()
  x, y = pairs()
  longer = p2p.fit(
    x, y, batch_size=3, epochs=3, validation_split=0.2, callbacks=[recorder], overrides=TINY, workdir=result.workdir
  )
  assert [call for call in recorder.calls if "epoch" in call[0]] == [("on_epoch_begin", 2), ("on_epoch_end", 2)]
  assert longer.history["generator_loss"][:2] == result.history["generator_loss"]
  assert len(longer.history["generator_loss"]) == 3


def test_stop_training_ends_after_the_epoch():
  class Stop:
    def set_model(self, model):
      self.model = model

    def on_epoch_end(self, epoch, logs):
      self.model.stop_training = True

  x, y = pairs()
  result = p2p.fit(x, y, batch_size=5, epochs=50, callbacks=[Stop()], overrides=TINY)
  assert len(result.history["generator_loss"]) == 1


NOISELESS = TINY | {
  "evaluation.dropout": False
}  # `predict` gives every picture the same noise, `evaluate` each its own


def test_evaluate_gives_what_the_validation_gave(fitted):
  result, _ = fitted
  x, y = pairs()
  values = result.evaluate(x[8:], y[8:])
  last = {name.removeprefix("val_"): series[-1] for name, series in result.history.items() if name.startswith("val_")}
  assert values == last and {"l1", "psnr", "ssim", "generator_loss", "discriminator_loss"} <= values.keys()


def test_evaluate_compiles_once_and_does_not_depend_on_the_batch_size(fitted):
  result, _ = fitted
  x, y = pairs()
  whole = result.evaluate(x, y, batch_size=10)
  for name, value in result.evaluate(x, y, batch_size=4).items():  # the last batch is short
    np.testing.assert_allclose(value, whole[name], rtol=1e-4, err_msg=name)
  step = result._experiment.eval_step
  compiled = len(step)
  result.evaluate(x[:7], y[:7], batch_size=4)
  assert len(step) == compiled


def test_predict_and_evaluate_agree():
  x, y = pairs()
  result = p2p.fit(x, y, batch_size=5, epochs=1, overrides=NOISELESS, verbose=0)
  z = result.predict(x)
  assert (z.shape, z.dtype) == (y.shape, np.uint8)
  np.testing.assert_allclose(result.evaluate(x, y)["l1"], np.abs(z / 255 - y / 255).mean(), atol=0.5 / 255)


def test_float_images_stay_floats():
  x, y = pairs(dtype=np.float32)
  result = p2p.fit(x, y, batch_size=5, epochs=1, overrides=NOISELESS)
  z = result.predict(x)
  assert z.dtype == np.float32 and 0 <= z.min() and z.max() <= 1
  np.testing.assert_allclose(result.evaluate(x, y)["l1"], np.abs(z - y).mean(), rtol=1e-3)


def test_bool_images_are_accepted_by_all_three():
  x, y = (np.random.default_rng(0).uniform(size=(6, 16, 16, channels)) < 0.5 for channels in (1, 3))
  result = p2p.fit(x, y, batch_size=2, epochs=1, validation_split=0.34, overrides=TINY, verbose=0)
  assert result.evaluate(x[4:], y[4:])["l1"] == result.history["val_l1"][-1]
  assert result.predict(x).dtype == np.uint8


@pytest.mark.parametrize("validity_channel", [False, True])
def test_depth_is_measured_where_the_target_is_valid(validity_channel):
  """Also where a validity channel expects a hole: what the network says of holes is measured by itself."""
  rng = np.random.default_rng(0)
  x = rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
  y = rng.uniform(1, 9, (6, 16, 16, 1)).astype(np.float32)
  y[:, ::2] = 0
  overrides = NOISELESS | {"data.depth_range": (0.0, 10.0), "data.validity_channel": validity_channel}
  result = p2p.fit(
    x, y, batch_size=2, epochs=1, target_kind="depth", validation_split=0.34, overrides=overrides, verbose=0
  )
  z = result.predict(x)
  assert (z.shape, z.dtype) == (y.shape, np.float32)
  assert 0 <= z.min() and z.max() <= 10
  assert not validity_channel or (z[y > 0] == 0).any(), (
    "the network predicts no hole here that could mislead the metrics"
  )
  assert {"val_validity_accuracy", "validity_loss"} <= result.history.keys() or not validity_channel
  values = result.evaluate(x[4:], y[4:])
  assert values == {name: result.history[f"val_{name}"][-1] for name in values}
  generator, _ = models.make_networks(result.translator.config.model)
  raw = generator.apply(
    result.state.generator.variables, x[4:] / np.float32(127.5) - 1, dropout=False, norm_stats="running"
  )[..., :1]
  error = np.maximum((raw + 1) * 5, 1e-3) - y[4:]
  by_hand = np.mean([np.sqrt(np.square(e[t > 0]).mean()) for e, t in zip(error, y[4:])])
  np.testing.assert_allclose(values["rmse"], by_hand, rtol=1e-4)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda x, y: (x, y[:5]), "to evaluate differ in count or size"),
    (lambda x, y: (x, y[:, :8]), "to evaluate differ in count or size"),
    (lambda x, y: (x, y[..., :1]), "trained on 1 → 3 channels"),
    (lambda x, y: (x.astype(np.int32), y), "x is int32; images are uint8"),
    (lambda x, y: (x[0], y[0]), "x has shape"),
  ],
)
def test_evaluate_explains_arrays_that_do_not_fit(fitted, change, message):
  with pytest.raises(UsageError, match=message):
    fitted[0].evaluate(*change(*pairs()))


class Talker:
  """A callback that prints."""

  def on_epoch_end(self, epoch, logs):
    print(f"epoch {epoch} of the callback")
    print("warning of the callback", file=sys.stderr)


@pytest.mark.parametrize("terminal, verbose", [(False, 0), (True, 0), (True, 1)])
def test_nothing_is_printed_where_verbose_is_0(capsys, monkeypatch, terminal, verbose):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)  # there a progress bar is drawn
  x, y = pairs()
  p2p.fit(x, y, batch_size=5, epochs=1, validation_split=0.5, overrides=TINY, callbacks=[Talker()], verbose=verbose)
  said = capsys.readouterr()
  if verbose:
    assert "PatchGAN" in said.out and "epoch 0 of the callback" in said.out and "step/s" in said.err
  else:
    assert (said.out, said.err) == ("epoch 0 of the callback\n", "warning of the callback\n")


def test_a_folder_of_fit_s_own_is_announced_and_deleted_when_the_program_exits(tmp_path, capsys, monkeypatch):
  at_exit = []
  monkeypatch.setattr(atexit, "register", lambda function, *args, **options: at_exit.append((function, args, options)))
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  result = p2p.fit(*pairs(4), overrides=TINY)
  (line,) = [line for line in capsys.readouterr().out.splitlines() if "deleted" in line]
  assert line.endswith("To keep them: workdir=DIR.") and (result.workdir / "config.json").exists()
  for function, args, options in at_exit:
    if str(result.workdir) in map(str, args):
      function(*args, **options)
  assert not result.workdir.exists()


MARKED = {
  "depth": ({"data__target_kind": "depth", "data__target_dtype": "float32"}, 0.0),
  "float quantity": (
    {"data__target_kind": "quantity", "data__target_dtype": "float32", "data__target_range": (-5.0, 5.0)},
    np.nan,
  ),
  "integer quantity": (
    {
      "data__target_kind": "quantity",
      "data__target_dtype": "int16",
      "data__target_range": (-1000.0, 3000.0),
      "data__target_nodata": "nan,-2000",
    },
    -2000,
  ),
  "classes": ({"data__target_kind": "classes", "data__target_classes": 3, "data__target_ignore": 2}, 2),
}


@pytest.mark.parametrize("fields, mark", MARKED.values(), ids=MARKED)
def test_a_pixel_without_a_value_has_the_mark_of_its_kind(fields, mark):
  """Zero is a value of quantities and classes."""
  channels = 3 if "data__target_classes" in fields else 1
  translator = make_translator(**fields, data__validity_channel=True, model__output_channels=channels + 1)
  answers = np.random.default_rng(0).uniform(-1, 1, (1, 16, 24, channels + 1)).astype(np.float32)
  translator._generate = lambda *unused, **switches: answers
  output = translator(np.zeros((16, 24, 3), np.uint8))
  known = answers[0, ..., -1] > 0
  assert known.any() and not known.all()
  np.testing.assert_array_equal(output[~known], np.asarray(mark, output.dtype))
  plain = make_translator(**fields, model__output_channels=channels)
  plain._generate = lambda *unused, **switches: answers[..., :-1]
  np.testing.assert_array_equal(output[known], plain(np.zeros((16, 24, 3), np.uint8))[known])


def test_a_validity_channel_needs_a_mark():
  config = config_lib.default()
  config.data.update(target_kind="quantity", validity_channel=True, crop_size=16, load_size=16)
  spec = lambda nodata: DataSpec(Image(3), Quantity(1, "int16", ((0.0, 9.0),), nodata=nodata), {"train": 4})
  for nodata in ((), (0.5,), (40000.0,), (np.nan,)):
    with pytest.raises(UsageError, match="needs a number of int16 that marks pixels without a value"):
      config_lib.resolve(config, spec(nodata))
  assert config_lib.resolve(config, spec((-1.0,))).model.output_channels == 2


def test_depth_metrics_against_numpy():
  rng = np.random.default_rng(1)
  target = rng.uniform(1, 60, (2, 8, 8, 1))
  prediction = target * rng.lognormal(0, 0.3, target.shape)
  mask = (rng.uniform(size=target.shape) < 0.4).astype(np.float32)
  values = metrics.depth_metrics(np.float32(prediction), np.float32(target), mask)
  for i in range(2):
    p, t = prediction[i][mask[i] > 0], target[i][mask[i] > 0]
    ratio, log = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    expected = {
      "rmse": np.sqrt(np.square(p - t).mean()),
      "mae": np.abs(p - t).mean(),
      "abs_rel": (np.abs(p - t) / t).mean(),
      "delta1": (ratio < 1.25).mean(),
      "delta2": (ratio < 1.5625).mean(),
      "delta3": (ratio < 1.953125).mean(),
      "silog": 100 * log.std(),
      "irmse": np.sqrt(np.square(1000 / p - 1000 / t).mean()),
      "imae": np.abs(1000 / p - 1000 / t).mean(),
    }
    for name, value in expected.items():
      np.testing.assert_allclose(values[name][i], value, rtol=1e-4, err_msg=name)
  assert np.isnan(metrics.depth_metrics(np.float32(prediction), np.float32(target), 0 * mask)["rmse"]).all()


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda x, y: (x[0], y[0]), "x has shape .*should be .n, H, W, C"),
    (lambda x, y: ("a/", "b/"), "x names files, such as 'a/', but should be an array"),
    (lambda x, y: (x, y[:5]), "differ in count or size"),
    (lambda x, y: (x, y[:, :8]), "differ in count or size"),
    (
      lambda x, y: (np.zeros((4, 3, 32, 32), np.uint8), y),
      r"x has shape .*channels come first, .*np.moveaxis\(x, 1, -1\)",
    ),
    (lambda x, y: (x.astype(np.int32), y), "x is int32; images are uint8"),
    (lambda x, y: (x, y.astype(np.float32)), "y is float from .*lie in .0, 1"),
    (lambda x, y: (x, np.full(y.shape, np.nan)), "y holds NaN or infinite values; float images lie in"),
  ],
)
def test_arrays_that_do_not_fit_are_explained(change, message):
  with pytest.raises(UsageError, match=message):
    p2p.fit(*change(*pairs()), overrides=TINY)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"epochs": 0}, "epochs is 0; it has to be an integer, at least 1"),
    ({"batch_size": 0}, "batch_size is 0; it has to be an integer, at least 1"),
    (
      {"overrides": {"model.base_feature": 4}},
      "overrides: There is no field model.base_feature; did you mean model.base_features",
    ),
    ({"overrides": {"modle.base_features": 4}}, "overrides: .*modle"),
    ({"overrides": {"model.base_features": "4"}}, "overrides: model.base_features is '4'; it has to be an integer"),
    ({"overrides": {"data.mirror": 1}}, "overrides: data.mirror is 1; it has to be True or False"),
    ({"batch_size": 2.0}, "batch_size is 2.0; it has to be an integer"),
    ({"batch_size": "2"}, "batch_size is '2'"),
    ({"batch_size": True}, "batch_size is True"),
    ({"epochs": 1.5}, "epochs is 1.5"),
    ({"seed": 1.5}, "seed is 1.5"),
    ({"seed": 2**63}, "seed is 9223372036854775808"),
    ({"validation_data": np.zeros((2, 16, 16, 1), np.uint8)}, "validation_data is a ndarray; it has to be a pair"),
    ({"validation_split": "0.1"}, "validation_split is '0.1'"),
    ({"config": {"seed": 1}}, "config is a dict; give a ConfigDict"),
    ({"input_kind": "heat"}, "input_kind is 'heat'; the kinds are image, depth, quantity, classes"),
    ({"target_range": (9.0, 1.0)}, "target_range is .9.0, 1.0., but the target's kind is image"),
    ({"input_kind": "depth", "input_range": (9.0, 1.0)}, "data.depth_range is .9.0, 1.0.; it has to be two numbers"),
    ({"target_kind": "quantity", "target_range": (9.0, 1.0)}, "data.target_range is .9.0, 1.0.; it has to be pairs"),
    ({"target_unit": "HU"}, "target_unit is 'HU', but the target's kind is image"),
    ({"num_classes": 5}, "num_classes is 5, but neither side's kind is classes"),
  ],
)
def test_arguments_that_do_not_fit_are_explained(arguments, message):
  with pytest.raises(UsageError, match=message):
    p2p.fit(*pairs(), **{"overrides": TINY} | arguments)


def depth_pairs(count=6, holes=(0.0,)):
  """Depth → depth of 1 to 9 m, whose first row cycles through `holes`."""
  y = np.random.default_rng(0).uniform(1, 9, (count, 16, 16, 1)).astype(np.float32)
  if holes:
    y[:, 0] = np.resize(np.float32(holes), (16, 1))
  return y, y.copy()


DEPTH = {"input_kind": "depth", "target_kind": "depth", "target_range": (0.0, 10.0)}


def test_every_form_of_a_hole_means_the_same():
  """0, negative, NaN and infinite: the same bits in training, and in use."""
  results = [
    p2p.fit(*depth_pairs(holes=holes), batch_size=2, epochs=1, overrides=TINY, verbose=0, **DEPTH)
    for holes in ((0.0,), (0.0, -1.0, np.nan, np.inf, -np.inf))
  ]
  first, second = (result.state.generator.params for result in results)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  translated = [results[0].predict(depth_pairs(holes=holes)[0]) for holes in ((0.0,), (np.nan, -3.0, np.inf))]
  assert np.isfinite(translated[1]).all()
  np.testing.assert_array_equal(*translated)


def test_depth_without_holes_trains_and_has_no_metric_of_holes():
  result = p2p.fit(
    *depth_pairs(holes=()), batch_size=2, epochs=1, validation_split=0.34, overrides=TINY, verbose=0, **DEPTH
  )
  assert "val_hole_rmse" not in result.history and np.isfinite(result.history["val_rmse"]).all()
  summary = json.loads((result.workdir / "eval/val/metrics.json").read_text(), parse_constant=pytest.fail)
  assert "hole_rmse" not in summary["metrics"] and "rmse" in summary["metrics"]


def test_an_image_without_any_measurement_changes_no_mean():
  """It has no error at all: neither 0 nor a perfect 120 dB."""
  x, y = depth_pairs()
  result = p2p.fit(x, y, batch_size=2, epochs=1, overrides=NOISELESS, verbose=0, **DEPTH)
  alone = result.evaluate(x[:3], y[:3])
  empty = result.evaluate(x[:4], np.concatenate([y[:3], np.zeros_like(y[:1])]))
  for name in ("l1", "psnr", "rmse", "delta1"):
    assert empty[name] == pytest.approx(alone[name], rel=1e-6), name


@pytest.mark.parametrize(
  "scale, message",
  [
    (1000, "y lies between 1.* and [89].*, but the depth range is 0 to 10 m: 100% .*divide by 1000"),
    (0, "y holds no measurement at all"),
    (np.nan, "y holds no measurement at all"),
  ],
)
def test_depth_that_would_hardly_count_is_refused(scale, message):
  x, y = depth_pairs()
  with pytest.raises(UsageError, match=message):
    p2p.fit(x, y * np.float32(scale), overrides=TINY, **DEPTH)


def test_integers_are_no_depth_unless_a_scale_says_so():
  x, y = depth_pairs()
  millimetres = np.round(y * 1000).astype(np.uint16)
  with pytest.raises(UsageError, match="y holds uint16, but depth is float metres.*1000 for millimetres"):
    p2p.fit(x, millimetres, overrides=TINY, **DEPTH)
  result = p2p.fit(x, millimetres, overrides=TINY | {"data.target_scale": 1000.0}, epochs=1, verbose=0, **DEPTH)
  assert result.translator.target_signal.scale == 1000


def test_a_configs_own_values_are_kept():
  """What the caller set in a config is not replaced by the defaults of fit's arguments."""
  config = config_lib.load("procedural")
  config_lib.update(config, TINY | {"seed": 5, "train.batch_size": 2, "train.num_steps": 3, "data.mirror": True})
  config_lib.update(config, {"data.load_size": 18, "data.crop_size": 16})
  used = p2p.fit(*pairs(), config=config, verbose=0).translator.config
  assert (used.seed, used.train.batch_size, used.train.num_steps, used.data.mirror) == (5, 2, 3, True)
  assert (used.data.load_size, used.data.crop_size) == (18, 16)
  used = p2p.fit(*pairs(), config=config, seed=7, batch_size=5, epochs=1, verbose=0).translator.config
  assert (used.seed, used.train.batch_size, used.train.num_steps) == (7, 5, 2)
  assert (config.seed, config.train.num_steps) == (5, 3)  # the caller's object is not changed


def test_the_translator_has_the_weights_of_the_state(fitted):
  """Also after an early stop: the last step is the one that is returned and saved."""

  class Stop:
    def set_model(self, model):
      self.model = model

    def on_epoch_end(self, epoch, logs):
      self.model.stop_training = True

  x, y = pairs()
  result = p2p.fit(x, y, batch_size=5, epochs=9, callbacks=[Stop()], overrides=NOISELESS, verbose=0)
  loaded = p2p.Translator.load(result.workdir, step="latest")
  assert loaded.step == result.translator.step == int(result.state.step) == 2
  np.testing.assert_array_equal(loaded(x), result.translator(x))


def test_other_data_in_a_workdir_are_noticed_even_in_silence(tmp_path):
  x, y = pairs()
  p2p.fit(x, y, batch_size=5, epochs=1, overrides=TINY, verbose=0, workdir=tmp_path / "run")
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    p2p.fit(x, y, batch_size=5, epochs=2, overrides=TINY, verbose=0, workdir=tmp_path / "run")
  with pytest.warns(UserWarning, match="was trained on other data"):
    p2p.fit(x, 255 - y, batch_size=5, epochs=3, overrides=TINY, verbose=0, workdir=tmp_path / "run")


def test_the_package_lists_what_it_offers():
  assert {"fit", "Translator", "UsageError"} <= set(dir(p2p))


# --- Translator
# ------------------------------------------------------------------------------------------------------------


def test_any_size_goes_in_and_comes_out(fitted):
  translator = fitted[0].translator
  for shape in [(16, 16), (16, 16, 1), (31, 17, 1), (2, 5, 40, 1), (3, 3, 1)]:
    answer = translator(np.zeros(shape, np.uint8))
    assert answer.shape == (shape + (3,) if len(shape) == 2 else shape[:-1] + (3,))


def test_padding_is_a_reflection_that_is_cut_off_again(fitted):
  translator = fitted[0].translator
  picture = np.random.default_rng(0).integers(0, 255, (13, 16, 1), dtype=np.uint8)
  padded = np.pad(picture, [(0, 3), (0, 0), (0, 0)], mode="reflect")
  np.testing.assert_array_equal(translator(picture), translator(padded)[:13])


def test_samples_differ_and_the_seed_decides(fitted):
  translator = fitted[0].translator
  picture = np.random.default_rng(0).uniform(size=(16, 16, 1)).astype(np.float32)
  samples = translator(picture, num_samples=4, seed=1)
  assert samples.shape == (4, 16, 16, 3)
  assert len({sample.tobytes() for sample in samples}) == 4
  np.testing.assert_array_equal(samples, translator(picture, num_samples=4, seed=1))
  np.testing.assert_array_equal(samples[0], translator(picture, seed=1))
  assert len({sample.tobytes() for sample in translator(picture, num_samples=2, dropout=False)}) == 1


def test_an_image_is_independent_of_its_place_and_the_rest_of_the_batch(fitted):
  translator = fitted[0].translator
  batch = np.random.default_rng(0).uniform(size=(5, 16, 16, 1)).astype(np.float32)
  together = translator(batch, batch_size=2)
  for i in range(5):
    np.testing.assert_allclose(together[i], translator(batch[i]), atol=1e-6)


def test_images_that_fill_a_batch_do_not_count_in_its_statistics(fitted):
  translator = fitted[0].translator
  batch = np.random.default_rng(0).uniform(size=(5, 16, 16, 1)).astype(np.float32)
  options = {"norm_stats": "batch", "dropout": False}
  together = translator(batch, batch_size=3, **options)
  np.testing.assert_allclose(together[:3], translator(batch[:3], **options), atol=1e-5)
  np.testing.assert_allclose(together[3:], translator(batch[3:], **options), atol=1e-5)
  assert np.abs(together[3:] - translator(batch[3:], norm_stats="image", dropout=False)).max() > 1e-3


def test_each_tile_has_its_own_statistics(fitted):
  """Of a batch that holds it alone, in memory and in a stream."""
  translator = fitted[0].translator
  image = np.random.default_rng(0).uniform(size=(16, 48, 1)).astype(np.float32)
  image[:, 24:] *= 0.1
  answers = {stats: translator(image, tile=16, norm_stats=stats, dropout=False) for stats in ("image", "batch")}
  np.testing.assert_allclose(answers["batch"], answers["image"], atol=1e-5)
  read = lambda row, rows: image[row : row + rows]
  streamed = [
    np.concatenate(
      [rows for _, rows in translator.stream(read, (16, 48), tile=16, norm_stats=stats, dropout=False)]
    ).astype(int)
    for stats in ("image", "batch")
  ]
  assert np.abs(streamed[0] - streamed[1]).max() <= 1


def test_the_two_switches_are_independent(fitted):
  translator = fitted[0].translator
  picture = np.random.default_rng(0).uniform(size=(16, 16, 1)).astype(np.float32)
  answers = {
    translator(picture, dropout=dropout, norm_stats=stats).tobytes()
    for dropout in (False, True)
    for stats in ("image", "running")
  }
  assert len(answers) == 4


def test_tiles_blend_to_the_whole_where_the_network_is_local(fitted):
  """With running statistics the network sees no further than its receptive field, so tiles differ from the whole near
  seams only.
  """
  translator = fitted[0].translator
  picture = np.random.default_rng(0).uniform(size=(96, 80, 1)).astype(np.float32)
  whole = translator(picture, dropout=False, norm_stats="running")
  tiled = translator(picture, dropout=False, norm_stats="running", tile=64)
  assert tiled.shape == whole.shape
  assert np.abs(whole - tiled).mean() < 0.2 * whole.std()
  np.testing.assert_allclose(
    translator(picture[:64, :64], dropout=False, norm_stats="running", tile=64),
    translator(picture[:64, :64], dropout=False, norm_stats="running"),
    atol=1e-5,
  )


@pytest.mark.parametrize(
  "picture, message",
  [
    (np.zeros((16, 16, 3), np.uint8), "expects images of 1 channel; these have 3"),
    (np.zeros((0, 16, 1), np.uint8), "not empty"),
    ("x.png", "The input names files, such as 'x.png', but should be an array"),
    ([Path("x.png")], "The input names files, such as 'x.png', but should be an array"),
    ([np.zeros((16, 16, 1)), np.zeros((8, 8, 1))], "cannot be made one array .*passed one by one"),
    (np.full((16, 16, 1), 200.0), "float from 200 to 200; float images lie in .0, 1"),
    (np.full((16, 16, 1), np.nan), "The input holds NaN"),
    (np.zeros((16, 16, 1), np.int64), "The input is int64; images are uint8"),
  ],
)
def test_images_that_do_not_fit_are_explained(fitted, picture, message):
  with pytest.raises(UsageError, match=message):
    fitted[0].translator(picture)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"dropout": "off"}, "dropout is 'off'; it has to be True, False or None"),
    ({"dropout": 0}, "dropout is 0"),
    ({"norm_stats": "none"}, "norm_stats is 'none'; it has to be one of batch, image, running"),
    ({"tile": 0}, "tile is 0; it has to be an integer, at least 1"),
    ({"tile": 16.0}, "tile is 16.0"),
    ({"num_samples": -1}, "num_samples is -1"),
    ({"num_samples": 0}, "num_samples is 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"seed": 2**70}, "seed is 1180591620717411303424; it has to be an integer, between 0 and 4294967295"),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_options_that_do_not_fit_are_explained(fitted, options, message):
  with pytest.raises(UsageError, match=message):
    fitted[0].translator(np.zeros((16, 16, 1), np.uint8), **options)


def test_all_tiles_share_one_noise(fitted):
  """Tiles of equal content, as in a clear sky, get equal results, so that noise draws no seams between them."""
  translator = fitted[0].translator
  plain = np.full((40, 16, 1), 130, np.uint8)  # tiles of 16 begin at rows 0, 12 and 24
  single, tiled = (
    translator(part, seed=3, norm_stats="image", tile=tile) for part, tile in ((plain[:16], None), (plain, 16))
  )
  np.testing.assert_allclose(tiled[:12].astype(int), single[:12].astype(int), atol=1)
  np.testing.assert_allclose(tiled[28:].astype(int), single[4:].astype(int), atol=1)
  assert single.std() > 2


def test_loading_a_translator_imports_no_tensorflow(fitted):
  code = (
    "import sys, numpy as np, pix2pix_jax; t = pix2pix_jax.Translator.load(sys.argv[1], step='latest'); "
    "t(np.zeros((16, 16, 1), np.uint8));"
    "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(fitted[0].workdir)], capture_output=True, text=True, check=False
  )
  assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_best_checkpoint_is_the_default(fitted):
  result, _ = fitted
  with checkpoint.Checkpointer(result.workdir, config=config_lib.read(result.workdir), read_only=True) as checkpointer:
    best = checkpointer.best()
  validated = {
    row["step"]: row["val/ssim"] for row in history.read(result.workdir) if "val/ssim" in row and row["step"] > 0
  }  # all that trained there
  assert best == (max(validated, key=validated.get), pytest.approx(max(validated.values()), rel=1e-6))
