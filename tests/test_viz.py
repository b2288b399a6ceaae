"""Sample sheets and curves: nothing is cut off, and a user's own plots are left alone."""

import json
from pathlib import Path
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import palettes
from pix2pix_jax.data import pipeline
from pix2pix_jax.run import evaluation, viz
from pix2pix_jax.signals import Classes, DataSpec, Depth, Quantity
from pix2pix_jax.signals import Image as ImageSignal

WHITE = (255, 255, 255)


def sheet(columns, height=128, width=128, depth_range=(0.0, 80.0), holes=True):
  image = np.full((height, width, 3), 200, np.uint8)
  image[0, 0] = 0 if holes and depth_range else 200
  return viz.grid({name: [image] for name in columns}, depth_range)


@pytest.fixture
def texts(monkeypatch):
  """Every text that is drawn, with its (left, top, right, bottom)."""
  boxes = []
  text = ImageDraw.ImageDraw.text

  def record(draw, xy, string, *, font, anchor="la", **options):
    boxes.append((string, draw.textbbox(xy, string, font=font, anchor=anchor)))
    return text(draw, xy, string, font=font, anchor=anchor, **options)

  monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
  return boxes


def require_whole(texts, shape, images=()):
  """No text is cut off, lies over another text, or over an image."""
  for string, (left, top, right, bottom) in texts:
    assert 0 <= left and 0 <= top and right <= shape[1] and bottom <= shape[0], f"{string} is cut off"
  boxes = [*texts, *(("an image", box) for box in images)]
  for i, (one, (left, top, right, bottom)) in enumerate(texts):
    for other, (left2, top2, right2, bottom2) in boxes[:i] + boxes[len(texts) :]:
      assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, f"{one} lies over {other}"


@pytest.mark.parametrize(
  "columns, width",
  [
    (("target",), 128),
    (("output", "target"), 128),
    (("input", "output", "target"), 128),
    (("input", "output", "target"), 384),
    (("a name that is wider than its image", "target"), 128),
  ],
)
def test_the_scale_and_its_legend_are_whole_on_any_sheet(columns, width, texts):
  picture = sheet(columns, width=width, depth_range=(0.0, 655.35))
  assert {"no value", "0 m", "655.35 m"} <= {string for string, _ in texts}
  require_whole(texts, picture.shape)
  assert (picture[-1] == WHITE).all() and (picture[:, -1] == WHITE).all()


def test_a_legend_names_missing_values_only_where_there_are_some(texts, tmp_path):
  sheet(("target",), holes=False)
  sheet(("target",), depth_range=None)
  assert "no value" not in {string for string, _ in texts}
  for spec in (STREETS, DataSpec(Quantity(1, range=((0.0, 1.0),)), Classes(3, ignore=255), {})):
    for missing in (False, True):
      example = {
        "input": np.zeros((8, 8, spec.input.channels), np.float32),
        "output": np.ones((8, 8, spec.target.channels), np.float32),
        "target": np.ones((8, 8, spec.target.channels), np.float32),
        "mask": np.ones((8, 8, 1), np.float32),
      }
      example["mask"][0, 0] = 0 if missing else 1
      rows = [viz.draw_row(example, spec)]
      viz.save_sheet(tmp_path / "x.png", rows, [("a", "b")], spec, viz.scale_errors(rows, spec.target))
      about = json.loads(Image.open(tmp_path / "x.png").text[viz.LAYOUT_KEY])["scales"]
      for scales in (about, viz.describe_example_grid(rows, spec)["scales"]):
        found = {text for scale in scales for text, _ in scale["legend"]} & {"no value", "no label"}
        assert found == ({"no label" if spec.target.kind == "classes" else "no value"} if missing else set())


@pytest.mark.parametrize("count", [2, 19, 60])
def test_label_maps_have_a_legend_instead_of_a_bar(count, texts, tmp_path):
  spec = DataSpec(ImageSignal(), Classes(count, palettes.CITYSCAPES if count == 19 else ()), {})
  picture, about, _ = save_sheet(tmp_path / "x.png", spec, (64, 64), [("a", "b")])
  require_whole(texts, picture.shape, [box for row in about["boxes"] for box in row])
  classes, error = about["scales"]
  assert classes["colors"] == classes["labels"] == error["colors"] == []
  shown = ["#" + bytes(color).hex() for color in spec.target.color_table[: min(count, 40)].tolist()]
  assert [color for _, color in classes["legend"]][:40] == shown and classes["legend"][0][0] == "0"
  assert (classes["legend"][-1][0] == "and 20 more") == (count == 60)
  assert [text for text, _ in error["legend"]] == ["right class", "wrong class"]
  assert {"0", str(min(count, 40) - 1), "right class"} <= {string for string, _ in texts}


@pytest.mark.parametrize(
  "signal, suffix",
  [
    (ImageSignal(3), ""),
    (ImageSignal(1), ""),
    (ImageSignal(4), ", channel 1 of 4"),
    (ImageSignal(2), ", channel 1 of 2"),
    (Quantity(1, range=((0.0, 1.0),)), ""),
    (Quantity(3, range=((0.0, 1.0),)), ", channel 1 of 3"),
    (ImageSignal(7, shown_channels=(3, 2, 1)), ", channels 4, 3, 2 of 7"),
    (ImageSignal(3, shown_channels=(2,)), ", channel 3 of 3"),
    (Quantity(7, range=((0.0, 1.0),), shown_channels=(3, 2, 1)), ", channels 4, 3, 2 of 7"),
    (Quantity(2, range=((0.0, 1.0),), shown_channels=(1,)), ", channel 2 of 2"),
    (Classes(5), ""),
  ],
)
def test_a_column_says_which_channel_it_shows(signal, suffix, tmp_path):
  for spec in (DataSpec(signal, ImageSignal(), {}), DataSpec(ImageSignal(), signal, {})):
    channels = {"input": spec.input.channels, "output": spec.target.channels, "target": spec.target.channels}
    example = {name: np.zeros((8, 8, count), np.float32) for name, count in channels.items()}
    rows = [viz.draw_row(example, spec)]
    titles = [f"{name}{suffix if (name == 'input') == (spec.input is signal) else ''}" for name in channels]
    assert viz.describe_example_grid(rows, spec)["columns"] == titles
    viz.save_sheet(tmp_path / "x.png", rows, [("a", "b")], spec, viz.scale_errors(rows, spec.target))
    assert json.loads(Image.open(tmp_path / "x.png").text[viz.LAYOUT_KEY])["columns"] == [*titles, "error"]


def test_the_legend_of_a_sheet_has_the_ranges_of_the_channels_it_shows():
  ranges = tuple((10.0 * channel, 10.0 * channel + 5) for channel in range(4))
  zeros = {"input": np.zeros((8, 8, 4), np.float32), "output": np.zeros((8, 8, 3)), "target": np.zeros((8, 8, 3))}

  def scale(shown, input_=zeros["input"]):
    signal = Quantity(4, range=ranges, unit="dB", shown_channels=shown)
    spec = DataSpec(signal, ImageSignal(), {})
    row = viz.draw_row(zeros | {"input": input_}, spec)
    return viz.describe_example_grid([row], spec)["scales"][0]

  assert (scale(())["labels"][0], scale((2,))["labels"][0], scale((2,))["labels"][-1]) == ("0 dB", "20 dB", "25 dB")
  composite = scale((3, 2, 0), np.full((8, 8, 4), -1, np.float32))
  assert composite["title"] == "input: channels 4, 3, 1 of 4" and not composite["labels"]
  assert composite["legend"] == [
    ["channel 4: 30 to 35 dB", "#ff0000"],
    ["channel 3: 20 to 25 dB", "#00ff00"],
    ["channel 1: 0 to 5 dB", "#0000ff"],
  ], "the lowest values are dark, but not missing"


IMAGES = DataSpec(ImageSignal(), ImageSignal(), {})
STREETS = DataSpec(ImageSignal(), Depth(range=(0.0, 80.0)), {})


def rows_of(spec, size, count=2, seed=0):
  random = np.random.default_rng(seed)
  sides = {"input": 3, "output": spec.target.channels, "target": spec.target.channels}
  for _ in range(count):
    example = {name: random.uniform(-1, 1, (*size, channels)).astype(np.float32) for name, channels in sides.items()}
    if spec.target.has_holes:
      example["mask"] = (random.uniform(size=(*size, 1)) > 0.5).astype(np.float32)
    yield viz.draw_row(example, spec)


def save_sheet(path, spec, size, captions):
  """The sheet as an array, and its description of itself."""
  rows = list(rows_of(spec, size, len(captions)))
  viz.save_sheet(path, rows, captions, spec, viz.scale_errors(rows, spec.target))
  with Image.open(path) as image:
    return np.asarray(image), json.loads(image.text[viz.LAYOUT_KEY]), rows


@pytest.mark.parametrize("spec", [IMAGES, STREETS])
@pytest.mark.parametrize(
  "size", [(1, 1), (8, 8), (64, 192), (352, 1216), (128, 16), (3000, 200), (16, 3000), (1500, 1500)]
)
@pytest.mark.parametrize("name", ["7", "street/2011_09_26_drive_0001_sync/image_02/data/0000000005" * 4, "bro\nken 図"])
def test_ids_and_metrics_are_whole_on_sheets_of_any_shape(spec, size, name, texts, tmp_path):
  picture, about, _ = save_sheet(tmp_path / "best.png", spec, size, [(name, "l1 0.0123, rmse 12.34 m")] * 2)
  strings = [string for string, _ in texts]
  assert strings.count("l1 0.0123, rmse 12.34 m") == 2 and "error" in strings
  ids = [string for string in strings if string[0] == name[0]]
  assert all(string == name.replace("\n", "�") or (string[-1] == name[-1] and "…" in string) for string in ids)
  assert len(ids) >= 2
  require_whole(texts, picture.shape, [box for row in about["boxes"] for box in row])
  assert picture.shape[1] <= 2500 and picture.shape[0] <= 2 * 1300 + 400
  left, top, right, bottom = about["boxes"][0][0]
  factor = (right - left) / size[1]
  assert (bottom - top) / size[0] == pytest.approx(factor, rel=0.2) or min(bottom - top, right - left) < 10


def test_the_error_column_shows_the_difference_in_the_units_of_the_target():
  flat = {"input": np.zeros((4, 4, 3), np.float32)}
  image = viz.draw_row(
    flat | {"output": np.full((4, 4, 3), -1, np.float32), "target": np.array([-1, 0, 0.5]) * np.ones((4, 4, 3))}, IMAGES
  )
  np.testing.assert_allclose(image.error, (0 + 0.5 + 0.75) / 3, rtol=1e-6)
  mask = np.ones((4, 4, 1), np.float32)
  mask[0] = 0
  near, far = np.full((4, 4, 1), -0.5, np.float32), np.zeros((4, 4, 1), np.float32)
  metres = viz.draw_row(flat | {"output": near, "target": far, "mask": mask}, STREETS)
  np.testing.assert_allclose(metres.error[1:], 20, rtol=1e-6)
  assert np.isnan(metres.error[0]).all()
  scale = viz.scale_errors([metres], STREETS.target)
  assert scale.labels() == ["0 m", "5", "10", "15", "20 m"] and scale.title.endswith("in metres")
  painted = scale.paint(metres.error)
  assert (painted[0] == 0).all() and (painted[1:] == scale.colors[-1]).all() and scale.colors[-1].any()
  assert scale.colors[0].max() > 100, "no error would look like a hole"


@pytest.mark.parametrize(
  "low, high, inner",
  [
    (-1053, 1552, ["-400", "250", "900"]),
    (-1024, 3071, ["0", "1020", "2050"]),
    (0, 80, ["20", "40", "60"]),
    (-24.31, 5.07, ["-17", "-9.6", "-2.3"]),
    (0, 0.02, ["0.005", "0.01", "0.015"]),
    (0, 655.35, ["164", "328", "492"]),
  ],
)
def test_the_values_along_a_scale_are_round(low, high, inner):
  scale = viz.Scale("x", low, high, "HU", np.zeros((256, 3), np.uint8), holes=False)
  assert scale.labels() == [f"{low:g} HU", *inner, f"{high:g} HU"]
  exact = low + np.array([0.25, 0.5, 0.75]) * (high - low)
  np.testing.assert_allclose([float(text) for text in inner], exact, rtol=0, atol=0.005 * (high - low))


def test_errors_beyond_the_scale_are_marked_at_its_end():
  errors = np.full((100, 100), 0.11, np.float32)
  errors[0, :50] = 0.9
  scale = viz.scale_errors([viz.Row({}, errors)], ImageSignal())
  assert scale.labels() == ["0", "0.05", "0.1", "0.15", "≥ 0.2"]
  empty = viz.scale_errors([viz.Row({}, np.full((2, 2), np.nan, np.float32))], ImageSignal())
  assert empty.labels()[-1] == "1"


@pytest.mark.parametrize("spec", [IMAGES, STREETS])
def test_a_sheet_describes_where_its_images_are(spec, tmp_path):
  picture, about, rows = save_sheet(tmp_path / "grid.png", spec, (32, 48), [("a", "l1 1"), ("b", "l1 2")])
  assert about["columns"] == ["input", "output", "target", "error"] and about["captions"] == [
    ["a", "l1 1"],
    ["b", "l1 2"],
  ]
  for row, boxes in zip(rows, about["boxes"]):
    for name, (left, top, right, bottom) in zip(about["columns"][:3], boxes):
      np.testing.assert_array_equal(picture[top:bottom, left:right], row.images[name].repeat(4, 0).repeat(4, 1))
  assert [scale["title"].split(":")[0] for scale in about["scales"]] == (["depth"] if spec is STREETS else []) + [
    "error"
  ]


def test_a_large_depth_map_keeps_single_measurements():
  example = {name: np.full((8, 3000, 1), -1, np.float32) for name in ("input", "output", "target")}
  example["mask"] = np.zeros((8, 3000, 1), np.float32)
  example["mask"][:, ::2] = 1
  row = viz.draw_row(example, DataSpec(Depth(), Depth(), {}))
  colors = {tuple(color) for color in row.images["target"].reshape(-1, 3)}
  assert len(colors) == 2 and (0, 0, 0) in colors


@pytest.mark.parametrize("metric, best, worst", [("l1", [19, 18, 17], [0, 2, 3]), ("psnr", [0, 2, 3], [19, 18, 17])])
def test_sheets_of_an_evaluation_rank_by_the_metric_of_the_run(metric, best, worst, tmp_path):
  """20 images in batches of 8; number n has L1 0.4 - n/100 and PSNR 20 - n, apart from 1, which has neither."""
  config = config_lib.default()
  config.train.best_metric, config.evaluation.num_samples, config.evaluation.batch_size = metric, 3, 8

  def eval_step(_, batch):
    number = batch["index"].astype(jnp.float32)
    values = {"l1": 0.4 - number / 100, "psnr": 20 - number}
    return batch["target"], {name: jnp.where(number == 1, jnp.nan, value) for name, value in values.items()}

  mesh, rows = types.SimpleNamespace(size=1), jax.sharding.SingleDeviceSharding(jax.devices()[0])
  run = types.SimpleNamespace(config=config, mesh=mesh, split_rows=rows, spec=IMAGES, eval_step=eval_step)
  images = (np.arange(20, dtype=np.uint8)[:, None, None, None] * 10).repeat(8, 1).repeat(8, 2).repeat(3, 3)
  split = pipeline.MemorySplit({"input": images, "target": images}, [f"image {n}" for n in range(20)], IMAGES)
  result = evaluation.evaluate_split(run, {}, split)
  assert result.best == best and result.worst == worst
  assert result.grid.shape == (20 + 4 + 3 * 132, 3 * 132 + 4, 3)  # the sample grid: three rows, three columns
  evaluation.write(tmp_path, result, split.ids, 7, config, {})

  def read(name):
    with Image.open(tmp_path / f"{name}.png") as file:
      about = json.loads(file.text[viz.LAYOUT_KEY])
      left, top, *_ = np.transpose([row[0] for row in about["boxes"]])
      return about["captions"], (np.asarray(file)[top, left, 0] / 10).tolist()

  captions, numbers = read("grid")
  assert numbers == list(range(16)) and captions[1] == ["image 1", "nothing to compare with"]
  assert captions[2] == ["image 2", {"l1": "l1 0.3800", "psnr": "psnr 18.00 dB"}[metric]]
  assert [caption[0] for caption in captions] == split.ids[:16]
  for name, expected in (("best", best), ("worst", worst)):
    captions, numbers = read(name)
    assert numbers == expected and [caption[0] for caption in captions] == [split.ids[n] for n in expected]


def test_captions_give_metres_for_depth():
  values = {"l1": np.array([0.05]), "rmse": np.array([4.0]), "abs_rel": np.array([np.nan])}
  assert evaluation.describe_image(values, 0, "l1", "m") == "l1 0.05000, rmse 4.000 m"
  assert evaluation.describe_image(values, 0, "rmse", "m") == "rmse 4.000 m"
  assert evaluation.describe_image(values, 0, "abs_rel", "m") == "rmse 4.000 m"


def test_pictures_and_names_stand_where_they_belong():
  picture = sheet(("a", "b"), depth_range=None)
  assert picture.shape == (156, 268, 3)
  for left in (4, 136):
    assert (picture[24:152, left : left + 128] == 200).all()
    assert (picture[4:20, left : left + 128] < 100).any()


def test_names_may_have_signs_and_accents():
  def name(text):
    return sheet([text], depth_range=None)[:20].tobytes()

  missing = name("\uffff")
  assert len({missing, *map(name, "×·→äé²σδ")}) == 9


def test_small_pictures_are_enlarged_by_a_whole_factor():
  picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
  shown = viz.grid({"x": [picture]})
  np.testing.assert_array_equal(shown[24:174, 4:184], picture.repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "train/other": 2.0}]])
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_history_without_curves_is_drawn_without_a_warning(tmp_path, rows):
  viz.curves(rows, tmp_path / "curves.png")
  assert Image.open(tmp_path / "curves.png").width == 433


def test_curves_leave_pyplot_and_its_backend_alone(tmp_path):
  code = (
    "import sys, matplotlib; matplotlib.use('svg'); from pix2pix_jax.run import viz; from pathlib import Path;"
    "viz.curves([{'step': n, 'train/generator_loss': n, 'val/generator_loss': n} for n in (1, 2)], Path(sys.argv[1]));"
    "print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "curves.png")], capture_output=True, text=True, check=False
  )
  assert done.stdout.split() == ["svg", "False"], done.stdout + done.stderr
  assert Image.open(tmp_path / "curves.png").size == (433, 325)


def drawn_axes(monkeypatch, rows, path, **options):
  """The axes of the curves by their titles, as they are saved."""
  from matplotlib.figure import Figure

  figures = []
  save = Figure.savefig
  monkeypatch.setattr(
    Figure, "savefig", lambda figure, *args, **kwargs: (figures.append(figure), save(figure, *args, **kwargs))
  )
  viz.curves(rows, path, **options)
  return {axis.get_title(): axis for axis in figures[0].axes}


def test_curves_mark_baselines_changes_and_a_learning_rate_that_falls(tmp_path, monkeypatch):
  (tmp_path / "eval/val").mkdir(parents=True)
  baselines = {"mean_target": {"l1": 0.25, "ssim": 0.9}, "nearest_valid": {"l1": 7.0}}
  (tmp_path / "eval/val/metrics.json").write_text(json.dumps({"baselines": baselines}))
  rows = [
    {"step": step, "train/learning_rate": 2e-4 * (1 - step / 4000), "train/l1": 0.3, "val/l1": 0.2, "val/ssim": 0.1}
    for step in (1000, 2000, 3000)
  ]
  axes = drawn_axes(monkeypatch, rows, tmp_path / "curves.png", changes=[{"step": 1500}, {"step": 2500}])
  assert list(axes) == ["L1 on [0, 1]", "SSIM", "learning rate"]
  labels = [text.get_text() for text in axes["L1 on [0, 1]"].get_legend().get_texts()]
  assert labels == ["train", "val", "mean target 0.25", "nearest valid 7 (above)", "configuration changed"]
  assert axes["learning rate"].lines[0].get_drawstyle() == "steps-pre"  # each value belongs to the steps before it
  for axis in axes.values():
    verticals = [
      line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert verticals == [1500, 2500] and axis.get_xlabel() == "step"
    assert "2,000" in [label.get_text() for label in axis.get_xticklabels()]
  rows = [{**row, "train/learning_rate": 2e-4} for row in rows]
  assert "learning rate" not in drawn_axes(monkeypatch, rows, Path(tmp_path / "other" / "curves.png"))


@pytest.mark.parametrize("unit, title", [("m", "RMSE in m"), ("HU", "RMSE in HU"), ("", "RMSE")])
def test_units_of_metrics_are_named(unit, title, tmp_path, monkeypatch):
  rows = [{"step": step, "val/rmse": 1.0} for step in (1, 2)]
  assert list(drawn_axes(monkeypatch, rows, tmp_path / "curves.png", unit=unit)) == [title]
  lines = evaluation.table({"model": {"rmse": 1.5, "psnr": 20.0, "ssim": 0.5}, "mean_target": {"rmse": 2}}, unit)
  names = [line.split("  ")[1] for line in lines.splitlines()[1:]]
  assert names == [f"rmse ({unit})" if unit else "rmse", "psnr (dB)", "ssim"]
  assert len({len(line) for line in lines.splitlines()[:2]}) == 1  # columns are aligned


@pytest.mark.parametrize("first, last", [(0, 0), (7, 7), (0, 1), (1980, 1983), (1975, 1996), (0, 3200), (100, 99999)])
def test_steps_are_labelled_by_round_integers(first, last, tmp_path, monkeypatch):
  ticks = viz.step_ticks(first, last)
  assert 1 <= len(ticks) <= 7 and ticks[0] >= first and ticks[-1] <= last
  distance = ticks[1] - ticks[0] if len(ticks) > 1 else 1
  assert distance in {digit * 10**power for digit in (1, 2, 5) for power in range(6)}
  assert all(isinstance(tick, int) and tick % distance == 0 for tick in ticks)
  rows = [{"step": step, "val/l1": 1.0} for step in sorted({first, last})]
  (axis,) = drawn_axes(monkeypatch, rows, tmp_path / "curves.png").values()
  assert [label.get_text() for label in axis.get_xticklabels()] == [f"{tick:,}" for tick in ticks]


def test_the_range_of_interest():
  falling = [(0, 90.0), *((step, 10.0 - step / 100) for step in range(1, 101))]
  low, high = viz.value_limits([falling])  # without 1 and 2 of the 100 values at each end, and 8 % of room
  assert (low, high) == pytest.approx((9.01 - 0.08 * 0.97, 9.98 + 0.08 * 0.97), abs=0.011)
  few = [(0, 3.0), (10, 2.0), (20, 1.0)]
  assert viz.value_limits([few]) == pytest.approx((1 - 0.16, 3 + 0.16))  # step 0 is near
  assert viz.value_limits([[(0, 3.1), *few[1:]]]) == pytest.approx((1 - 0.08, 2 + 0.08))  # and here it is not
  assert viz.value_limits([few[1:]], [0.5, 9.0]) == pytest.approx((0.5 - 0.12, 2 + 0.12))
  assert viz.value_limits([[(0, 4.0)]]) == pytest.approx((4 - 0.32, 4 + 0.32))
  assert viz.value_limits([[(1, 0.0)]])[0] < 0 < viz.value_limits([[(1, 0.0)]])[1]


@pytest.mark.parametrize("occurring, drawn", [([0, 1, 2, 255], 4), (range(256), 40)])
def test_a_confusion_matrix_shows_the_classes_that_occur(tmp_path, occurring, drawn):
  counts = np.zeros((256, 256))
  for number, index in enumerate(occurring):
    counts[index, index] = 1000 - number
  shown, found = viz._shown_classes(counts)
  assert found == len(occurring) and list(shown) == list(occurring)[:drawn]
  viz.save_confusion(tmp_path / "confusion.png", counts, Classes(256))
  width, height = Image.open(tmp_path / "confusion.png").size
  assert width == height and drawn * 40 < width < drawn * 40 + 100
