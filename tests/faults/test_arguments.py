"""Wrong arguments of `fit`, `Translator` and the commands: one message that names the argument, before any work."""

import os
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
from tiny_runs import make_translator

import pix2pix_jax as p2p
from pix2pix_jax import evaluate, export, import_torch, translate
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError
from pix2pix_jax.torch_weights import read_state_dict

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
METRES = np.ones((4, 16, 16, 1), np.float32)


class Callback:
  def on_epoch_end(self, epoch, logs=None):
    pass


class Broken:
  on_epoch_end = 5


WRONG = {
  "batch_size": [2.0, "2", True, 0, -1, 2**40, [2]],
  "epochs": [1.5, "1", 0, -3, float("nan")],
  "seed": [1.5, "a", -1, True, 2**31, 2**63, 2**70],
  "validation_data": [IMAGES, "ab", (IMAGES,) * 3, (None, None), {"x": IMAGES, "y": IMAGES}, (IMAGES, IMAGES[:1])],
  "validation_split": ["0.5", 1, 1.5, -0.1, float("nan"), [0.5]],
  "callbacks": [Callback(), "abc", {"a": 1}, [Callback], [print], [None], [object()], [Broken()], 5],
  "config": [{}, "facades", ml_collections.ConfigDict(), 5],
  "overrides": ["ab", [1], {1: 2}, {"model.x": 1}, {"train.batch_size": "a"}],
  "workdir": [5, b"runs", "a\0b", ["runs"]],
  "input_kind": [3, "phot", ["image"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_arguments_of_fit_are_named_before_the_run(name, value, monkeypatch):
  monkeypatch.setattr("pix2pix_jax.fitting.train_and_evaluate", None)  # would fail if it were called
  with pytest.raises(UsageError) as caught:
    p2p.fit(IMAGES, IMAGES, verbose=0, **{name: value})
  assert any(word in str(caught.value) for word in (name, "Pairs of val", "pairs of val")), str(caught.value)


INFINITE = [(0, float("nan")), (0, float("inf")), (0, 1e300)]
RANGES = [5, "a", {}, (), (1,), (10, 0), (3, 3), ("0", "1"), ((0, 1),), *INFINITE]


@pytest.mark.parametrize("kind", ["depth", "quantity"])
@pytest.mark.parametrize("limits", RANGES, ids=str)
def test_wrong_ranges_are_named(kind, limits, monkeypatch):
  monkeypatch.setattr("pix2pix_jax.fitting.train_and_evaluate", None)
  with pytest.raises(UsageError, match="_range"):
    p2p.fit(IMAGES, METRES, target_kind=kind, target_range=limits, verbose=0)


@pytest.mark.parametrize(
  ("x", "named"),
  [
    (None, "x"),
    ("abc", "x"),
    ([[1, 2], [3]], "x"),
    (IMAGES.astype(object), "object"),
    (IMAGES.astype(complex), "complex"),
    (IMAGES.astype("datetime64[s]"), "datetime"),
    (IMAGES[:0], "x"),
    (IMAGES * np.float32(np.nan), "NaN"),
    (np.ma.masked_array(IMAGES, IMAGES > 3), "masked"),
  ],
  ids=["none", "text", "ragged", "objects", "complex", "dates", "empty", "NaN", "masked"],
)
def test_what_is_no_images_is_refused(x, named, monkeypatch):
  monkeypatch.setattr("pix2pix_jax.fitting.train_and_evaluate", None)
  with pytest.raises(UsageError, match=named):
    p2p.fit(x, IMAGES, verbose=0)


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize(("kind", "value"), [("depth", 0), ("depth", -1), ("depth", np.nan), ("depth", 500)])
def test_data_without_a_value_or_beyond_its_range_is_refused(side, kind, value, monkeypatch):
  monkeypatch.setattr("pix2pix_jax.fitting.train_and_evaluate", None)
  pair = {"x": IMAGES, "y": IMAGES, {"input": "x", "target": "y"}[side]: METRES * np.float32(value)}
  with pytest.raises(UsageError, match="no measurement|lies between|negative"):
    p2p.fit(**pair, **{f"{side}_kind": kind}, verbose=0)


@pytest.mark.parametrize(
  "options",
  [
    *({"num_samples": value} for value in (-1, 0, 1.5, "2", True)),
    *({"tile": value} for value in (0, -16, 16.0, "16", True)),
    *({"seed": value} for value in (-1, 2**32, 2**70, 1.0, "0")),
    *({"batch_size": value} for value in (0, -1, 2.0)),
    {"dropout": "on"},
    {"norm_stats": "none"},
  ],
  ids=str,
)
def test_wrong_options_of_a_translator_are_named(options, translator):
  with pytest.raises(UsageError, match=next(iter(options))):
    translator(IMAGES[0], **options)


@pytest.fixture(scope="module")
def translator():
  return make_translator()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
  path = tmp_path_factory.mktemp("images") / "a.png"
  files.write(path, IMAGES[0])
  return path


FLAGS = {
  translate: [
    *("--tile=0", "--tile=-8", "--tile=²", "--tile=8.5", "--samples=-1", "--samples=0", "--samples=a"),
    *("--seed=-1", f"--seed={2**32}", f"--seed={2**70}", "--seed=1.5", "--seed=²", "--batch_size=0", "--batch_size=x"),
    *("--resize=0", "--resize=-5", "--resize=²", "--resize=8x0", "--resize=8x", "--axis=3", "--dropout=maybe"),
    *("--norm_stats=none", "--step=²", "--step=-1", "--step=1.5", "--step="),
  ],
  evaluate: [*("--step=²", "--step=-1", "--dropout=maybe", "--norm_stats=none", "--split=", "--baseline=nothing")],
  export: [*("--height=-1", "--width=-8", "--height=²", "--height=1.5", "--format=zip", "--step=²")],
}


@pytest.mark.parametrize(("command", "flag"), [(each, flag) for each, flags in FLAGS.items() for flag in flags])
def test_wrong_flags_are_one_line(command, flag, image, tmp_path, capsys):
  more = {
    translate: [f"--input={image}", f"--output={tmp_path / 'out'}/"],
    export: [f"--output={tmp_path / 'a.stablehlo'}"],
    evaluate: [],
  }[command]
  with pytest.raises((UsageError, SystemExit)) as caught:  # SystemExit: by argparse
    command.main([f"--workdir={tmp_path / 'run'}", *more, flag])
  if isinstance(caught.value, SystemExit):
    assert caught.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert flag.split("=")[0] in last and "error: " in last
  else:
    assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists() and not (tmp_path / "a.stablehlo").exists()


def test_a_wrong_flag_ends_with_status_2_and_without_a_traceback(image, tmp_path):
  command = [sys.executable, "-m", "pix2pix_jax", "translate", f"--workdir={tmp_path}", f"--input={image}"]
  result = subprocess.run([*command, f"--output={tmp_path}/", f"--seed={2**70}"], capture_output=True, text=True)
  assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "--seed" in result.stderr


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", bytes(100)])
def test_files_that_are_no_weights_are_refused_before_the_workdir_is_made(content, tmp_path):
  (tmp_path / "G.pth").write_bytes(content)
  with pytest.raises(UsageError, match="G.pth"):
    import_torch.main([f"--generator={tmp_path / 'G.pth'}", f"--workdir={tmp_path / 'run'}"])
  assert not (tmp_path / "run").exists()


def test_a_pipe_in_place_of_weights_is_never_opened(tmp_path):
  os.mkfifo(tmp_path / "G.pth")
  with pytest.raises(UsageError, match="not a regular file"):
    import_torch.main([f"--generator={tmp_path / 'G.pth'}", f"--workdir={tmp_path / 'run'}"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_weights_in_integers_are_refused_by_name(dtype, tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy")
  arrays = {"model.0.weight": np.ones((2, 2), dtype), "model.1.num_batches_tracked": np.ones((), np.int64)}
  safetensors.save_file(arrays, tmp_path / "G.safetensors")
  with pytest.raises(UsageError, match=r"model\.0\.weight as integers"):
    read_state_dict(tmp_path / "G.safetensors")
  safetensors.save_file({**arrays, "model.0.weight": np.ones((2, 2), np.float16)}, tmp_path / "G.safetensors")
  assert read_state_dict(tmp_path / "G.safetensors")["model.0.weight"].sum() == 4
