"""The report of a workdir: self-contained, escaped, honest about what is absent, and alive in a browser."""

import base64
import csv
import html
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import report
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import viz
from pix2pix_jax.run.experiment import Experiment

EVIL = '</script><script>document.documentElement.dataset.evil = "1"</script><img src=x onerror="document.title=1">'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--enable-logging=stderr",
  "--v=0",
  "--virtual-time-budget=5000",
  "--dump-dom",
]
in_browser = pytest.mark.skipif(
  not CHROMIUM, reason="no chromium, chromium-browser or google-chrome to open the page in"
)


def picture(path, color=(200, 30, 30), size=(60, 80)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, color).save(path)


def bare_workdir(folder):
  folder.mkdir()
  config = config_lib.default()
  config.data.source_dir = f"/somewhere/private/{EVIL.replace('/', '_')}"
  config.data.name = "folder"
  config.model.base_features, config.model.levels = 2, 3
  config.model.input_channels, config.model.output_channels = 3, 1
  config.data.input_kind, config.data.target_kind = "image", "depth"
  config.data.input_dtype, config.data.target_dtype = "uint8", "float32"
  config.loss.pixel, config.loss.l1_weight = "l1", 300.0
  config.train.num_steps, config.train.batch_size = 40, 5
  config.evaluation.norm_stats = "image"
  (folder / "config.json").write_text(config.to_json_best_effort())
  return folder


@pytest.fixture
def bare(tmp_path):
  return bare_workdir(tmp_path / "bare")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
  """A finished run with two evaluated splits."""
  workdir = bare_workdir(tmp_path_factory.mktemp("report") / EVIL.replace("/", "_"))
  rows = []
  for step in range(0, 41, 10):
    if step:
      rows.append(
        {
          "step": step,
          "train/l1": 0.3 - step / 200,
          "train/generator_loss": 30.0 - step / 4,
          "train/discriminator_accuracy_real": 0.7,
          "train/discriminator_accuracy_fake": 0.6,
          "train/steps_per_second": 2.0,
        }
      )
    rows.append(
      {
        "step": step,
        "val/l1": 0.2 + abs(step - 20) / 100,
        "val/generator_loss": 31.0,
        "val/psnr": 12.0 + step,
        "val/discriminator_accuracy_real": 0.8,
        "val/discriminator_accuracy_fake": 0.5,
        "val/surprise": math.nan,
      }
    )
    picture(workdir / "samples" / f"step_{step:08d}.png", (5 * step, 0, 0))
  (workdir / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "tra')
  for split in ("test", "val"):
    folder = workdir / "eval" / split
    picture(folder / "grid.png")
    (folder / "metrics.json").write_text(
      json.dumps(
        {
          "step": 40,
          "count": 20,
          "metrics": {"l1": 0.25, "psnr": 15.0, "discriminator_loss": 0.6},
          "baselines": {"mean_target": {"l1": 0.5, "psnr": 16.0}},
          "protocol": {"dropout": True, "height_width": [8, 16]},
        }
      )
    )
    with (folder / "per_image.csv").open("w", newline="") as file:
      csv.writer(file).writerows(
        [["id", "psnr", "l1"], *([f"{i}{EVIL}", i, 0.01 * i if i else "nan"] for i in range(20))]
      )
  picture(workdir / "eval" / "test" / "best.png")
  picture(workdir / "eval" / "test" / "worst.png", (0, 0, 250))
  return workdir


@pytest.fixture
def sheets(bare):
  """A run that was resumed with another learning rate, and evaluated with sheets that describe themselves."""
  spec = Experiment.read(bare).spec
  random = np.random.default_rng(0)
  rows = []
  for _ in range(2):
    example = {name: random.uniform(-1, 1, (8, 16, n)).astype(np.float32) for name, n in SIDES.items()}
    rows.append(viz.draw_row(example | {"mask": np.ones((8, 16, 1), np.float32)}, spec))
  folder = bare / "eval" / "val"
  captions = [(f"1{EVIL}", "rmse 1.000 m"), ("2", "rmse 2.000 m")]
  for name in ("grid", "best", "worst"):
    viz.save_sheet(folder / f"{name}.png", rows, captions, spec, viz.scale_errors(rows, spec.target))
  protocol = {"dropout": False, "norm_stats": "running", "seed": 3, "data": "folder", "source_dir": "/private/here"}
  protocol |= {
    "height_width": [8, 16],
    "scale": "l1, psnr and ssim on [0, 1]",
    "fid": "not computed: no weights",
    "x": "",
  }
  summary = {
    "step": 40,
    "count": 2,
    "metrics": {"l1": 0.2},
    "baselines": {"mean_target": {"l1": 0.25}, "far": {"l1": 9.0}},
  }
  (folder / "metrics.json").write_text(json.dumps({**summary, "protocol": protocol}))
  for step in (10, 20, 30, 40):
    picture(bare / "samples" / f"step_{step:08d}.png")
  history = [
    {"step": n, "train/learning_rate": 2e-4 if n < 21 else 1e-4, "val/l1": 0.3 - n / 400} for n in (10, 20, 30, 40)
  ]
  (bare / "history.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in [{"step": 0, "val/l1": 99.0}, *history])
  )
  config_lib.record_changes(bare, 20, {"optimizer.learning_rate": (2e-4, 1e-4), "data.source_dir": ("", EVIL)})
  return bare


SIDES = {"input": 3, "output": 1, "target": 1}


def read(workdir):
  """The page, and the JSON that it shows."""
  page = report.write(workdir).read_text(encoding="utf-8")
  return page, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def uris(data):
  pictures = data["samples"]["pictures"] + [picture for split in data["splits"] for picture in split["pictures"]]
  return [picture["uri"] for picture in pictures]


def test_one_file_that_loads_nothing(full):
  page, data = read(full)
  assert [path.name for path in (full / "report").iterdir()] == ["index.html"]
  assert set(re.findall(r'(?:src|href)="([^"#]*)', page)) <= {"", "data:,"}
  assert "url(" not in page.replace("url(#", "") and "@import" not in page
  assert page.count("http") == page.count("http-equiv") + page.count("http://www.w3.org/2000/svg")
  assert len(uris(data)) == 5 + 2 + 1
  for uri in uris(data):
    Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True))).load()


def test_what_it_shows(full):
  _, data = read(full)
  assert data["what"].startswith("A U-Net with a 70×70 PatchGAN, trained on the folder <_script>")
  assert "private" not in json.dumps(data["facts"]) and data["facts"]["Pairs"] == "20 test, 20 val"
  assert (data["step"], data["num_steps"], len(data["parameters"])) == (40, 40, 2)
  assert data["facts"]["Sizes"] == "crops of 256×256 from 286×286, evaluated at 256×256 (width × height)"
  assert data["facts"]["Target"] == "depth, 0 to 80 m, 1 channel"
  formula = "gan_loss + 300 · l1_loss"
  assert data["facts"]["Loss"].startswith(f"generator_loss = {formula}; l1 = ") and data["formula"] == formula
  assert data["rows"][0]["val/surprise"] is None and len(data["rows"]) == 9  # the half line at the end is not there
  test, val = data["splits"]
  assert [[one["name"] for one in split["pictures"]] for split in (test, val)] == [["best", "worst"], ["grid"]]
  assert test["rows"][0] == [f"0{EVIL}", 0, None] and test["summary"]["metrics"]["l1"] == 0.25
  changed = {field["field"]: field["value"] for field in data["config"] if field["changed"]}
  assert changed.pop("data.source_dir").startswith("/somewhere/private")
  assert changed == {
    "data.name": "folder",
    "data.input_kind": "image",
    "data.target_kind": "depth",
    "data.input_dtype": "uint8",
    "data.target_dtype": "float32",
    "loss.pixel": "l1",
    "loss.l1_weight": 300.0,
    "model.base_features": 2,
    "model.levels": 3,
    "model.input_channels": 3,
    "model.output_channels": 1,
    "train.num_steps": 40,
    "train.batch_size": 5,
    "evaluation.norm_stats": "image",
  }
  assert all(field["meaning"] for field in data["config"])


def test_markup_in_values_is_text(full):
  page, data = read(full)
  assert "<img src=x" not in page and page.count("</script>") == 2
  assert next(field for field in data["config"] if field["field"] == "data.source_dir")["value"].endswith(
    EVIL.replace("/", "_")
  )


def test_a_run_that_has_only_begun(bare):
  _, data = read(bare)
  assert data["rows"] == data["splits"] == data["samples"]["pictures"] == [] and data["step"] == 0
  assert data["facts"]["Pairs"] == "not recorded in this workdir"


def test_half_written_and_older_files(bare):
  fields = json.loads((bare / "config.json").read_text())
  del fields["data"]["eval_size"], fields["loss"]["validity_weight"]
  (bare / "config.json").write_text(json.dumps(fields))
  (bare / "eval" / "val").mkdir(parents=True)
  (bare / "eval" / "val" / "metrics.json").write_text('{"metrics": {"l1"')
  (bare / "eval" / "val" / "per_image.csv").write_text("id,l1\n1,0.5\n2")
  picture(bare / "samples" / "step_00000000.png")
  (bare / "samples" / "step_00000001.png").write_bytes((bare / "samples" / "step_00000000.png").read_bytes()[:60])
  _, data = read(bare)
  assert data["config_note"] == "config.json lacks 2 newer fields; the defaults are shown."
  assert data["splits"][0]["summary"] == {} and data["splits"][0]["rows"] == [["1", 0.5]]
  assert len(data["samples"]["pictures"]) == 1 and "step_00000001.png" in data["samples"]["note"]


def test_labels_of_sheets_are_text(sheets):
  _, data = read(sheets)
  (val,) = data["splits"]
  best, worst = val["pictures"]
  assert (best["name"], worst["name"]) == ("best", "worst") and best["columns"] == [
    "input",
    "output",
    "target",
    "error",
  ]
  assert [row["id"] for row in best["rows"]] == [f"1{EVIL}", "2"] and best["rows"][1]["metric"] == "rmse 2.000 m"
  with Image.open(sheets / "eval/val/best.png") as file:
    sheet, boxes = np.asarray(file), json.loads(file.text[viz.LAYOUT_KEY])["boxes"]
  for row, places in zip(best["rows"], boxes):
    for image, (left, top, right, bottom) in zip(row["images"], places):
      shown = Image.open(io.BytesIO(base64.b64decode(image["uri"].split(",")[1])))
      np.testing.assert_array_equal(np.asarray(shown), sheet[top:bottom, left:right])
  depth, error = best["scales"]
  assert depth["labels"] == ["0 m", "20", "40", "60", "80 m"] and error["title"] == "error: |output − target| in metres"
  assert len(depth["colors"]) == 9 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in depth["colors"])


def test_labels_of_samples_are_text_where_the_layout_is_known(bare):
  random = np.random.default_rng(0)
  config = json.loads((bare / "config.json").read_text())
  config["data"] |= {"eval_size": 8, "eval_width": 16, "fingerprint": "train 4, val 2; abc"}
  (bare / "config.json").write_text(json.dumps(config))
  spec = Experiment.read(bare).spec
  examples = [
    {name: random.uniform(-1, 1, (8, 16, n)).astype(np.float32) for name, n in SIDES.items()} for _ in range(2)
  ]
  rows = [viz.draw_row(example, spec) for example in examples]
  grid = viz.example_grid(rows, spec)
  texts = {viz.LAYOUT_KEY: json.dumps(viz.describe_example_grid(rows, spec))}
  viz.save_png(bare / "samples" / "step_00000001.png", grid, texts)
  _, data = read(bare)
  samples, (shown,) = data["samples"], data["samples"]["pictures"]
  assert samples["columns"] == ["input", "output", "target"] and samples["scales"][0]["title"] == "depth"
  assert (shown["width"], shown["height"]) == (3 * 256 + 2 * 4, 2 * 128 + 4)
  body = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["uri"].split(",")[1]))))
  np.testing.assert_array_equal(body[:128, :256], spec.input.display(examples[0]["input"]).repeat(16, 0).repeat(16, 1))
  assert data["facts"]["Pairs"] == "4 train, 2 val"
  picture(bare / "samples" / "step_00000002.png")  # of another layout: all are shown whole
  _, data = read(bare)
  assert data["samples"]["columns"] == [] and data["samples"]["pictures"][0]["height"] == grid.shape[0]


def test_the_protocol_is_in_words(sheets):
  _, data = read(sheets)
  assert data["splits"][0]["protocol"] == [
    "Dropout is off.",
    "Batch norm uses running averages from training.",
    "Images are 16×8 pixels (width × height).",
    "Data: data set folder, folder here.",
    "FID and KID were not computed: no weights.",
  ]


@pytest.mark.parametrize(
  "folder, title",
  [
    ("test", "Split test"),
    ("val@step800", "Split val"),
    ("test@step800,dropout=off", "Split test, dropout off"),
    ("test@data=my_street.v2,norm_stats=running", "Split test, data of my_street.v2, norm statistics: running"),
  ],
)
def test_folders_have_readable_titles(bare, folder, title):
  picture(bare / "eval" / folder / "grid.png")
  _, data = read(bare)
  assert data["splits"][0]["title"] == title


def test_parameters_changes_and_baselines(sheets):
  _, data = read(sheets)
  generator, discriminator = data["networks"]
  assert [generator["count"], discriminator["count"]] == data["parameters"]
  for network in data["networks"]:
    for _, shape, count in network["rows"]:
      assert math.prod(map(int, shape.split("×"))) == count
  (change,) = data["changes"]
  assert change["step"] == 20 and change["fields"][0] == ["optimizer.learning_rate", 2e-4, 1e-4]
  assert data["baselines"] == {"mean_target": {"l1": 0.25}, "far": {"l1": 9.0}}
  assert "0.999" in data["facts"]["Optimizer"] and "" not in data["facts"].values()


@pytest.mark.parametrize("gan, validity", [("vanilla", True), ("none", False)])
def test_the_formula_of_the_loss_is_the_one_that_is_computed(bare, gan, validity):
  run = Experiment.read(bare)
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.loss.gan, config.loss.l1_weight, config.loss.validity_weight = gan, 7.0, 3.0
    config.model.patch = 16
    config.data.validity_channel, config.model.output_channels = validity, 1 + validity
  run = Experiment(config, run.spec)
  random = np.random.default_rng(0)
  batch = {
    "input": random.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32),
    "target": random.uniform(-1, 1, (1, 32, 32, 1)).astype(np.float32),
    "mask": np.float32(random.random((1, 32, 32, 1)) < 0.5),
    "index": np.zeros(1, np.int32),
  }
  _, values = run.eval_step(run.init().variables, batch)
  values = {name: float(value[0]) for name, value in values.items()}
  terms = [term.split(" · ") for term in run.loss_formula().split(" + ")]
  assert values["generator_loss"] == pytest.approx(sum(math.prod(values.get(x) or float(x) for x in t) for t in terms))
  assert len(terms) == 1 + (gan != "none") + validity
  assert values["l1"] == pytest.approx(values["l1_loss"] / 2)


def test_many_large_grids_are_thinned_and_compressed(bare, monkeypatch):
  monkeypatch.setattr(report, "SAMPLE_BYTES", 300_000)
  (bare / "samples").mkdir()
  noise = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
  for step in range(100):
    Image.fromarray(noise).save(bare / "samples" / f"step_{step:08d}.png")
  _, data = read(bare)
  steps = [picture["step"] for picture in data["samples"]["pictures"]]
  assert len(steps) == 40 and steps[0] == 0 and steps[-1] == 99 and set(np.diff(steps)) == {2, 3}
  assert sum(map(len, uris(data))) <= 300_000 and all(uri.startswith("data:image/jpeg") for uri in uris(data))
  assert data["samples"]["note"].startswith("40 of 100 grids are shown") and "JPEGs at" in data["samples"]["note"]
  width, height = Image.open(io.BytesIO(base64.b64decode(uris(data)[0].split(",")[1]))).size
  assert 0.7 < width / height / (60 / 80) < 1.4 and width < 60


def test_a_folder_that_is_no_workdir(tmp_path):
  with pytest.raises(UsageError, match="not a folder"):
    report.write(tmp_path / "absent")
  with pytest.raises(UsageError, match="holds no run"):
    report.write(tmp_path)


# ---- in a browser ----

LISTENER = (
  "<script>addEventListener('error', (event) => { document.documentElement.dataset.errors = event.message; });</script>"
)
PROBE = """<script>
addEventListener("load", async () => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = {}, plot = one(".plot"), box = plot?.getBoundingClientRect();
  const ticks = () => all(".x-tick").slice(0, 30).map((tick) => tick.textContent).join();
  const point = (name, share) => plot.dispatchEvent(new PointerEvent(name, {
    bubbles: true, button: 0, clientX: box.left + box.width * share, clientY: box.top + 80 }));
  const visible = () =>
    all("#samples img").filter((image) => image.getClientRects().length).map((image) => image.src).join();
  await new Promise((done) => setTimeout(done, 100));
  const whole = (image) => image.naturalWidth > 0 && image.src.startsWith("data:");
  seen.images = [all("img").length, all("img").filter(whole).length];
  if (one("#slider")) {
    const before = visible();
    one("#slider").value = 0;
    one("#slider").dispatchEvent(new Event("input"));
    seen.slider = [before !== visible() && visible() !== "", one("#step").textContent];
    one("#to-best").click();
    seen.best = one("#step").textContent;
  }
  if (plot) {
    const before = ticks();
    point("pointermove", 0.5);
    const outputs = all(".chart:first-child output").map((output) => output.textContent);
    seen.readout = [one(".chart h3").textContent, ...outputs];
    point("pointerdown", 0.3); point("pointermove", 0.6); point("pointerup", 0.6);
    const zoomed = ticks();
    plot.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    seen.zoom = [before !== zoomed, before === ticks()];
    for (const id of ["log", "smooth"]) {
      const before = plot.innerHTML;
      one("#" + id).click();
      seen[id] = before !== plot.innerHTML;
    }
    const broken = (node) => /NaN|Infinity|undefined/.test(node.outerHTML);
    seen.broken = all("path, circle, line, text").filter(broken).length;
  }
  if (one(".sortable")) {
    const ids = () => all(".sortable")[0].tBodies[0].innerText.split("\\n").map((line) => line.split("\\t")[1]);
    seen.worst = ids().slice(0, 2);
    all(".sortable th button")[1].click();
    seen.sorted = ids().slice(0, 2);
  }
  const theme = () => getComputedStyle(document.body).backgroundColor, light = theme();
  one("#theme").click();
  seen.theme = light !== theme();
  seen.changes = [all(".change").length, all(".changes tbody tr").length];
  seen.baselines = [all("line.baseline[x2]").length, all(".legend span").map((node) => node.textContent)];
  seen.highest = Math.max(...all(".chart:first-child .y-tick").map((tick) => Number(tick.textContent)));
  seen.captions = all(".caption").map((node) => node.textContent);
  const cells = all("td, dd, tbody th, .caption span, .scale span:not(.hole)");
  seen.empty = cells.filter((node) => !node.textContent).length;
  seen.axes = all(".x-name").map((node) => node.textContent);
  seen.verdicts = all(".good, .bad").map((node) => node.textContent);
  seen.absent = all(".absent").filter((node) => node.getClientRects().length).map((node) => node.textContent);
  seen.sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.evil = document.documentElement.dataset.evil ?? null;
  seen.errors = document.documentElement.dataset.errors ?? null;
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
</script>"""


def browse(workdir, tmp_path, width=1200):
  """Opens a copy of the report with PROBE in it and gives what that saw; the console must stay silent."""
  page = report.write(workdir).read_text(encoding="utf-8")
  copy = tmp_path / "copy.html"
  copy.write_text(page.replace("<head>", f"<head>{LISTENER}").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
  command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", copy.as_uri()]
  result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
  assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []
  match = re.search(r'data-seen="([^"]*)"', result.stdout)
  assert match, result.stderr[-2000:]
  return json.loads(html.unescape(match[1]))


@in_browser
@pytest.mark.parametrize("width", [1200, 500])  # headless windows are not narrower than 500
def test_the_page_lives(full, tmp_path, width):
  seen = browse(full, tmp_path, width)
  assert seen["errors"] is None and seen["evil"] is None and seen["broken"] == 0
  assert seen["images"] == [8, 8] and seen["sideways"] == 0 and seen["theme"] is True
  assert seen["slider"] == [True, "Step 0, untrained"] and seen["best"] == "Step 20, best L1"
  assert re.fullmatch("L1 near step (1[5-9]|2[0-5])", seen["readout"][0]) and seen["readout"][1:] == [
    "0.2000",
    "0.2000",
  ]
  assert seen["zoom"] == [True, True] and seen["log"] and seen["smooth"]
  assert seen["worst"] == ["0.1900", "0.1800"] and seen["sorted"] == [
    "0.0100",
    "0.0200",
  ]  # the one without a number comes last
  assert seen["verdicts"] == ["✓ model is better", "✗ model is worse"] * 2 and seen["absent"] == []


@in_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_sheets_changes_and_baselines_in_the_page(sheets, tmp_path, width):
  seen = browse(sheets, tmp_path, width)
  assert seen["errors"] is None and seen["evil"] is None and seen["broken"] == 0 and seen["sideways"] == 0
  assert seen["images"] == [4 + 2 * 2 * 4] * 2 and seen["empty"] == 0
  assert seen["captions"] == [f"1{EVIL}rmse 1.000 m", "2rmse 2.000 m"] * 2
  assert seen["axes"] == ["step"] * 2  # L1 and learning rate
  assert seen["changes"] == [2, 2]
  lines, legend = seen["baselines"]
  assert "mean target 0.2500" in legend and "far 9 (above)" in legend
  assert seen["highest"] < 0.5, "the untrained 99 would flatten the curve"


@in_browser
def test_absence_is_said_in_the_page(bare, tmp_path):
  seen = browse(bare, tmp_path)
  assert seen["errors"] is None and seen["images"] == [0, 0] and seen["sideways"] == 0
  assert [text[:16] for text in seen["absent"]] == ["There are no sam", "Nothing has been", "No split has bee"]
