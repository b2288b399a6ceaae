"""FID and KID: distances between two sets of images in the feature space of Inception-v3.

FID: Heusel et al. 2017 (arXiv 1706.08500), the Fréchet distance between two Gaussians with the features' means and
covariances. KID: Bińkowski et al. 2018 (arXiv 1801.01401), the squared maximum mean discrepancy with a cubic kernel.
Both are 0 for equal distributions.

FID is biased: the fewer images there are, the more it is overestimated, because the covariance of 2048 features needs
thousands of images. Only compare FIDs computed from equally many images. KID is unbiased and can be negative.

Both papers use the same network, TensorFlow's graph of 2015-12-05. Here it has the weights that pytorch-fid converted
(https://github.com/mseitzer/pytorch-fid, `pt_inception-2015-12-05-6726825d.pth`) and pytorch-fid's resizing to
299×299, so results match those of pytorch-fid. Other Inception weights give other values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax import torch_weights
from pix2pix_jax.errors import UsageError, few

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
FEATURES = 2048
SIDE = 299
BATCH_NORM_EPSILON = 1e-3
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000

# The graph. A chain is a list of steps: a convolution (name, features, size, stride, padding) followed by batch norm
# and ReLU, a pooling, or a fork, which is a list of chains whose results are concatenated. Names are those in the
# weights file.
POOLINGS = {
  "average": lambda x: nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False),
  "maximum": lambda x: nn.max_pool(x, (3, 3), padding="SAME"),
  "halve": lambda x: nn.max_pool(x, (3, 3), (2, 2)),
}
STEM = [
  ("Conv2d_1a_3x3", 32, 3, 2),
  ("Conv2d_2a_3x3", 32, 3, 1, "VALID"),
  ("Conv2d_2b_3x3", 64, 3),
  "halve",
  ("Conv2d_3b_1x1", 80, 1),
  ("Conv2d_4a_3x3", 192, 3, 1, "VALID"),
  "halve",
]


def _block_35(pooled: int):
  return [
    [("branch1x1", 64, 1)],
    [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ["average", ("branch_pool", pooled, 1)],
  ]


def _block_17(width: int):
  return [
    [("branch1x1", 192, 1)],
    [("branch7x7_1", width, 1), ("branch7x7_2", width, (1, 7)), ("branch7x7_3", 192, (7, 1))],
    [
      ("branch7x7dbl_1", width, 1),
      ("branch7x7dbl_2", width, (7, 1)),
      ("branch7x7dbl_3", width, (1, 7)),
      ("branch7x7dbl_4", width, (7, 1)),
      ("branch7x7dbl_5", 192, (1, 7)),
    ],
    ["average", ("branch_pool", 192, 1)],
  ]


def _block_8(pooling: str):
  return [
    [("branch1x1", 320, 1)],
    [("branch3x3_1", 384, 1), [[("branch3x3_2a", 384, (1, 3))], [("branch3x3_2b", 384, (3, 1))]]],
    [
      ("branch3x3dbl_1", 448, 1),
      ("branch3x3dbl_2", 384, 3),
      [[("branch3x3dbl_3a", 384, (1, 3))], [("branch3x3dbl_3b", 384, (3, 1))]],
    ],
    [pooling, ("branch_pool", 192, 1)],
  ]


BLOCKS = {  # at 35×35, 17×17 and 8×8 pixels
  "Mixed_5b": _block_35(32),
  "Mixed_5c": _block_35(64),
  "Mixed_5d": _block_35(64),
  "Mixed_6a": [
    [("branch3x3", 384, 3, 2)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
    ["halve"],
  ],
  "Mixed_6b": _block_17(128),
  "Mixed_6c": _block_17(160),
  "Mixed_6d": _block_17(160),
  "Mixed_6e": _block_17(192),
  "Mixed_7a": [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
    [
      ("branch7x7x3_1", 192, 1),
      ("branch7x7x3_2", 192, (1, 7)),
      ("branch7x7x3_3", 192, (7, 1)),
      ("branch7x7x3_4", 192, 3, 2),
    ],
    ["halve"],
  ],
  "Mixed_7b": _block_8("average"),
  "Mixed_7c": _block_8("maximum"),  # maximum pooling was an oversight in 2015, but FID is defined with it
}


class Inception(nn.Module):
  """(N, 299, 299, 3) in [-1, 1] → (N, 2048), the output of the last pooling. Kernels and biases include batch norm."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = self._run(STEM, "", x)
    for name, fork in BLOCKS.items():
      x = self._run([fork], f"{name}.", x)
    return x.mean((1, 2))

  def _run(self, chain, prefix: str, x: jax.Array) -> jax.Array:
    for step in chain:
      if isinstance(step, str):
        x = POOLINGS[step](x)
      elif isinstance(step, list):
        x = jnp.concatenate([self._run(branch, prefix, x) for branch in step], -1)
      else:
        x = nn.relu(self._conv(prefix, *step)(x))
    return x

  def _conv(
    self, prefix: str, name: str, features: int, size: int | tuple[int, int], stride: int = 1, padding: str = "SAME"
  ) -> nn.Conv:
    size = (size, size) if isinstance(size, int) else size
    # Full float32 on every device, so that results are comparable.
    return nn.Conv(
      features,
      size,
      stride,
      padding if stride == 1 else "VALID",
      precision=jax.lax.Precision.HIGHEST,
      name=prefix + name,
    )


@jax.jit
def resize(images: jax.Array) -> jax.Array:
  """(N, H, W, C) → (N, 299, 299, C) as pytorch-fid does: bilinear between pixel centres, without anti-aliasing."""
  return jax.image.resize(images, (len(images), SIDE, SIDE, images.shape[-1]), "bilinear", antialias=False)


class Extractor:
  """Computes the features of images.

  The network is compiled for the largest batch so far; smaller ones, such as the last of a split, are padded to that
  size. The resizing is compiled once per image size.
  """

  def __init__(self, params: Mapping[str, Any]):
    self._params = jax.device_put(params)
    self._batch_size = 0
    self._apply = jax.jit(lambda params, images: Inception().apply({"params": params}, 2 * images - 1))

  @classmethod
  def load(cls, path: Path) -> "Extractor":
    """Reads pytorch-fid's weights.

    Raises:
      UsageError: the file is missing, damaged, or holds another network.
    """
    return cls(convert(torch_weights.read_state_dict(path, expected=f"pytorch-fid's {WEIGHTS}")))

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) → float32 (N, 2048)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
      raise ValueError(f"Expected uint8 (N, H, W, 3), got {images.dtype} {images.shape}.")
    count = len(images)
    self._batch_size = max(self._batch_size, count)
    filled = np.concatenate([images, np.zeros((self._batch_size - count, *images.shape[1:]), np.uint8)])
    return np.asarray(self._apply(self._params, resize(filled / np.float32(255))))[:count]


def convert(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The parameters of `Inception` from pytorch-fid's state dict, with batch norm folded into kernels and biases.

  The classifier `fc.*` and `num_batches_tracked` are ignored.

  Raises:
    UsageError: the keys or shapes belong to another network.
  """
  layers = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
  shapes: dict[str, tuple[int, ...]] = {}
  classifier = {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}
  for name, layer in layers.items():
    height, width, inputs, outputs = layer["kernel"].shape
    shapes[f"{name}.conv.weight"] = outputs, inputs, height, width
    shapes |= {f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
  found = {key: array for key, array in state_dict.items() if not key.endswith(".num_batches_tracked")}
  problems = {
    "missing": shapes.keys() - found.keys(),
    "unexpected": found.keys() - shapes.keys() - classifier.keys(),
    "misshaped": [
      f"{key} {found[key].shape} (not {shape})"
      for key, shape in (shapes | classifier).items()
      if key in found and found[key].shape != shape
    ],
  }
  if any(problems.values()):
    listed = "; ".join(f"{what}: {few(sorted(keys))}" for what, keys in problems.items() if keys)
    raise UsageError(
      f"These weights do not belong to the Inception-v3 that defines FID: {listed}. Give pytorch-fid's {WEIGHTS}; "
      "torchvision's and other weights give different values."
    )
  params = {}
  for name in layers:
    weight, scale, bias, mean, var = (
      np.asarray(found[f"{name}.{part}"], np.float64)
      for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    factor = scale / np.sqrt(var + BATCH_NORM_EPSILON)
    params[name] = {
      "kernel": np.float32(weight.transpose(2, 3, 1, 0) * factor),
      "bias": np.float32(bias - mean * factor),
    }
  return params


def fid(a: np.ndarray, b: np.ndarray) -> float:
  """The Fréchet distance between two sets of features (n, d) and (m, d), n and m ≥ 2, computed in float64.

  |μa − μb|² + tr Σa + tr Σb − 2 tr (Σa Σb)^½, with covariances over n − 1. The last trace equals the sum of the
  singular values of Ra Rbᵀ, where Σ = RᵀR. Singular covariances (fewer images than features) therefore need no ε on
  the diagonal.
  """
  _check(a, b)
  means, roots = [], []
  for features in (a, b):
    features = np.asarray(features, np.float64)
    means.append(features.mean(0))
    roots.append(np.linalg.qr(features - means[-1], mode="r") / np.sqrt(len(features) - 1))
  distance = np.square(means[0] - means[1]).sum() + sum(np.square(root).sum() for root in roots)
  return float(distance - 2 * np.linalg.norm(roots[0] @ roots[1].T, "nuc"))


def kid(
  a: np.ndarray, b: np.ndarray, *, subsets: int = KID_SUBSETS, subset_size: int = KID_SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
  """The unbiased squared MMD between two sets of features (n, d) and (m, d) with the kernel (x·y / d + 1)³.

  Returns:
    Mean and standard deviation over `subsets` pairs of random subsets, each of `subset_size` features or of the size
    of the smaller set. If a subset would be all of both sets, there is only one pair, and the deviation is NaN.
  """
  _check(a, b)
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  size = min(subset_size, len(a), len(b))
  if size == len(a) == len(b):
    return _squared_mmd(a, b), float("nan")
  rng = np.random.default_rng(seed)
  values = [
    _squared_mmd(*(features[rng.choice(len(features), size, replace=False)] for features in (a, b)))
    for _ in range(subsets)
  ]
  return float(np.mean(values)), float(np.std(values))


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
  count, dimensions = a.shape
  within = 0.0
  for features in (a, b):
    kernel = (features @ features.T / dimensions + 1) ** 3
    within += (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
  return float(within - 2 * ((a @ b.T / dimensions + 1) ** 3).mean())


def _check(a: np.ndarray, b: np.ndarray) -> None:
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
    raise ValueError(f"Expected features (n, d) and (m, d) of at least two images each, got {a.shape} and {b.shape}.")


class Comparison:
  """Collects the features of outputs and targets, batch by batch."""

  def __init__(self, extractor: Extractor):
    self._extract = extractor
    self._outputs: list[np.ndarray] = []
    self._targets: list[np.ndarray] = []

  def add(self, outputs: np.ndarray, targets: np.ndarray) -> None:
    """uint8 (N, H, W, 3) each; N may differ from batch to batch."""
    self._outputs.append(self._extract(outputs))
    self._targets.append(self._extract(targets))

  def distances(self) -> dict[str, float]:
    """`fid`, `kid` and, for more than 1000 images, `kid_std`, the deviation over its subsets."""
    features = np.concatenate(self._outputs), np.concatenate(self._targets)
    mean, deviation = kid(*features)
    return {"fid": fid(*features), "kid": mean, **({"kid_std": deviation} if np.isfinite(deviation) else {})}
