"""Imported weights of pytorch-CycleGAN-and-pix2pix give the same outputs, and a workdir that can be trained further."""

import ast
import sys

import jax
import numpy as np
import pytest

from pix2pix_jax import Translator, UsageError, import_torch
from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import folder
from pix2pix_jax.model import networks as models
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Image

try:
  import torch
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


# --- The published networks, with the keys of their state dicts -------------------------------------------------------


def torch_norm(kind, channels):
  return torch.nn.InstanceNorm2d(channels) if kind == "instance" else torch.nn.BatchNorm2d(channels)


def torch_unet(levels, features, inputs=3, outputs=3, norm="batch"):
  """Blocks nested from the outside in; a block concatenates its input and its output, in this order."""
  nn = torch.nn

  class Block(nn.Module):
    def __init__(self, level):
      super().__init__()
      outer, inner = (features * min(2**i, 8) for i in (level - 1, level)) if level else (outputs, features)
      innermost = level == levels - 1
      bias = norm == "instance"
      down = nn.Conv2d(outer if level else inputs, inner, 4, 2, 1, bias=bias)
      up = nn.ConvTranspose2d(inner if innermost else 2 * inner, outer, 4, 2, 1, bias=bias or level == 0)
      within = [] if innermost else [Block(level + 1)]
      if level == 0:
        layers = [down, *within, nn.ReLU(), up, nn.Tanh()]
      else:
        downs = [nn.LeakyReLU(0.2), down] + ([] if innermost else [torch_norm(norm, inner)])
        layers = [*downs, *within, nn.ReLU(), up, torch_norm(norm, outer)]
      self.model, self.outermost = nn.Sequential(*layers), level == 0

    def forward(self, x):
      return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)

  return torch.nn.ModuleDict({"model": Block(0)})


def torch_resnet(blocks, features, inputs=3, outputs=3, norm="batch", dropout=False):
  """Reflection padding wherever the stride is 1; the keys count every layer of a Sequential."""
  nn, bias = torch.nn, norm == "instance"

  class Block(nn.Module):
    def __init__(self, width):
      super().__init__()

      def half():
        return [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), torch_norm(norm, width)]

      noise = [nn.Dropout(0.5)] if dropout else []
      self.conv_block = nn.Sequential(*half(), nn.ReLU(), *noise, *half())

    def forward(self, x):
      return x + self.conv_block(x)

  layers = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, features, 7, bias=bias), torch_norm(norm, features), nn.ReLU()]
  for width in (features, 2 * features):
    layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias), torch_norm(norm, 2 * width), nn.ReLU()]
  layers += [Block(4 * features) for _ in range(blocks)]
  for width in (2 * features, features):
    up = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1, bias=bias)
    layers += [up, torch_norm(norm, width), nn.ReLU()]
  layers += [nn.ReflectionPad2d(3), nn.Conv2d(features, outputs, 7), nn.Tanh()]
  return nn.ModuleDict({"model": nn.Sequential(*layers)})


def torch_discriminator(kind, features, inputs=6, norm="batch"):
  """`kind` is "pixel" or the number of layers."""
  nn, bias = torch.nn, norm == "instance"
  if kind == "pixel":
    return nn.ModuleDict(
      {
        "net": nn.Sequential(
          nn.Conv2d(inputs, features, 1),
          nn.LeakyReLU(0.2),
          nn.Conv2d(features, 2 * features, 1, bias=bias),
          torch_norm(norm, 2 * features),
          nn.LeakyReLU(0.2),
          nn.Conv2d(2 * features, 1, 1, bias=bias),
        )
      }
    )
  layers, width = [nn.Conv2d(inputs, features, 4, 2, 1), nn.LeakyReLU(0.2)], features
  for i in range(1, kind + 1):
    wider = features * min(2**i, 8)
    layers += [
      nn.Conv2d(width, wider, 4, 2 if i < kind else 1, 1, bias=bias),
      torch_norm(norm, wider),
      nn.LeakyReLU(0.2),
    ]
    width = wider
  return nn.ModuleDict({"model": nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))})


def randomised(module, seed=0):
  """Random weights that keep the signal's size through all layers, so that every weight shows in the output."""
  generator = torch.Generator().manual_seed(seed)
  for name, value in module.state_dict().items():
    if value.ndim == 4:
      taps = value.shape[1] * 4 if value.shape[2] == 4 else value[0].numel()
      value.normal_(0, min(taps, 200) ** -0.5, generator=generator)
    elif name.endswith(("running_var", "weight")):
      value.uniform_(0.5, 1.5, generator=generator)
    elif value.ndim:
      value.normal_(0, 0.3, generator=generator)
  return module


def arrays(module):
  return {key: value.numpy().copy() for key, value in module.state_dict().items()}


def forward(module, *images):
  """(N, H, W, C) through the module, one image at a time, as the published test does."""
  x = torch.from_numpy(np.concatenate(images, -1).transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    y = torch.cat([next(iter(module.values()))(row[None]) for row in x])
  return y.numpy().transpose(0, 2, 3, 1)


def networks(fields):
  config = folder.get_config()
  config.model.update({name: value for name, value in fields.items() if name in config.model})
  return models.make_networks(config.model)


def translate(network, x, norm_stats):
  generator, _ = networks(network.fields)
  return jax.jit(lambda v, x: generator.apply(v, x, dropout=False, norm_stats=norm_stats))(variables(network), x)


def variables(network):
  return {"params": network.params, "batch_stats": network.batch_stats}


def images(size, channels, count=1, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, channels)).astype(np.float32)


# --- Parity -----------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize(
  "levels, norm, inputs, outputs",
  [(8, "batch", 3, 3), (8, "instance", 1, 3), (7, "batch", 3, 1), (7, "instance", 3, 3)],
)
def test_unets_match_pytorch(levels, norm, inputs, outputs):
  module = randomised(torch_unet(levels, 4, inputs, outputs, norm))
  network = import_torch.convert_generator(arrays(module))
  assert network.fields == {
    "generator": "unet",
    "base_features": 4,
    "levels": levels,
    "norm": norm,
    "input_channels": inputs,
    "output_channels": outputs,
    "dropout_blocks": (1, 2, 3) if levels == 8 else (1, 2),
  }
  x = images(2**levels, inputs)
  eval_mode = forward(module.eval(), x)
  assert eval_mode.std() > 0.1
  np.testing.assert_allclose(translate(network, x, "running"), eval_mode, atol=1e-4, rtol=0)
  if norm == "batch":
    train_mode = forward(module.train(), x)
    assert np.abs(train_mode - eval_mode).max() > 0.1
    np.testing.assert_allclose(translate(network, x, "image"), train_mode, atol=1e-4, rtol=0)


@needs_torch
@pytest.mark.parametrize(
  "blocks, norm, dropout, inputs, outputs",
  [(9, "instance", True, 3, 3), (9, "batch", False, 1, 3), (6, "instance", False, 3, 1), (6, "batch", True, 3, 2)],
)
def test_resnets_match_pytorch(blocks, norm, dropout, inputs, outputs):
  module = randomised(torch_resnet(blocks, 4, inputs, outputs, norm, dropout))
  network = import_torch.convert_generator(arrays(module))
  assert network.fields == {
    "generator": f"resnet_{blocks}blocks",
    "base_features": 4,
    "levels": 2,
    "norm": norm,
    "input_channels": inputs,
    "output_channels": outputs,
    "dropout_blocks": tuple(range(blocks)) if dropout else (),
  }
  x = images(36, inputs)[:, :28]
  eval_mode = forward(module.eval(), x)
  assert eval_mode.std() > 0.1
  np.testing.assert_allclose(translate(network, x, "running"), eval_mode, atol=1e-4, rtol=0)
  if norm == "batch":
    for layer in module.modules():
      layer.train(isinstance(layer, torch.nn.BatchNorm2d))  # dropout draws other masks there
    train_mode = forward(module, x)
    assert np.abs(train_mode - eval_mode).max() > 0.1
    np.testing.assert_allclose(translate(network, x, "image"), train_mode, atol=1e-4, rtol=0)


@needs_torch
@pytest.mark.parametrize("kind, patch", [("pixel", 1), (1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_discriminators_match_pytorch(kind, patch, norm):
  module = randomised(torch_discriminator(kind, 8, 4, norm))
  network = import_torch.convert_discriminator(arrays(module))
  assert network.fields == {"patch": patch, "base_features": 8, "norm": norm, "input_channels": 4}
  x, y = images(128, 3), images(128, 1, seed=1)
  _, discriminator = networks(network.fields)
  for mode, norm_stats in ((module.eval, "running"), (module.train, "image")):
    logits = jax.jit(lambda v, x, y, n=norm_stats: discriminator.apply(v, x, y, norm_stats=n))(variables(network), x, y)
    mode()
    np.testing.assert_allclose(logits, forward(module, x, y), atol=1e-4, rtol=0)


# --- Without PyTorch --------------------------------------------------------------------------------------------------


def wavy(shape, seed):
  """Numbers in [-1, 1] without a random generator."""
  return np.sin(0.7 * np.arange(np.prod(shape)) * (1 + 0.1 * seed) + seed).reshape(shape).astype(np.float32)


def wavy_state_dict(shapes):
  state = {}
  for seed, (key, shape) in enumerate(sorted(shapes.items())):
    value = wavy(shape, seed)
    state[key] = (
      1 + 0.4 * value if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")) else 0.4 * value
    )
  return state


BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def small_unet_shapes(norm="batch"):
  """A U-Net with five levels and two features, from one channel to two."""
  shapes = {"model.model.0.weight": (2, 1, 4, 4), "model.model.3.weight": (4, 2, 4, 4), "model.model.3.bias": (2,)}
  block = "model.model.1.model"
  for level, (outer, inner) in enumerate([(2, 4), (4, 8), (8, 16), (16, 16)], 1):
    convs = [(1, (inner, outer, 4, 4)), (3, (inner, outer, 4, 4)) if level == 4 else (5, (2 * inner, outer, 4, 4))]
    norms = [(4, outer)] if level == 4 else [(2, inner), (6, outer)]
    shapes |= {f"{block}.{i}.weight": shape for i, shape in convs}
    if norm == "batch":
      shapes |= {f"{block}.{i}.{name}": (width,) for i, width in norms for name in BATCH_NORM}
    else:
      shapes |= {f"{block}.{convs[0][0]}.bias": (inner,), f"{block}.{convs[1][0]}.bias": (outer,)}
    block += ".3.model"
  return shapes if norm == "batch" else shapes | {"model.model.0.bias": (2,)}


def small_resnet_shapes(norm="batch", dropout=False):
  """A ResNet with six blocks and two features, from one channel to two."""
  convs = {1: (2, 1, 7, 7), 4: (4, 2, 3, 3), 7: (8, 4, 3, 3), 16: (8, 4, 3, 3), 19: (4, 2, 3, 3)}
  widths = {1: 2, 4: 4, 7: 8, 16: 4, 19: 2}
  for block in range(10, 16):
    for i in (1, 6 if dropout else 5):
      convs[f"{block}.conv_block.{i}"], widths[f"{block}.conv_block.{i}"] = (8, 8, 3, 3), 8
  shapes = {f"model.{key}.weight": shape for key, shape in convs.items()}
  for key, width in widths.items():
    before, _, last = f"model.{key}".rpartition(".")
    if norm == "batch":
      shapes |= {f"{before}.{int(last) + 1}.{name}": (width,) for name in BATCH_NORM}
    else:
      shapes[f"model.{key}.bias"] = (width,)
  return shapes | {"model.23.weight": (2, 2, 7, 7), "model.23.bias": (2,)}


SMALL_DISCRIMINATOR = {
  "model.0.weight": (2, 3, 4, 4),
  "model.0.bias": (2,),
  "model.2.weight": (4, 2, 4, 4),
  **{f"model.3.{name}": (4,) for name in BATCH_NORM},
  "model.5.weight": (1, 4, 4, 4),
  "model.5.bias": (1,),
}

GOLDEN_NETWORKS = {
  "unet_batch": (small_unet_shapes("batch"), lambda: torch_unet(5, 2, 1, 2, "batch")),
  "unet_instance": (small_unet_shapes("instance"), lambda: torch_unet(5, 2, 1, 2, "instance")),
  "resnet_batch": (small_resnet_shapes("batch"), lambda: torch_resnet(6, 2, 1, 2, "batch")),
  "resnet_instance_dropout": (
    small_resnet_shapes("instance", dropout=True),
    lambda: torch_resnet(6, 2, 1, 2, "instance", dropout=True),
  ),
}

# Rows 3, 17, 30 and columns 5, 16, 31 of the first channel, from PyTorch 2.13 on CPU: the networks above and
# torch_discriminator(1, 2, 3) with their golden states, in eval mode, on wavy((1, 32, 32, 1), 1) and, for the
# candidate, wavy((1, 32, 32, 2), 2). `test_golden_values_are_those_of_pytorch` recomputes them.
GOLDEN = {
  "unet_batch": [-0.112299, 0.848104, -0.562463, -0.87244, 0.165057, -0.374094, -0.997461, 0.990158, -0.789836],
  "unet_instance": [-0.640678, -0.560176, -0.163243, -0.4953, -0.321677, -0.291674, -0.035923, 0.152322, -0.217674],
  "resnet_batch": [-0.193442, 0.770985, -0.359433, 0.963041, 0.508545, -0.137116, -0.593254, 0.9997, -0.357166],
  "resnet_instance_dropout": [
    *(0.349456, 0.004709, -0.094812, 0.27, -0.618188, -0.541881, 0.124407, 0.025036, -0.993796),
  ],
  "discriminator": [1.170005, 1.409797, -0.524174],
}
PROBE = np.ix_([0], [3, 17, 30], [5, 16, 31], [0])


def golden_state(name):
  state = wavy_state_dict(GOLDEN_NETWORKS[name][0])
  if name == "resnet_batch":  # its features are large, which would saturate the tanh
    state["model.23.weight"] /= 40
  return state


def golden_inputs():
  return wavy((1, 32, 32, 1), 1), wavy((1, 32, 32, 2), 2)


@pytest.mark.parametrize("name", GOLDEN_NETWORKS)
def test_golden_pixels(name):
  network = import_torch.convert_generator(golden_state(name))
  output = np.asarray(translate(network, golden_inputs()[0], "running"))
  np.testing.assert_allclose(output[PROBE].reshape(-1), GOLDEN[name], atol=1e-4, rtol=0)


def test_golden_logits():
  network = import_torch.convert_discriminator(wavy_state_dict(SMALL_DISCRIMINATOR))
  _, discriminator = networks(network.fields)
  logits = np.asarray(discriminator.apply(variables(network), *golden_inputs(), norm_stats="running"))
  np.testing.assert_allclose(logits[0, [2, 7, 13], [3, 11, 0], 0], GOLDEN["discriminator"], atol=1e-4, rtol=0)


@needs_torch
def test_golden_values_are_those_of_pytorch():
  x, y = golden_inputs()
  for name, (_, build) in GOLDEN_NETWORKS.items():
    module = build().eval()
    load(module, golden_state(name))
    np.testing.assert_allclose(forward(module, x)[PROBE].reshape(-1), GOLDEN[name], atol=1e-5, err_msg=name)
  module = torch_discriminator(1, 2, 3).eval()
  load(module, wavy_state_dict(SMALL_DISCRIMINATOR))
  np.testing.assert_allclose(forward(module, x, y)[0, [2, 7, 13], [3, 11, 0], 0], GOLDEN["discriminator"], atol=1e-5)


def load(module, state):
  missing, unexpected = module.load_state_dict(
    {key: torch.from_numpy(value) for key, value in state.items()}, strict=False
  )
  assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)


# --- Refused weights --------------------------------------------------------------------------------------------------


def without(key):
  return lambda state: {name: value for name, value in state.items() if name != key}


def renamed(old, new):
  return lambda state: {name.replace(old, new): value for name, value in state.items()}


def put(key, *shape):
  return lambda state: state | {key: np.zeros(shape, np.float32)}


INNER = "model.model.1.model"


@pytest.mark.parametrize(
  "change, message",
  [
    (without(f"{INNER}.1.weight"), f"missing: {INNER}.1.weight.$"),
    (without(f"{INNER}.6.running_mean"), f"missing: {INNER}.6.running_mean.$"),
    (put("model.model.0.bias", 2), "unexpected: model.model.0.bias.$"),
    (put("extra", 2), "unexpected: extra.$"),
    (put(f"{INNER}.5.weight", 4, 8, 4, 4), rf"misshaped: {INNER}.5.weight \(4, 8, 4, 4\) \(not \(8, 2, 4, 4\)\).$"),
    (put(f"{INNER}.2.bias", 5), rf"misshaped: {INNER}.2.bias"),
    (
      lambda state: {name: value for name, value in state.items() if ".1.model.3." not in name},
      "not unet_128, unet_256, resnet_6blocks or resnet_9blocks",
    ),
    (
      lambda state: wavy_state_dict(SMALL_DISCRIMINATOR),
      "not unet_128.*Is it the discriminator.*model.0.bias, model.0.weight, model.2.weight and",
    ),
    (lambda state: {}, "not unet_128"),
    (
      renamed(f"{INNER}.5.", f"{INNER}.9."),
      f"some of its keys do not match. missing: {INNER}.5.weight",
    ),  # a resize-convolution in place of a transposed
  ],
)
def test_every_key_and_shape_of_a_generator_is_checked(change, message):
  with pytest.raises(UsageError, match=message):
    import_torch.convert_generator(change(wavy_state_dict(small_unet_shapes())))


@pytest.mark.parametrize(
  "change, message",
  [
    (without("model.12.conv_block.1.weight"), "missing: model.12.conv_block.1.weight.$"),
    (without("model.20.running_var"), "missing: model.20.running_var.$"),
    (put("model.1.bias", 2), "unexpected: model.1.bias.$"),
    (put("model.12.conv_block.6.weight", 8, 8, 3, 3), r"misshaped: model.12.conv_block.6.weight .*not \(8,\)"),
    (put("model.16.weight", 4, 8, 3, 3), r"misshaped: model.16.weight \(4, 8, 3, 3\) \(not \(8, 4, 3, 3\)\).$"),
    (put("model.16.conv_block.1.weight", 8, 8, 3, 3), "a ResNet with 7 residual blocks; only resnet_6blocks and"),
    (without("model.23.weight"), "looks like a ResNet with 6 residual blocks; only"),
  ],
)
def test_every_key_and_shape_of_a_resnet_is_checked(change, message):
  with pytest.raises(UsageError, match=message):
    import_torch.convert_generator(change(wavy_state_dict(small_resnet_shapes())))


@pytest.mark.parametrize(
  "change, message",
  [
    (without("model.3.bias"), "missing: model.3.bias.$"),
    (put("model.2.bias", 4), "unexpected: model.2.bias.$"),
    (put("model.5.weight", 2, 4, 4, 4), "misshaped: model.5.weight"),
    (put("model.20.weight", 1, 4, 4, 4), "n_layers with n=6; only n = 1, 2, 3, 4, 5 can be imported"),
    (lambda state: wavy_state_dict(small_unet_shapes()), "not basic, n_layers or pixel"),
    (lambda state: {}, "not basic, n_layers or pixel"),
    (renamed(".weight", ".weight_orig"), "not basic, n_layers or pixel"),  # torch.nn.utils.spectral_norm
    (renamed("model.", "scale0_layer"), "not basic, n_layers or pixel"),  # pix2pixHD
  ],
)
def test_every_key_and_shape_of_a_discriminator_is_checked(change, message):
  with pytest.raises(UsageError, match=message):
    import_torch.convert_discriminator(change(wavy_state_dict(SMALL_DISCRIMINATOR)))


def test_prefixes_and_counters_are_ignored():
  plain = wavy_state_dict(small_unet_shapes())
  decorated = {f"module.{key}": value for key, value in plain.items()} | {
    f"module.{INNER}.2.num_batches_tracked": np.float32(7)
  }
  trees = [import_torch.convert_generator(state).params for state in (decorated, plain)]
  jax.tree.map(np.testing.assert_array_equal, *trees)


def test_old_statistics_of_instance_norm_are_ignored():
  state = wavy_state_dict(small_unet_shapes("instance"))
  old = {f"{INNER}.2.{name}": np.ones(4, np.float32) for name in ("running_mean", "running_var")}
  network = import_torch.convert_generator(state | old)
  assert network.fields["norm"] == "instance" and not network.batch_stats
  with pytest.raises(UsageError, match=f"unexpected: {INNER}.3.running_mean"):
    import_torch.convert_generator(state | {f"{INNER}.3.running_mean": np.ones(4, np.float32)})


# --- Workdirs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
  """A workdir of the small U-Net and discriminator, and what the import printed."""
  workdir = tmp_path_factory.mktemp("import") / "run"
  said = import_torch.import_networks(
    workdir, wavy_state_dict(small_unet_shapes()), wavy_state_dict(SMALL_DISCRIMINATOR)
  )
  return workdir, said


def test_a_workdir_translates_as_the_network(imported):
  workdir, said = imported
  assert "U-Net with 5 levels, 2 features, batch norm, 1 → 2 channels" in said
  assert "16×16 PatchGAN, conditional, from its file, which does not show its loss: if that was least squares" in said
  image = np.random.default_rng(0).uniform(size=(1, 32, 32, 1)).astype(np.float32)
  translator, network = Translator.load(workdir), import_torch.convert_generator(wavy_state_dict(small_unet_shapes()))
  for chosen, used in ((None, "image"), ("running", "running")):  # None: as PyTorch's program without --eval
    output = translator(image, dropout=False, norm_stats=chosen)
    np.testing.assert_allclose(output, (translate(network, image * 2 - 1, used) + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("dropout", [True, False])
def test_a_resnet_becomes_a_workdir(dropout, tmp_path):
  weights = wavy_state_dict(small_resnet_shapes("instance", dropout))
  said = import_torch.import_networks(tmp_path, weights)
  assert "ResNet with 6 residual blocks, 2 features, instance norm, 1 → 2 channels" in said
  assert f"dropout in {'every residual' if dropout else 'no'} block." in said
  config = config_lib.read(tmp_path)
  assert (config.model.generator, config.model.levels) == ("resnet_6blocks", 2)
  assert config.model.dropout_blocks == (tuple(range(6)) if dropout else ())
  resolved = config_lib.resolve(printed_config(said), spec(1, 2))
  config_lib.require_same_model(tmp_path, config, resolved)
  image = np.random.default_rng(0).uniform(size=(1, 20, 24, 1)).astype(np.float32)
  expected = translate(import_torch.convert_generator(weights), image * 2 - 1, "image")
  np.testing.assert_allclose(Translator.load(tmp_path)(image, dropout=False), (expected + 1) / 2, atol=1e-5)


def spec(inputs, outputs):
  return DataSpec(Image(inputs), Image(outputs), counts={"train": 10})


def printed_config(said):
  """The configuration that the printed command uses."""
  config = folder.get_config()
  for flag in said.split("DIR ", 1)[1].split(" --config."):
    name, value = flag.removeprefix("--config.").split("=", 1)
    value = value.strip('"')
    is_text = name in ("model.norm", "model.generator")
    config.update_from_flattened_dict({name: value if is_text else ast.literal_eval(value)})
  return config


def test_the_printed_command_resolves_to_the_same_model(imported):
  workdir, said = imported

  def check(config):
    config_lib.require_same_model(workdir, config_lib.previous(workdir), config_lib.resolve(config, spec(1, 2)))

  check(printed_config(said))
  with pytest.raises(UsageError, match="another architecture"):
    check(folder.get_config())


def test_training_resumes_from_the_imported_weights(imported):
  from pix2pix_jax import train
  from pix2pix_jax.data import source

  workdir, _ = imported
  config = config_lib.read(workdir).copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(
      {"data.name": "arrays", "train.num_steps": 2, "train.batch_size": 2, "optimizer.learning_rate": 1e-6}
    )
  rng = np.random.default_rng(0)
  pairs = tuple(rng.integers(0, 255, (4, 32, 32, channels), dtype=np.uint8) for channels in (1, 2))
  state = train.train_and_evaluate(config, workdir, source=source.ArraySource({"train": pairs}, spec(1, 2)))
  assert int(state.step) == 2
  for trained, convert, shapes in (
    (state.generator, import_torch.convert_generator, small_unet_shapes()),
    (state.discriminator, import_torch.convert_discriminator, SMALL_DISCRIMINATOR),
  ):
    network = convert(wavy_state_dict(shapes))
    change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), trained.params, network.params)
    assert 0 < max(jax.tree.leaves(change)) < 1e-5
    statistics = [jax.tree.leaves(tree)[0] for tree in (trained.batch_stats, network.batch_stats)]
    assert not np.allclose(*statistics)  # running statistics moved
  with checkpoint.Checkpointer(workdir, read_only=True) as checkpointer:
    assert checkpointer.latest_step() == 2


def test_a_workdir_with_checkpoints_is_left_alone(imported):
  with pytest.raises(UsageError, match="already has checkpoints"):
    import_torch.import_networks(imported[0], wavy_state_dict(small_unet_shapes()))


def restored(workdir):
  experiment = Experiment.read(workdir)
  with checkpoint.Checkpointer(workdir, read_only=True) as checkpointer:
    return checkpointer.restore(import_torch.STEP, experiment.abstract())


def test_without_a_discriminator_a_new_one_is_initialised(tmp_path):
  said = import_torch.import_networks(tmp_path, wavy_state_dict(small_unet_shapes("instance")), dropout=False)
  assert "newly initialised, because no file was given" in said and "dropout in no block" in said
  config = config_lib.read(tmp_path)
  assert (config.model.norm, config.model.patch, config.model.dropout_blocks) == ("instance", 70, ())
  assert config.loss.l1_weight == 150
  state = restored(tmp_path)
  kernel = np.asarray(state.discriminator.params["conv_1"]["kernel"])
  assert int(state.step) == import_torch.STEP and 0.015 < kernel.std() < 0.025
  assert all(not np.any(leaf) for leaf in jax.tree.leaves((state.generator.opt_state, state.discriminator.opt_state)))


def pixel_shapes(inputs, features, norm):
  shapes = {
    "net.0.weight": (features, inputs, 1, 1),
    "net.0.bias": (features,),
    "net.2.weight": (2 * features, features, 1, 1),
    "net.5.weight": (1, 2 * features, 1, 1),
  }
  if norm == "batch":
    return shapes | {f"net.3.{name}": (2 * features,) for name in BATCH_NORM}
  return shapes | {"net.2.bias": (2 * features,), "net.5.bias": (1,)}


def test_networks_may_differ_in_features(tmp_path):
  said = import_torch.import_networks(
    tmp_path, wavy_state_dict(small_unet_shapes()), wavy_state_dict(pixel_shapes(3, 5, "batch"))
  )
  assert '--config.model.discriminator_features="5"' in said
  config = config_lib.read(tmp_path)
  assert (config.model.base_features, config.model.discriminator_features, config.model.patch) == (2, 5, 1)
  assert restored(tmp_path).discriminator.params["conv_0"]["kernel"].shape == (1, 1, 3, 5)


@pytest.mark.parametrize(
  "inputs, features, norm, message",
  [
    (4, 2, "batch", "sees 4 channels. With a generator from 1 to 2 channels it should see 3, or 2"),
    (3, 2, "instance", "has batch norm and the discriminator instance norm"),
  ],
)
def test_networks_that_do_not_fit_together_are_refused(tmp_path, inputs, features, norm, message):
  shapes = pixel_shapes(inputs, features, norm)
  with pytest.raises(UsageError, match=message):
    import_torch.import_networks(tmp_path / "run", wavy_state_dict(small_unet_shapes()), wavy_state_dict(shapes))
  assert not (tmp_path / "run").exists()


# --- Files ------------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("new_format", [True, False])
def test_the_command_reads_pth_files(new_format, tmp_path, capsys, monkeypatch):
  save = {"_use_new_zipfile_serialization": new_format}
  generator = randomised(torch_unet(5, 2, norm="instance"))
  discriminator = torch.nn.DataParallel(randomised(torch_discriminator(3, 2, 3, "instance")))
  torch.save(generator.state_dict(), tmp_path / "G.pth", **save)
  torch.save(discriminator.state_dict(), tmp_path / "D.pth", **save)
  monkeypatch.setitem(sys.modules, "torch", None)
  files = [f"--generator={tmp_path / 'G.pth'}", f"--discriminator={tmp_path / 'D.pth'}"]
  import_torch.main([*files, f"--workdir={tmp_path / 'run'}"])
  said = capsys.readouterr().out
  assert "70×70 PatchGAN, not conditional, from its file" in said
  assert '--config.model.conditional="False"' in said and "dropout in no block" in said
  assert Translator.load(tmp_path / "run")(np.zeros((40, 32, 3), np.uint8)).shape == (40, 32, 3)


def test_damaged_files_ask_for_the_right_ones(tmp_path):
  (tmp_path / "G.pth").write_bytes(b"not a state dict")
  with pytest.raises(UsageError, match="G.pth cannot be read.*Give a .*_net_G.pth or .*_net_D.pth"):
    import_torch.main([f"--generator={tmp_path / 'G.pth'}", f"--workdir={tmp_path / 'run'}"])
  assert not (tmp_path / "run").exists()
