"""A split on the devices: the batches and the parameters of the host's path, several steps in one dispatch."""

import os
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from test_several_inputs import STACK, raw_parts
from tiny_runs import assert_same_bits, changed, latest_step, saved_arrays, tiny_config, with_devices

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline, resident
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import feeding, history
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Quantity
from pix2pix_jax.train import Observer, train_and_evaluate

COUNT, LOADED = 5, (20, 28)
RNG = np.random.default_rng(0)
SIDES = {  # signal and raw arrays of every kind
  "8 bits": (Image(3), RNG.integers(0, 256, (COUNT, *LOADED, 3)).astype(np.uint8)),
  "16 bits": (Image(2, "uint16"), RNG.integers(0, 65536, (COUNT, *LOADED, 2)).astype(np.uint16)),
  "depth": (Depth(1, (0.5, 21.7)), RNG.uniform(-3, 30, (COUNT, *LOADED, 1)).clip(0).astype(np.float32)),
  "quantity": (
    Quantity(2, "float32", ((-1000.0, 3071.3), (0.1, 0.7))),
    np.where(RNG.random((COUNT, *LOADED, 2)) < 0.1, np.nan, RNG.normal(0, 900, (COUNT, *LOADED, 2))).astype(np.float32),
  ),
  "classes": (Classes(7, ignore=255), RNG.choice([*range(7), 255], (COUNT, *LOADED, 1)).astype(np.uint8)),
  "several": (STACK, np.stack([STACK.join(raw_parts(seed, LOADED)) for seed in range(COUNT)])),
}


def make_split(x="8 bits", y="depth"):
  (x_signal, x_raw), (y_signal, y_raw) = SIDES[x], SIDES[y]
  source = pipeline.ArraySource({"train": (x_raw, y_raw)}, DataSpec(x_signal, y_signal, {}))
  return pipeline.load_split(source, "train", LOADED, cache_gib=1)


def make_data(**fields):
  data = config_lib.default().data
  data.update({"load_size": 20, "load_width": 28, "crop_size": 16, "crop_width": 24, "mirror": True, **fields})
  return data


def device_batches(split, data, steps, batch_size, start_step=0):
  packed = jax.tree.map(jax.numpy.asarray, resident.pack(split))
  make = jax.jit(lambda packed, draws: resident.make_batch(packed, draws, spec=split.spec, crop=(16, 24)))
  draws = pipeline.train_draws(split, data, batch_size=batch_size, seed=4, start_step=start_step)
  return [make(packed, next(draws)) for _ in range(steps)]


@pytest.mark.parametrize("x, y", [("8 bits", "16 bits"), ("depth", "depth"), ("quantity", "quantity")])
@pytest.mark.parametrize("fields", [{}, {"mirror": False, "shuffle": False}], ids=["jittered", "in order"])
def test_batches_have_the_bits_of_the_hosts(x, y, fields):
  """Seven batches of three of five pairs: epochs end within batches, and the last one is not whole."""
  split, data = make_split(x, y), make_data(**fields)
  host = pipeline.train_batches(split, data, batch_size=3, seed=4)
  seen = []
  for batch in device_batches(split, data, steps=7, batch_size=3):
    expected = next(host)
    assert {name: (array.dtype, array.tobytes()) for name, array in batch.items()} == {
      name: (array.dtype, array.tobytes()) for name, array in expected.items()
    }
    seen += [image.tobytes() for image in expected["input"]]
  assert len(set(seen)) == 21 if not fields else len(set(seen)) > 5  # crops differ


@pytest.mark.parametrize("x, y", [("classes", "classes"), ("several", "classes"), ("several", "depth")])
def test_so_have_those_of_labels_and_of_several_inputs_from_any_step(x, y):
  split, data = make_split(x, y), make_data()
  host = pipeline.train_batches(split, data, batch_size=2, seed=4, start_step=9)
  for batch in device_batches(split, data, steps=3, batch_size=2, start_step=9):
    expected = next(host)
    assert batch.keys() == expected.keys() and batch["input"].shape == (2, 16, 24, split.spec.input.channels)
    for name in expected:
      np.testing.assert_array_equal(np.asarray(batch[name]).view(np.int32), expected[name].view(np.int32), name)


# --- Dispatches


def intervals(log, evaluate, checkpoint, keep=0, last=50):
  return types.SimpleNamespace(
    log_every_steps=log,
    eval_every_steps=evaluate,
    checkpoint_every_steps=checkpoint,
    keep_every_steps=keep,
    num_steps=last,
  )


def test_dispatches_end_where_the_host_has_something_to_do():
  train = intervals(10, 25, 1000, keep=18)
  ends = list(feeding.schedule(train, 0, 4))
  assert ends[:9] == [(4, 4), (8, 4), (9, 1), (10, 1), (14, 4), (18, 4), (19, 1), (20, 1), (24, 4)]
  assert sum(count for _, count in ends) == 50 == ends[-1][0]
  assert {done for done, _ in ends} >= {*range(10, 51, 10), 25, 18, 36}
  assert list(feeding.schedule(train, 0, 1)) == [(step, 1) for step in range(1, 51)]


def test_a_resumed_run_has_the_dispatches_of_an_uninterrupted_one():
  train = intervals(10, 25, 1000, keep=18)
  whole = list(feeding.schedule(train, 0, 4))
  for number, (done, _) in enumerate(whole, 1):
    assert list(feeding.schedule(train, done, 4)) == whole[number:]
  within = list(feeding.schedule(train, 11, 4))  # as after a change of train.steps_per_dispatch
  assert within[:3] == [(12, 1), (13, 1), (14, 1)] and within[3:] == whole[whole.index((18, 4)) :]


# --- Runs

ON_DEVICE = {"train__data_on_device": "yes", "data__mirror": True}
RARELY = {f"train__{name}_every_steps": 6 for name in ("log", "eval", "checkpoint")}


@pytest.fixture(scope="module")
def of_the_host(tmp_path_factory):
  """The workdir of six steps with the host's batches: eight pairs, of which the second epoch ends with the run."""
  workdir = tmp_path_factory.mktemp("host") / "run"
  train_and_evaluate(tiny_config(**RARELY, data__mirror=True), workdir)
  return workdir


def train_rows(workdir):
  unequal = ("train/steps_per_second", "train/data_wait_share")
  return [{k: v for k, v in row.items() if k not in unequal} for row in history.read(workdir)]


def assert_close(one, other):
  """Another program rounds in another way, and where a gradient is nearly zero, Adam takes a whole step for it."""
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=2e-3, atol=5e-4, err_msg=name)


def test_one_step_per_dispatch_has_the_hosts_bits(of_the_host, tmp_path, capsys):
  train_and_evaluate(tiny_config(**RARELY, **ON_DEVICE), tmp_path / "run")
  assert "Data: 1.4e-05 GiB on the device, 1 step per dispatch." in capsys.readouterr().out
  assert_same_bits(saved_arrays(of_the_host, 6), saved_arrays(tmp_path / "run", 6))
  assert train_rows(of_the_host) == train_rows(tmp_path / "run")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
  """The workdir of the same six steps in two dispatches."""
  workdir = tmp_path_factory.mktemp("scanned") / "run"
  train_and_evaluate(tiny_config(**RARELY, **ON_DEVICE, train__steps_per_dispatch=3), workdir)
  return workdir


def test_several_steps_per_dispatch_are_the_same_steps(of_the_host, scanned):
  assert_close(saved_arrays(of_the_host, 6), saved_arrays(scanned, 6))
  rows, expected = train_rows(scanned), train_rows(of_the_host)
  assert [row["step"] for row in rows] == [row["step"] for row in expected]
  for row, other in zip(rows, expected):  # means over all six steps, and validations
    assert row == pytest.approx(other, rel=2e-3, abs=1e-4)


class Interrupting(feeding.DeviceFeed):
  """Receives a SIGTERM while the first dispatch runs."""

  def train(self, state, draws):
    trained = super().train(state, draws)
    signal.raise_signal(signal.SIGTERM)
    return trained


def test_sigterm_saves_the_dispatch_and_the_resume_ends_with_the_same_bits(scanned, tmp_path, monkeypatch, capsys):
  config = tiny_config(**RARELY, **ON_DEVICE, train__steps_per_dispatch=3)
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(feeding, "DeviceFeed", Interrupting)
    train_and_evaluate(config, tmp_path / "run")
  assert "Interrupted: saving step 3 …" in capsys.readouterr().out and latest_step(tmp_path / "run") == 3
  train_and_evaluate(config, tmp_path / "run")
  assert_same_bits(saved_arrays(scanned, 6), saved_arrays(tmp_path / "run", 6))
  assert [row["step"] for row in train_rows(tmp_path / "run") if "train/generator_loss" in row] == [3, 6]


def test_a_run_resumes_from_a_step_within_a_dispatch(of_the_host, tmp_path):
  config = tiny_config(**RARELY, **ON_DEVICE, train__steps_per_dispatch=3, data__num_val=0)
  train_and_evaluate(changed(config, train__num_steps=1), tmp_path / "run")
  train_and_evaluate(config, tmp_path / "run")
  assert_close(saved_arrays(of_the_host, 6), saved_arrays(tmp_path / "run", 6))


def test_a_state_that_broke_within_a_dispatch_is_not_saved(tmp_path):
  config = tiny_config(**RARELY, **ON_DEVICE, train__steps_per_dispatch=3, data__num_val=0)
  train_and_evaluate(changed(config, train__num_steps=3), tmp_path / "run")
  with pytest.raises(UsageError, match="At step 6, .*became NaN or infinite.*earlier checkpoints are intact"):
    train_and_evaluate(changed(config, optimizer__learning_rate=3e38), tmp_path / "run")
  assert latest_step(tmp_path / "run") == 3


class Counter(Observer):
  def __init__(self):
    self.steps = []

  def step_ended(self, step, metrics, validation):
    self.steps.append((step, metrics["l1"].shape))
    return step == 2


def test_an_observer_sees_every_step(tmp_path):
  config = tiny_config(**RARELY, **ON_DEVICE, train__steps_per_dispatch=3, data__num_val=0)
  counter = Counter()
  train_and_evaluate(config, tmp_path / "run", observer=counter)
  assert counter.steps == [(1, ()), (2, ())] and latest_step(tmp_path / "run") == 2


# --- Which path


def make_run(split, **fields):
  changes = {"data.crop_size": 16, "data.load_size": 20, "train.batch_size": jax.device_count(), "train.num_steps": 9}
  changes |= {"model.base_features": 2, "model.patch": 16, "data.mirror": True} | fields
  config = config_lib.default()
  config_lib.update(config, changes)
  spec = DataSpec(split.spec.input, split.spec.target, {"train": len(split)})
  return Experiment(config_lib.resolve(config, spec), spec)


def streamed():
  split = make_split()
  source = types.SimpleNamespace(spec=split.spec, stored=dict.fromkeys(("input", "target")))
  return pipeline.StreamedSplit(source, "train", split.sizes)


def mixed():
  split = make_split()
  arrays = {name: [array[0][:18], *array[1:]] for name, array in split.arrays.items()}
  return pipeline.MemorySplit(arrays, split.ids, split.spec)


OBSTACLES = [
  (streamed, {}, "the training split exceeds data.cache_gib"),
  (mixed, {}, "its images differ in size"),
  (make_split, {"data.brightness": 0.1}, "augmentation beyond crop and mirror runs on the host"),
]


@pytest.mark.parametrize("make, fields, why", OBSTACLES)
def test_what_cannot_be_kept_on_the_devices_stays_on_the_host(make, fields, why, monkeypatch):
  split = make()
  with pytest.raises(UsageError, match=f"train.data_on_device is 'yes', but {why}. With 'auto'"):
    feeding.open_feed(make_run(split, **fields, **{"train.data_on_device": "yes"}), split, 0, every_step=False)
  monkeypatch.setattr(feeding.jax, "default_backend", lambda: "gpu")
  feed = feeding.open_feed(make_run(split, **fields), split, 0, every_step=False)
  assert isinstance(feed, feeding.HostFeed) and feed.note == f"Data: the host makes the batches, because {why}."


def test_auto_depends_on_the_platform_and_its_memory(monkeypatch):
  split = make_split()
  open_feed = lambda **fields: feeding.open_feed(make_run(split, **fields), split, 0, every_step=False)
  assert isinstance(open_feed(), feeding.HostFeed) and open_feed().note == ""
  monkeypatch.setattr(feeding.jax, "default_backend", lambda: "gpu")
  feed = open_feed()
  assert isinstance(feed, feeding.DeviceFeed) and feed.per_dispatch == feeding.STEPS_PER_DISPATCH == 10
  assert isinstance(open_feed(**{"train.data_on_device": "no"}), feeding.HostFeed)
  assert open_feed(**{"train.steps_per_dispatch": 4}).per_dispatch == 4
  limit = 4 * sum(array.nbytes for array in resident.pack(split).values()) - 1
  small = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit})
  monkeypatch.setattr(feeding.jax, "local_devices", lambda: [small])
  assert open_feed().note.endswith("GiB of data are more than 25% of a device's memory.")


def test_eight_devices_share_a_batch_without_sending_data():
  code = "import test_feeding; test_feeding.check_eight_devices()"
  folder = os.path.dirname(__file__)
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=with_devices(8), cwd=folder
  )
  assert done.returncode == 0, done.stderr


def check_eight_devices():
  assert jax.device_count() == 8
  split = make_split()
  host = feeding.open_feed(make_run(split), split, 0, every_step=False)
  run = make_run(split, **{"train.data_on_device": "yes", "train.steps_per_dispatch": 3})
  feed = feeding.open_feed(run, split, 0, every_step=False)
  draws = feed.take(3)
  for number in range(3):
    batch, expected = feed._make_batch(feed._packed, draws[number]), host.take(1)
    for name, array in expected.items():
      assert batch[name].sharding.is_equivalent_to(array.sharding, array.ndim)
      np.testing.assert_array_equal(np.asarray(batch[name]).view(np.int32), np.asarray(array).view(np.int32))
  program = feed._make_batch.lower(feed._packed, draws[0]).compile().as_text()
  assert "dynamic-slice" in program and not any(name in program for name in ("all-gather", "all-reduce", "all-to-all"))
  state, metrics = feed.train(run.init(), draws)
  assert int(state.step) == 3 and metrics["l1"].shape == (3,) and np.isfinite(metrics["l1"]).all()
