"""TensorBoard's event files, read by TensorBoard."""

import numpy as np
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
import tensorflow as tf

from pix2pix_jax.run import events


def test_everything_that_is_written_before_and_after_loading_can_be_read(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  writer = events.EventWriter(tmp_path / "run")
  writer.write_text("config", "| a | b |")
  writer.write_hyperparameters({"rate": 0.5, "steps": 3, "name": "x", "flag": True})
  writer.write_charts(["l1"])
  writer.write_scalars(0, {"val/l1": 0.5})
  assert not (tmp_path / "run").exists()
  writer.load()
  writer.write_scalars(3, {"train/l1": 0.25})
  writer.write_image(3, "val/samples", pixels)
  writer.close()

  found = event_accumulator.EventAccumulator(str(tmp_path / "run"))
  found.Reload()
  value = lambda tag: found.Tensors(tag)[0].tensor_proto
  assert (found.Tensors("train/l1")[0].step, tf.make_ndarray(value("train/l1"))) == (3, 0.25)
  assert tf.make_ndarray(value("val/l1")) == 0.5 and value("config").string_val == [b"| a | b |"]
  width, height, image = value("val/samples").string_val
  assert (width, height) == (b"7", b"5")
  np.testing.assert_array_equal(tf.io.decode_png(image), pixels)
  (layout,) = value("custom_scalars__config__").string_val
  assert layout_pb2.Layout.FromString(layout).category[0].chart[0].multiline.tag[0] == "^(train|val)/l1$"
  assert found.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_a_run_without_a_step_leaves_no_files(tmp_path):
  writer = events.EventWriter(tmp_path / "run")
  writer.write_scalars(0, {"val/l1": 0.5})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = events.EventWriter(None)
  writer.load()
  writer.write_scalars(1, {"a": 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())
