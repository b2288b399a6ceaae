"""FID and KID: the network against PyTorch, the distances against closed forms and loops, and the evaluate command."""

import itertools
import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax import UsageError, evaluate
from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import procedural
from pix2pix_jax.run import baselines, checkpoint, distances
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Depth, Image

try:
  import torch
  from torch.nn import functional
except ImportError:
  torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed; the golden values stand in for it")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
  """PyTorch's threads slow each other down when tests run in parallel."""
  if torch:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
  yield
  if torch:
    torch.set_num_threads(threads)


# --- The network as PyTorch writes it ---------------------------------------------------------------------------------


def torch_inception():
  """Inception-v3 of 2015-12-05 with torchvision's names, which the published weights use."""
  nn = torch.nn

  class Conv(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1, padding=0):
      super().__init__()
      self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
      self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
      return functional.relu(self.bn(self.conv(x)))

  def mean_pool(x):
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

  class A(nn.Module):
    def __init__(self, inputs, pooled):
      super().__init__()
      self.branch1x1 = Conv(inputs, 64, 1)
      self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48, 1), Conv(48, 64, 5, padding=2)
      self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = (
        Conv(inputs, 64, 1),
        Conv(64, 96, 3, padding=1),
        Conv(96, 96, 3, padding=1),
      )
      self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x):
      return torch.cat(
        [
          self.branch1x1(x),
          self.branch5x5_2(self.branch5x5_1(x)),
          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
          self.branch_pool(mean_pool(x)),
        ],
        1,
      )

  class B(nn.Module):
    def __init__(self, inputs):
      super().__init__()
      self.branch3x3 = Conv(inputs, 384, 3, 2)
      self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = (
        Conv(inputs, 64, 1),
        Conv(64, 96, 3, padding=1),
        Conv(96, 96, 3, 2),
      )

    def forward(self, x):
      return torch.cat(
        [
          self.branch3x3(x),
          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
          functional.max_pool2d(x, 3, 2),
        ],
        1,
      )

  class C(nn.Module):
    def __init__(self, width):
      super().__init__()
      flat, tall = {"size": (1, 7), "padding": (0, 3)}, {"size": (7, 1), "padding": (3, 0)}
      self.branch1x1 = Conv(768, 192, 1)
      self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = (
        Conv(768, width, 1),
        Conv(width, width, **flat),
        Conv(width, 192, **tall),
      )
      self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3 = (
        Conv(768, width, 1),
        Conv(width, width, **tall),
        Conv(width, width, **flat),
      )
      self.branch7x7dbl_4, self.branch7x7dbl_5 = Conv(width, width, **tall), Conv(width, 192, **flat)
      self.branch_pool = Conv(768, 192, 1)

    def forward(self, x):
      once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
      twice = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))))
      return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(mean_pool(x))], 1)

  class D(nn.Module):
    def __init__(self):
      super().__init__()
      self.branch3x3_1, self.branch3x3_2 = Conv(768, 192, 1), Conv(192, 320, 3, 2)
      self.branch7x7x3_1, self.branch7x7x3_2 = Conv(768, 192, 1), Conv(192, 192, (1, 7), padding=(0, 3))
      self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1), padding=(3, 0)), Conv(192, 192, 3, 2)

    def forward(self, x):
      return torch.cat(
        [
          self.branch3x3_2(self.branch3x3_1(x)),
          self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))),
          functional.max_pool2d(x, 3, 2),
        ],
        1,
      )

  class E(nn.Module):
    def __init__(self, inputs, pool):
      super().__init__()
      flat, tall = {"size": (1, 3), "padding": (0, 1)}, {"size": (3, 1), "padding": (1, 0)}
      self.branch1x1 = Conv(inputs, 320, 1)
      self.branch3x3_1, self.branch3x3_2a, self.branch3x3_2b = (
        Conv(inputs, 384, 1),
        Conv(384, 384, **flat),
        Conv(384, 384, **tall),
      )
      self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448, 1), Conv(448, 384, 3, padding=1)
      self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, **flat), Conv(384, 384, **tall)
      self.branch_pool, self.pool = Conv(inputs, 192, 1), pool

    def forward(self, x):
      once, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
      return torch.cat(
        [
          self.branch1x1(x),
          self.branch3x3_2a(once),
          self.branch3x3_2b(once),
          self.branch3x3dbl_3a(twice),
          self.branch3x3dbl_3b(twice),
          self.branch_pool(self.pool(x)),
        ],
        1,
      )

  class Inception(nn.Module):
    def __init__(self):
      super().__init__()
      self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = (
        Conv(3, 32, 3, 2),
        Conv(32, 32, 3),
        Conv(32, 64, 3, padding=1),
      )
      self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3)
      self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a = A(192, 32), A(256, 64), A(288, 64), B(288)
      self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(128), C(160), C(160), C(192)
      self.Mixed_7a, self.Mixed_7b = D(), E(1280, mean_pool)
      self.Mixed_7c = E(2048, lambda x: functional.max_pool2d(x, 3, 1, 1))
      self.fc = nn.Linear(2048, 1008)

    def forward(self, images):
      """uint8 (N, 3, H, W) → (N, 2048)."""
      x = 2 * functional.interpolate(images / 255.0, (299, 299), mode="bilinear", align_corners=False) - 1
      x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
      x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
      x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, 2)))))
      x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))))
      return self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))

  return Inception().eval()


def random_weights():
  """A state dict like pytorch-fid's. Each key seeds its own array, with a generator that is the same in every NumPy."""

  def draw(key, shape, scale, offset=0.0):
    random = np.random.RandomState(np.frombuffer(key.encode(), np.uint8).astype(np.uint32))
    return np.float32(offset + scale * random.uniform(-1, 1, shape))

  weights = {}
  layers = jax.eval_shape(distances.Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))[
    "params"
  ]  # names and shapes
  for name, layer in layers.items():
    height, width, inputs, outputs = layer["kernel"].shape
    weights[f"{name}.conv.weight"] = draw(
      f"{name}.conv", (outputs, inputs, height, width), (6 / (height * width * inputs)) ** 0.5
    )
    for part, scale, offset in (
      ("weight", 0.3, 1),
      ("bias", 0.3, 0),
      ("running_mean", 0.3, 0),
      ("running_var", 0.5, 1),
    ):
      weights[f"{name}.bn.{part}"] = draw(f"{name}.{part}", (outputs,), scale, offset)
  return weights


@pytest.fixture(scope="module")
def weights():
  return random_weights()


@pytest.fixture(scope="module")
def images():
  """Two images, wider than high and smaller than 299."""
  return np.random.RandomState(0).randint(0, 256, (2, 40, 56, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def extractor(weights):
  return distances.Extractor(distances.convert(weights))


@pytest.fixture(scope="module")
def features(extractor, images):
  return extractor(images)


def test_a_smaller_batch_compiles_nothing_and_keeps_its_features(extractor, images, features):
  before = extractor._apply._cache_size()
  one = extractor(images[1:])
  assert one.shape == (1, 2048) and extractor._apply._cache_size() == before == 1
  np.testing.assert_allclose(one, features[1:], rtol=1e-5, atol=1e-5)


@needs_torch
def test_features_match_pytorch(weights, images, features):
  network = torch_inception()
  tensors = {key: torch.from_numpy(array) for key, array in weights.items()}
  missing = network.load_state_dict(tensors, strict=False)
  assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys
  with torch.no_grad():
    expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
  assert expected.shape == features.shape == (2, 2048) and 0.1 < expected.std()
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_features_have_golden_values(features):
  """Computed with the PyTorch network above."""
  golden = [
    [16.833832, 0.14293446, 0.2247975, 10.010321, 0.60988867, 6.6191225, 8.2022276, 5.1455088],
    [16.559273, 0.20250042, 0.21439473, 9.961237, 0.56711107, 6.4255533, 8.0246716, 5.1835284],
  ]
  np.testing.assert_allclose(features[:, [5, 150, 800, 1000, 1250, 1500, 1700, 1900]], golden, rtol=2e-4)
  np.testing.assert_allclose(features.mean(1), [2.9219975, 2.9056876], rtol=1e-4)


def test_features_do_not_depend_on_the_rest_of_the_batch(extractor, images, features):
  np.testing.assert_allclose(extractor(images[::-1]), features[::-1], rtol=1e-5, atol=1e-5)


def test_classifier_and_counters_are_ignored(weights):
  more = {
    "fc.weight": np.zeros((1008, 2048)),
    "fc.bias": np.zeros(1008),
    "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(()),
  }
  jax.tree.map(np.testing.assert_array_equal, distances.convert(weights | more), distances.convert(weights))


@pytest.mark.parametrize(
  "change, message",
  [
    (
      lambda w: {key: array for key, array in w.items() if not key.startswith("Mixed_7c.branch_pool")},
      "missing: Mixed_7c.branch_pool.bn.bias, .* and 2 more",
    ),
    (lambda w: w | {"AuxLogits.fc.bias": np.zeros(1000)}, "unexpected: AuxLogits.fc.bias"),
    (
      lambda w: w | {"fc.weight": np.zeros((1000, 2048))},
      r"misshaped: fc.weight \(1000, 2048\) \(not \(1008, 2048\)\)",
    ),
    (
      lambda w: w | {"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 191, 1, 1))},
      "misshaped: Mixed_5b.branch1x1.conv.weight",
    ),
  ],
)
def test_other_weights_are_refused(weights, change, message):
  with pytest.raises(UsageError, match=message):
    distances.convert(change(weights))


def test_weights_are_loaded_without_pytorch(weights, images, features, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "torch", None)
  write_weights(tmp_path / "weights.safetensors", weights)
  np.testing.assert_array_equal(distances.Extractor.load(tmp_path / "weights.safetensors")(images), features)


def write_weights(path, arrays):
  """A .safetensors file of float32 arrays."""
  header, place = {}, 0
  for key, array in arrays.items():
    header[key] = {"dtype": "F32", "shape": array.shape, "data_offsets": (place, place + 4 * array.size)}
    place += 4 * array.size
  text = json.dumps(header).encode()
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays.values():
      file.write(array.astype("<f4").tobytes())


def test_a_damaged_file_is_explained(tmp_path):
  (tmp_path / "weights.pth").write_bytes(b"not weights")
  with pytest.raises(
    UsageError, match="weights.pth cannot be read.*Give pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
  ):
    distances.Extractor.load(tmp_path / "weights.pth")


@pytest.mark.parametrize("shape", [(40, 56), (299, 299), (400, 310)])
def test_resizing_is_bilinear_between_pixel_centres(shape):
  images = np.random.default_rng(0).uniform(size=(1, *shape, 3)).astype(np.float32)
  resized = np.asarray(distances.resize(jnp.asarray(images)))
  if torch:
    expected = functional.interpolate(
      torch.from_numpy(images).permute(0, 3, 1, 2), (299, 299), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resized, expected.permute(0, 2, 3, 1), atol=1e-5)
  for row, column in itertools.product((0, 1, 150, 298), (0, 77, 298)):
    y, x = (
      np.clip((place + 0.5) * size / 299 - 0.5, 0, size - 1) for place, size in ((row, shape[0]), (column, shape[1]))
    )
    top, left = int(y), int(x)
    bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
    above, below = (
      (1 - x + left) * line[left] + (x - left) * line[right] for line in (images[0, top], images[0, bottom])
    )
    np.testing.assert_allclose(resized[0, row, column], (1 - y + top) * above + (y - top) * below, atol=1e-5)


# --- The distances ----------------------------------------------------------------------------------------------------


def gaussian(count, mean, root, seed):
  """Features whose mean is exactly `mean` and whose covariance is exactly `root` rootᵀ."""
  white = np.random.default_rng(seed).standard_normal((count, len(mean)))
  white -= white.mean(0)
  white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
  return mean + white @ root.T


def test_fid_of_independent_features_has_a_closed_form():
  rng = np.random.default_rng(0)
  means, deviations = rng.standard_normal((2, 12)), rng.uniform(0.1, 3, (2, 12))
  a, b = (gaussian(200 + 50 * i, means[i], np.diag(deviations[i]), i) for i in range(2))
  expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
  np.testing.assert_allclose(distances.fid(a, b), expected, rtol=1e-10)
  np.testing.assert_allclose(distances.fid(b, a), expected, rtol=1e-10)


def test_fid_of_two_correlated_features_has_a_closed_form():
  roots = np.array([[[2.0, 0.0], [1.0, 0.5]], [[0.3, 0.0], [-0.7, 1.0]]])
  a, b = (gaussian(90, np.zeros(2), root, i) for i, root in enumerate(roots))
  covariances = roots @ roots.transpose(0, 2, 1)
  product = covariances[0] @ covariances[1]
  root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))  # of any 2×2 matrix
  np.testing.assert_allclose(distances.fid(a, b), np.trace(covariances.sum(0)) - 2 * root_trace, rtol=1e-10)


def test_fid_matches_the_matrix_square_root():
  from scipy import linalg

  rng = np.random.default_rng(1)
  a, b = (rng.standard_normal((300, 40)) @ rng.standard_normal((40, 40)) + i for i in range(2))
  root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
  expected = (
    np.square(a.mean(0) - b.mean(0)).sum()
    + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False))
    - 2 * np.trace(root.real)
  )
  np.testing.assert_allclose(distances.fid(a, b), expected, rtol=1e-8)


def test_fid_of_fewer_images_than_features_is_finite_and_exact():
  """Constant features add zero rows to the covariance and nothing to the distance."""
  rng = np.random.default_rng(2)
  few = [rng.standard_normal((count, 3)) for count in (5, 7)]
  many = [np.concatenate([features, np.ones((len(features), 60))], 1) for features in few]
  rotation = np.linalg.qr(rng.standard_normal((63, 63)))[0]
  np.testing.assert_allclose(distances.fid(*(features @ rotation for features in many)), distances.fid(*few), rtol=1e-9)
  assert abs(distances.fid(many[0], many[0])) < 1e-12


def test_fid_is_larger_for_fewer_images():
  rng = np.random.default_rng(3)
  a, b = rng.standard_normal((2, 2000, 20))
  assert distances.fid(a[:40], b[:40]) > 5 * distances.fid(a, b) > 0


def loops_of_kid(a, b):
  kernel = lambda x, y: (float(sum(p * q for p, q in zip(x, y))) / len(x) + 1) ** 3
  within = sum(
    sum(kernel(x, y) for i, x in enumerate(c) for j, y in enumerate(c) if i != j) / (len(c) * (len(c) - 1))
    for c in (a, b)
  )
  return within - 2 * sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))


def test_kid_against_loops():
  rng = np.random.default_rng(4)
  a, b = rng.standard_normal((9, 5)), 0.5 + rng.standard_normal((9, 5))
  mean, deviation = distances.kid(a, b)
  np.testing.assert_allclose(mean, loops_of_kid(a, b), rtol=1e-12)
  assert np.isnan(deviation), "the whole set is the only subset of its size"


def test_kid_averages_over_random_subsets():
  rng = np.random.default_rng(5)
  a, b = rng.standard_normal((4, 3)), 0.5 + rng.standard_normal((5, 3))
  pairs = itertools.product(itertools.combinations(range(4), 3), itertools.combinations(range(5), 3))
  every = [loops_of_kid(a[list(rows)], b[list(others)]) for rows, others in pairs]
  mean, deviation = distances.kid(a, b, subset_size=3, subsets=4000)
  np.testing.assert_allclose(mean, np.mean(every), atol=4 * np.std(every) / 4000**0.5)
  np.testing.assert_allclose(deviation, np.std(every), rtol=0.1)
  assert (
    distances.kid(a, b, subset_size=3, seed=1)
    == distances.kid(a, b, subset_size=3, seed=1)
    != distances.kid(a, b, subset_size=3, seed=2)
  )


def test_kid_is_unbiased():
  values = [distances.kid(*np.random.default_rng(seed).standard_normal((2, 6, 4)))[0] for seed in range(2000)]
  assert abs(np.mean(values)) < 4 * np.std(values) / 2000**0.5 and min(values) < 0


@pytest.mark.parametrize("distance", [distances.fid, distances.kid])
def test_distances_need_two_images_and_equal_dimensions(distance):
  for a, b in ((np.zeros((1, 4)), np.zeros((3, 4))), (np.zeros((3, 4)), np.zeros((3, 5))), (np.zeros(4), np.zeros(4))):
    with pytest.raises(ValueError, match="at least two images each"):
      distance(a, b)


def test_a_comparison_collects_batches_of_different_sizes():
  rows = np.random.default_rng(6).standard_normal((2, 8, 4))
  comparison = distances.Comparison(lambda images: images)
  for start, end in ((0, 5), (5, 8)):
    comparison.add(*rows[:, start:end])
  np.testing.assert_allclose(comparison.distances()["fid"], distances.fid(*rows))
  np.testing.assert_allclose(comparison.distances()["kid"], distances.kid(*rows)[0])


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A workdir of untrained networks for built-in façades."""
  from pix2pix_jax.data import prepare

  folder = tmp_path_factory.mktemp("untrained")
  config = procedural.get_config()
  config.update_from_flattened_dict(
    {
      "data.load_size": 32,
      "data.crop_size": 32,
      "data.num_train": 4,
      "data.num_val": 3,
      "data.num_test": 1,
      "model.base_features": 2,
      "model.levels": 3,
      "model.patch": 16,
      "evaluation.batch_size": 2,
      "evaluation.dropout": False,
    }
  )
  spec = prepare.prepare(config.data).spec
  config = config_lib.resolve(config, spec)
  config_lib.write(folder, config)
  with checkpoint.Checkpointer(folder) as checkpointer:
    checkpointer.save(1, Experiment(config, spec).init().replace(step=jnp.int32(1)))
  return folder


def summary(workdir, *flags):
  evaluate.main([f"--workdir={workdir}", *flags])
  return json.loads((workdir / "eval/val/metrics.json").read_text())


def test_the_evaluate_command_measures_fid_and_kid(workdir, weights, tmp_path, capsys, monkeypatch):
  from pix2pix_jax import Translator
  from pix2pix_jax.data import pipeline, prepare

  write_weights(tmp_path / "weights.safetensors", weights)
  seen, call = [], distances.Extractor.__call__
  monkeypatch.setattr(
    distances.Extractor, "__call__", lambda self, images: seen.append((images, call(self, images))) or seen[-1][1]
  )
  written = summary(workdir, f"--inception={tmp_path / 'weights.safetensors'}", "--baseline=none")
  # Two batches, of two images and one; for each the translations, then the targets.
  translator = Translator.load(workdir)
  split = pipeline.load_split(prepare.prepare(translator.config.data), "val", (32, 32), cache_gib=1)
  for i, expected in enumerate((translator(split.arrays["input"]), split.arrays["target"])):
    images = np.concatenate([seen[i][0], seen[2 + i][0]])
    assert images.dtype == np.uint8 and np.abs(images.astype(int) - expected).max() <= 1 - i
  features = [np.concatenate([seen[i][1], seen[2 + i][1]]) for i in range(2)]
  np.testing.assert_allclose(written["metrics"]["fid"], distances.fid(*features), rtol=1e-9)
  np.testing.assert_allclose(written["metrics"]["kid"], loops_of_kid(*features), rtol=1e-6)
  assert written["count"] == 3 and written["protocol"]["fid"].startswith("3 translations against 3 targets")
  assert not written["baselines"] and "kid_std" not in written["metrics"]
  said = capsys.readouterr().out
  assert "fid " in said and "fid is biased for few images" in said


def test_without_weights_there_is_no_fid_but_the_reason(workdir):
  written = summary(workdir)
  assert "fid" not in written["metrics"] and written["protocol"]["fid"] == "not computed: no --inception weights given"
  assert written["baselines"].keys() == {"mean_target"}


@pytest.mark.parametrize(
  "flags, names",
  [
    (["--baseline=none", "--norm_stats=running"], set()),
    (["--baseline=mean_target"], {"mean_target"}),
    (["--baseline=all", "--baseline=mean_target"], {"mean_target"}),
  ],
)
def test_baselines_can_be_chosen(workdir, flags, names):
  evaluate.main([f"--workdir={workdir}", *flags])
  folder = "val@norm_stats=running" if "--norm_stats=running" in flags else "val"
  assert json.loads((workdir / "eval" / folder / "metrics.json").read_text())["baselines"].keys() == names


def test_baselines_of_an_earlier_evaluation_remain(workdir):
  before = summary(workdir, "--baseline=all")["baselines"]
  assert before and summary(workdir, "--baseline=none")["baselines"] == before


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--baseline=nearest_valid"], "--baseline=nearest_valid: unknown baseline; choose mean_target, all or none"),
    (["--baseline=mean_target,none"], "'none' excludes all others"),
    (["--baseline="], "choose mean_target, all or none"),
    (["--inception=nowhere.pth"], "nowhere.pth cannot be read"),
  ],
)
def test_wrong_flags_are_explained(workdir, flags, message):
  with pytest.raises(UsageError, match=message):
    evaluate.main([f"--workdir={workdir}", *flags])


def test_depth_has_no_fid_but_more_baselines():
  spec = DataSpec(Depth(), Depth(), counts={})
  assert not evaluate.has_distances(spec.target) and evaluate.has_distances(Image())
  assert baselines.choose(["interpolated,nearest_valid"], spec) == ("nearest_valid", "interpolated")
  assert baselines.choose(["all"], spec) == ("mean_target", "nearest_valid", "interpolated")
  with pytest.raises(UsageError, match="choose mean_target, nearest_valid, interpolated, all or none"):
    baselines.choose(["nearest", "mean_target"], spec)
