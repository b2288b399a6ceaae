"""The generator as an ONNX graph, written node by node from its parameters; needs the package onnx.

Unlike `export`, the graph accepts any height and width that are multiples of the network's, and the noise is an input:
a mask for each block with dropout, which is 0 or 2, or 1 everywhere without dropout. Images are encoded, NCHW.

Kernels can be stored as float16, or as int8 with a scale for each output channel (`rounding`); the computation is in
float32 all the same.
"""

from typing import Any, NamedTuple

import ml_collections
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import networks
from pix2pix_jax.model.resnet import ResNet
from pix2pix_jax.serving import rounding

OPSET = 17
EPSILON = 1e-5  # of layers.Norm


class Mask(NamedTuple):
  """An input for the noise of a block: (1, channels, height · size // multiple, width · size // multiple)."""

  name: str
  channels: int
  size: int


class _Graph:
  """Nodes, weights and inputs so far."""

  def __init__(self, model: ml_collections.ConfigDict, variables: dict[str, Any], norm_stats: str, weights: str):
    self.model, self.norm_stats, self.form = model, norm_stats, weights
    self.params, self.stats = variables["params"], variables.get("batch_stats", {})
    self.nodes: list[Any] = []
    self.weights: list[Any] = []
    self.masks: list[Mask] = []

  def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node and returns the name of its output."""
    name = f"{kind}_{len(self.nodes)}"
    self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
    return name

  def weight(self, array: Any, dtype: Any = np.float32) -> str:
    name = f"weight_{len(self.weights)}"
    self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
    return name

  def kernel(self, kernel: np.ndarray, axes: tuple[int, ...]) -> str:
    """A kernel (height, width, inputs, outputs), stored with its axes in that order."""
    if self.form == "float16":
      return self.add("Cast", self.weight(kernel.transpose(axes), np.float16), to=TensorProto.FLOAT)
    if self.form == "int8":
      integers, scales = rounding.to_int8(kernel)
      inputs = self.weight(integers.transpose(axes), np.int8), self.weight(scales)
      return self.add("DequantizeLinear", *inputs, axis=axes.index(3))
    return self.weight(kernel.transpose(axes))

  def conv(self, x: str, params: dict[str, Any], *, stride: int = 2, pad: int = 1, transpose: bool = False) -> str:
    """`layers.Conv`: kernels are (height, width, inputs, outputs) there, and outputs or inputs first here."""
    kernel = np.asarray(params["kernel"])
    resize = transpose and self.model.upsample == "resize"
    if resize:
      nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
      x = self.add("Resize", x, "", self.weight([1, 1, 2, 2]), **nearest)
      stride, transpose = 1, False
    inputs = [x, self.kernel(kernel, (2, 3, 0, 1) if transpose else (3, 2, 0, 1))]
    if "bias" in params:
      inputs.append(self.weight(params["bias"]))
    if not transpose:
      return self.add("Conv", *inputs, strides=[stride] * 2, pads=[pad] * 4)
    end = 1 if len(kernel) == 4 else 0  # so that a kernel of 3 doubles the sides, too
    return self.add("ConvTranspose", *inputs, strides=[2, 2], pads=[1, 1, end, end])

  def norm(self, x: str, channels: int, *path: str) -> str:
    """`layers.Norm` of a single image, for which the statistics of the batch are its own."""
    if self.model.norm == "none":
      return x
    params, stats = _at(self.params, path), _at(self.stats, path)
    scale, bias = params.get("scale", np.ones(channels)), params.get("bias", np.zeros(channels))
    inputs = [x, self.weight(scale), self.weight(bias)]
    if self.model.norm == "batch" and self.norm_stats == "running":
      inputs += [self.weight(stats["mean"]), self.weight(stats["var"])]
      return self.add("BatchNormalization", *inputs, epsilon=EPSILON)
    return self.add("InstanceNormalization", *inputs, epsilon=EPSILON)

  def drop(self, x: str, channels: int, size: int) -> str:
    mask = Mask(f"mask_{len(self.masks)}", channels, size)
    self.masks.append(mask)
    return self.add("Mul", x, mask.name)

  def reflect(self, x: str, width: int) -> str:
    return self.add("Pad", x, self.weight([0, 0, width, width] * 2, np.int64), mode="reflect")


def _at(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
  for name in path:
    tree = tree.get(name, {})
  return tree


def _unet(graph: _Graph, generator: networks.Generator) -> str:
  """`networks.Generator`, in its order."""
  levels, params = generator.levels, graph.params
  report, skips = generator.decoder_widths == "report", generator.generator == "unet"
  x, encoded = "x", []
  for level in range(levels):
    name = f"down_{level}"
    if level:
      x = graph.add("LeakyRelu", x, alpha=0.2)
    x = graph.conv(x, params[name]["conv"])
    if 0 < level < levels - 1:
      x = graph.norm(x, generator.encoder_width(level), name, "norm")
    encoded.append(x)
  for block in range(levels if report else levels - 1):
    name, width = f"up_{block}", generator.decoder_width(block)
    if skips and block:
      x = graph.add("Concat", x, encoded[levels - 1 - block], axis=1)
    x = graph.conv(graph.add("Relu", x), params[name]["conv"], transpose=True)
    x = graph.norm(x, width, name, "norm")
    if block in generator.dropout_blocks:
      x = graph.drop(x, width, 2 ** (block + 1))
  if skips and not report:
    x = graph.add("Concat", x, encoded[0], axis=1)
  x = graph.add("Relu", x)
  output = graph.params["output"]
  return graph.conv(x, output, stride=1) if report else graph.conv(x, output, transpose=True)


def _resnet(graph: _Graph, generator: ResNet) -> str:
  """`resnet.ResNet`, in its order."""
  quarter = 2**graph.model.levels // 4  # the size of its blocks, relative to `Translator.multiple`
  params, features = graph.params, generator.base_features
  normed = lambda x, name: graph.add("Relu", graph.norm(x, features, name))
  x = normed(graph.conv(graph.reflect("x", 3), params["input_conv"], stride=1, pad=0), "input_norm")
  for i in range(2):
    features *= 2
    x = normed(graph.conv(x, params[f"down_{i}_conv"]), f"down_{i}_norm")
  for block in range(generator.num_blocks):
    name, y = f"block_{block}", x
    for i in range(2):
      y = graph.conv(graph.reflect(y, 1), params[name][f"conv_{i}"], stride=1, pad=0)
      y = graph.norm(y, features, name, f"norm_{i}")
      if i == 0:
        y = graph.add("Relu", y)
        y = graph.drop(y, features, quarter) if block in generator.dropout_blocks else y
    x = graph.add("Add", x, y)
  for i in range(2):
    features //= 2
    x = normed(graph.conv(x, params[f"up_{i}_conv"], transpose=True), f"up_{i}_norm")
  return graph.conv(graph.reflect(x, 3), params["output"], stride=1, pad=0)


def make(
  config: ml_collections.ConfigDict, variables: dict[str, Any], weights: str = "float32"
) -> tuple[bytes, list[Mask]]:
  """The file of a generator, and the masks that it expects beside its input `x`; the output is `y`.

  Args:
    config: a resolved configuration.
    variables: the generator's `params` and `batch_stats`.
    weights: how kernels are stored, one of `rounding.WEIGHTS`.

  Raises:
    UsageError: `model.residual`, whose interpolation has no counterpart in ONNX.
  """
  if config.model.residual:
    raise UsageError(
      "A model with model.residual interpolates depth, for which ONNX has no operation; serve it instead."
    )
  generator, _ = networks.make_networks(config.model)
  graph = _Graph(config.model, variables, config.evaluation.norm_stats, weights)
  last = _resnet(graph, generator) if isinstance(generator, ResNet) else _unet(graph, generator)
  graph.nodes.append(helper.make_node("Tanh", [last], ["y"], name="y"))
  image = lambda name, channels: helper.make_tensor_value_info(
    name, TensorProto.FLOAT, [1, channels, f"{name}_height", f"{name}_width"]
  )
  inputs = [image("x", config.model.input_channels), *(image(mask.name, mask.channels) for mask in graph.masks)]
  outputs = [image("y", config.model.output_channels)]
  made = helper.make_model(
    helper.make_graph(graph.nodes, "generator", inputs, outputs, graph.weights),
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=8,
    producer_name="pix2pix_jax",
  )
  onnx.checker.check_model(made)
  return made.SerializeToString(), graph.masks
