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
from tiny_runs import assert_same_bits, changed, latest_step, run, saved_arrays, tiny_config

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
