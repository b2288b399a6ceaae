"""TensorBoard's event files, read by TensorFlow and TensorBoard."""

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.custom_scalar import layout_pb2
import tensorflow as tf

from pix2pix_jax.run import events


@pytest.mark.parametrize("length", [4, 5, 8, 9, 31, 1000, 4099])
def test_the_checksum_is_that_of_tensorboard(length):
  content = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
  assert events.crc32c(content) == pywrap_tensorflow.crc32c(content)


def test_the_checksum_of_the_standard():
  assert events.crc32c(b"123456789") == 0xE3069283
  assert events.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_everything_that_is_written_can_be_read(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  writer = events.EventWriter(tmp_path / "run")
  writer.write_text("config", "| a | b |")
  writer.write_hyperparameters({"rate": 0.5, "steps": 3, "name": "x", "flag": True})
  writer.write_charts(["l1"])
  writer.write_scalars(3, {"train/l1": 0.25, "val/l1": 0.5})
  writer.write_image(3, "val/samples", pixels)
  (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
  records = list(tf.data.TFRecordDataset(str(path)))  # before the file is closed; checks both checksums of each
  writer.close()
  assert len(records) == 6 and tf.compat.v1.Event.FromString(records[0].numpy()).file_version == "brain.Event:2"

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
  kinds = {tag: found.SummaryMetadata(tag).plugin_data.plugin_name for tag in found.Tags()["tensors"]}
  assert kinds == {
    "config": "text",
    "_hparams_/session_start_info": "hparams",
    "custom_scalars__config__": "custom_scalars",
    "train/l1": "scalars",
    "val/l1": "scalars",
    "val/samples": "images",
  }


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = events.EventWriter(None)
  writer.write_scalars(1, {"a": 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())
