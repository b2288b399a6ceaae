"""A plain pix2pix in eager PyTorch: the peer that pix2pix_jax is measured against.

It shares no code with the JAX package. It implements the paper's RGB set-up
(Isola et al. 2017, arXiv 1611.07004) and nothing else: the U-Net generator, the
70x70 PatchGAN, one Adam each. Image arrays are uint8 NHWC; networks take NCHW
in [-1, 1].

  python benchmarks/torch_peer.py --check
  python benchmarks/torch_peer.py --source_dir=facades --output=runs/peer

Choices that matter to a comparison:
  * Skips follow the authors' code: the decoder's ReLU is applied after the
    concatenation, so it also rectifies the skipped features.
  * Adam is PyTorch's fused kernel, the faster one, on CPU and on GPU.
  * Images are resized to `load_size` once, when read, not at every epoch: the
    result is the same and the peer is not slowed down by its input.
  * An epoch's last incomplete batch is dropped.
  * Evaluation resizes with PIL's bicubic filter straight to `crop_size`. To
    compare on exactly the same pixels, pass `--eval_arrays`.
"""

import argparse
import copy
import json
import os
import pathlib
import time

import numpy as np
from PIL import Image
import torch
from torch import nn
import torch.nn.functional as F


class UNet(nn.Module):
  """pix2pix U-Net, "paper" widths: NCHW in [-1, 1] -> NCHW in [-1, 1].

  Encoder widths are (1, 2, 4, 8, 8, 8, 8, 8)[:levels] * base_features; the
  decoder mirrors them. No convolution but the last has a bias.
  """

  def __init__(self, in_channels=3, out_channels=3, base_features=64, levels=8):
    super().__init__()
    if not 2 <= levels <= 8:
      raise ValueError(f"levels must be 2 to 8, got {levels}")
    widths = [base_features * min(2**level, 8) for level in range(levels)]
    innermost = levels - 1

    self.encoder = nn.ModuleList()
    for level, width in enumerate(widths):
      channels = in_channels if level == 0 else widths[level - 1]
      layers = [nn.Conv2d(channels, width, 4, 2, 1, bias=False)]
      if 0 < level < innermost:
        layers.append(nn.BatchNorm2d(width))
      if level < innermost:  # The innermost gets the decoder's ReLU instead.
        layers.append(nn.LeakyReLU(0.2, inplace=True))
      self.encoder.append(nn.Sequential(*layers))

    self.decoder = nn.ModuleList()
    for block, level in enumerate(range(innermost, 0, -1)):
      channels = widths[level] * (1 if level == innermost else 2)
      width = widths[level - 1]
      layers = [
          nn.ReLU(inplace=True),
          nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False),
          nn.BatchNorm2d(width),
      ]
      if block < 3:
        layers.append(nn.Dropout(0.5))
      self.decoder.append(nn.Sequential(*layers))
    self.last = nn.Sequential(
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(widths[0] * 2, out_channels, 4, 2, 1),
        nn.Tanh(),
    )
    self.apply(initialize)

  def forward(self, x):
    skips = []
    for block in self.encoder:
      x = block(x)
      skips.append(x)
    skips.pop()  # The innermost features are the decoder's input, not a skip.
    for block in self.decoder:
      x = torch.cat([block(x), skips.pop()], dim=1)
    return self.last(x)


class PatchGAN(nn.Module):
  """70x70 PatchGAN: the concatenated input and candidate -> map of logits."""

  def __init__(self, in_channels=6, base_features=64):
    super().__init__()
    layers = [
        nn.Conv2d(in_channels, base_features, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
    ]
    for factor, stride in ((2, 2), (4, 2), (8, 1)):
      channels, width = base_features * factor // 2, base_features * factor
      layers += [
          nn.Conv2d(channels, width, 4, stride, 1, bias=False),
          nn.BatchNorm2d(width),
          nn.LeakyReLU(0.2, inplace=True),
      ]
    layers.append(nn.Conv2d(base_features * 8, 1, 4, 1, 1))
    self.layers = nn.Sequential(*layers)
    self.apply(initialize)

  def forward(self, x):
    return self.layers(x)


def initialize(module):
  """Weights N(0, 0.02), norm scales N(1, 0.02), every bias 0."""
  if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
    nn.init.normal_(module.weight, 0.0, 0.02)
  elif isinstance(module, nn.BatchNorm2d):
    nn.init.normal_(module.weight, 1.0, 0.02)
  if getattr(module, "bias", None) is not None:
    nn.init.zeros_(module.bias)


def num_levels(image_size):
  """log2 of the image size, at most 8."""
  levels = min(8, image_size.bit_length() - 1)
  if image_size % 2**levels:
    raise ValueError(f"image size {image_size} is not divisible by {2**levels}")
  return levels


def num_parameters(module):
  return sum(p.numel() for p in module.parameters())


def to_tensor(images, device="cpu", channels_last=False):
  """Numpy NHWC or torch NCHW, uint8 or float in [-1, 1] -> NCHW in [-1, 1]."""
  if isinstance(images, np.ndarray):
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
  images = images.to(device)
  if images.dtype == torch.uint8:
    images = images.float() / 127.5 - 1.0
  return images.contiguous(memory_format=memory_format(channels_last))


def memory_format(channels_last):
  return torch.channels_last if channels_last else torch.contiguous_format


def to_uint8(image):
  """One CHW tensor in [-1, 1] -> uint8 HWC array."""
  image = (image.float().cpu() * 127.5 + 127.5).round().clamp(0, 255)
  return image.permute(1, 2, 0).byte().numpy()


def cross_entropy(logits, real):
  """Mean of binary cross-entropy on logits, all labelled real or all fake."""
  labels = torch.full_like(logits, float(real), dtype=torch.float32)
  return F.binary_cross_entropy_with_logits(logits.float(), labels)


class Pix2Pix:
  """Both networks, their optimizers, and the alternating update."""

  def __init__(self, image_size, base_features=64, in_channels=3,
               out_channels=3, l1_weight=None, dtype=torch.float32,
               channels_last=False, compile=False, device="cpu"):
    if dtype not in (torch.float32, torch.bfloat16):
      raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    placement = dict(device=device, memory_format=memory_format(channels_last))
    self.generator = UNet(in_channels, out_channels, base_features,
                          num_levels(image_size)).to(**placement)
    self.discriminator = PatchGAN(in_channels + out_channels,
                                  base_features).to(**placement)
    self.l1_weight = 300 / out_channels if l1_weight is None else l1_weight
    self.run_generator, self.run_discriminator = self.generator, self.discriminator
    if compile:
      self.run_generator = torch.compile(self.generator)
      self.run_discriminator = torch.compile(self.discriminator)
    self.autocast = lambda: torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16,
        enabled=dtype == torch.bfloat16)
    adam = dict(lr=2e-4, betas=(0.5, 0.999), fused=True)
    self.generator_optimizer = torch.optim.Adam(
        self.generator.parameters(), **adam)
    self.discriminator_optimizer = torch.optim.Adam(
        self.discriminator.parameters(), **adam)

  def discriminator_step(self, inputs, targets, fakes):
    """Updates D on real -> 1 and fake -> 0; returns the halved loss."""
    self.discriminator.requires_grad_(True)
    self.discriminator_optimizer.zero_grad()
    with self.autocast():
      real = self.run_discriminator(torch.cat([inputs, targets], dim=1))
      fake = self.run_discriminator(torch.cat([inputs, fakes.detach()], dim=1))
      loss = 0.5 * (cross_entropy(real, True) + cross_entropy(fake, False))
    loss.backward()
    self.discriminator_optimizer.step()
    return loss.detach()

  def generator_step(self, inputs, targets, fakes):
    """Updates G through the current D, which stays as it is."""
    self.discriminator.requires_grad_(False)
    self.generator_optimizer.zero_grad()
    with self.autocast():
      logits = self.run_discriminator(torch.cat([inputs, fakes], dim=1))
      l1 = F.l1_loss(fakes.float(), targets)
      loss = cross_entropy(logits, True) + self.l1_weight * l1
    loss.backward()
    self.generator_optimizer.step()
    return loss.detach(), l1.detach()

  def train_step(self, inputs, targets):
    """One update of D, then one of G, on NCHW tensors; losses stay on device."""
    with self.autocast():
      fakes = self.run_generator(inputs)
    discriminator_loss = self.discriminator_step(inputs, targets, fakes)
    generator_loss, l1 = self.generator_step(inputs, targets, fakes)
    return torch.stack([discriminator_loss, generator_loss, l1])


def default_device(device=None):
  return device or ("cuda" if torch.cuda.is_available() else "cpu")


def make_train_step(batch_size, image_size, base_features=64,
                    dtype=torch.float32, channels_last=False, compile=False,
                    device=None):
  """For benchmark scripts: (step(inputs, targets) -> losses, info).

  `step` takes what `to_tensor` takes and returns [d_loss, g_loss, l1] on the
  device without waiting for it: on CUDA the caller synchronizes. bfloat16 is
  autocast, with float32 parameters.
  """
  device = default_device(device)
  torch.backends.cudnn.benchmark = True
  model = Pix2Pix(image_size, base_features, dtype=dtype, compile=compile,
                  channels_last=channels_last, device=device)

  def step(inputs, targets):
    if len(inputs) != batch_size:
      raise ValueError(f"made for batches of {batch_size}, got {len(inputs)}")
    return model.train_step(to_tensor(inputs, device, channels_last),
                            to_tensor(targets, device, channels_last))

  return step, describe(model.generator, model.discriminator, device,
                        batch_size=batch_size, image_size=image_size,
                        base_features=base_features, dtype=str(dtype),
                        channels_last=channels_last, compile=compile)


def make_generator(batch_size, image_size, base_features=64,
                   dtype=torch.float32, channels_last=False, compile=False,
                   device=None):
  """For benchmark scripts: (forward(inputs) -> NCHW images, info).

  The paper's test protocol: batch statistics and dropout. Weights and
  activations are both in `dtype`.
  """
  device = default_device(device)
  torch.backends.cudnn.benchmark = True
  generator = UNet(3, 3, base_features, num_levels(image_size)).train()
  generator.to(device=device, dtype=dtype,
               memory_format=memory_format(channels_last))
  run = torch.compile(generator) if compile else generator

  @torch.no_grad()
  def forward(inputs):
    if len(inputs) != batch_size:
      raise ValueError(f"made for batches of {batch_size}, got {len(inputs)}")
    return run(to_tensor(inputs, device, channels_last).to(dtype))

  return forward, describe(generator, None, device, batch_size=batch_size,
                           image_size=image_size, base_features=base_features,
                           dtype=str(dtype), channels_last=channels_last,
                           compile=compile)


def describe(generator, discriminator, device, **settings):
  """What a reader of a measurement needs to know, ready for JSON."""
  info = dict(settings, torch=torch.__version__, device=str(device),
              threads=torch.get_num_threads(),
              generator_parameters=num_parameters(generator))
  if discriminator is not None:
    info["discriminator_parameters"] = num_parameters(discriminator)
  if torch.device(device).type == "cuda":
    info["device_name"] = torch.cuda.get_device_name(device)
  return info


def read_split(directory, size):
  """DIR/N.jpg, photo | labels side by side -> (labels, photos), both resized."""
  paths = sorted(pathlib.Path(directory).glob("*.jpg"),
                 key=lambda path: (len(path.stem), path.stem))
  if not paths:
    raise FileNotFoundError(f"no *.jpg in {directory}")
  inputs, targets = [], []
  for path in paths:
    image = Image.open(path).convert("RGB")
    width, height = image.size
    photo = image.crop((0, 0, width // 2, height))
    labels = image.crop((width // 2, 0, width, height))
    targets.append(np.asarray(photo.resize((size, size), Image.BICUBIC)))
    inputs.append(np.asarray(labels.resize((size, size), Image.BICUBIC)))
  return np.stack(inputs), np.stack(targets)


def jittered_batches(inputs, targets, crop_size, batch_size, rng):
  """One epoch in random order; each pair gets one random crop and mirror."""
  order = rng.permutation(len(inputs))
  margin = inputs.shape[1] - crop_size
  for start in range(0, len(order) - batch_size + 1, batch_size):
    pairs = []
    for index in order[start:start + batch_size]:
      top, left = rng.integers(margin + 1, size=2)
      pair = np.stack([inputs[index], targets[index]])
      pair = pair[:, top:top + crop_size, left:left + crop_size]
      pairs.append(pair[:, :, ::-1] if rng.random() < 0.5 else pair)
    yield np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def evaluate(generator, inputs, targets, device="cpu", seed=0):
  """Means over every image once, on [0, 1], and the outputs as uint8 NHWC.

  The paper's test protocol: each image alone in its batch, batch statistics and
  dropout on. Works on a copy, under its own random numbers, so that it changes
  neither the running statistics nor the rest of the training.
  """
  import dm_pix  # pylint: disable=g-import-not-at-top
  import jax  # pylint: disable=g-import-not-at-top

  compare = jax.jit(lambda a, b: (dm_pix.psnr(a, b), dm_pix.ssim(a, b)))
  generator = copy.deepcopy(generator).train()
  rows, outputs = [], []
  with torch.random.fork_rng(), torch.no_grad():
    torch.manual_seed(seed)
    for index in range(len(inputs)):
      output = generator(to_tensor(inputs[index:index + 1], device))[0]
      outputs.append(to_uint8(output))
      output = (output.permute(1, 2, 0).cpu().numpy() + 1.0) / 2.0
      target = targets[index].astype(np.float32) / 255.0
      psnr, ssim = compare(output, target)
      rows.append((np.abs(output - target).mean(), float(psnr), float(ssim)))
  l1, psnr, ssim = np.mean(rows, axis=0, dtype=np.float64).tolist()
  return dict(l1=l1, psnr=psnr, ssim=ssim, count=len(rows)), np.stack(outputs)


def evaluation_arrays(args):
  """The (input, target) pairs to evaluate on: a file's, or the val split's."""
  if not args.eval_arrays:
    return read_split(pathlib.Path(args.source_dir, "val"), args.crop_size)
  with np.load(args.eval_arrays) as arrays:
    inputs, targets = arrays["input"], arrays["target"]
  expected = (len(inputs), args.crop_size, args.crop_size, 3)
  for name, array in (("input", inputs), ("target", targets)):
    if array.dtype != np.uint8 or array.shape != expected:
      raise ValueError(f"{args.eval_arrays}: {name} is {array.dtype} "
                       f"{array.shape}, expected uint8 {expected}")
  return inputs, targets


def check():
  """Pins the published parameter counts and the 30x30 map of logits."""
  generator, discriminator = UNet(3, 3, 64, 8), PatchGAN(6, 64)
  assert num_parameters(generator) == 54_413_955, num_parameters(generator)
  assert num_parameters(discriminator) == 2_768_705, num_parameters(discriminator)
  shape = tuple(discriminator(torch.zeros(1, 6, 256, 256)).shape)
  assert shape == (1, 1, 30, 30), shape
  print(json.dumps(describe(generator, discriminator, "cpu")))


def train(args):
  torch.manual_seed(args.seed)
  rng = np.random.default_rng(args.seed)
  device = default_device()
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  inputs, targets = read_split(
      pathlib.Path(args.source_dir, "train"), args.load_size)
  eval_inputs, eval_targets = evaluation_arrays(args)
  steps = len(inputs) // args.batch_size
  if steps == 0 or args.load_size < args.crop_size:
    raise ValueError(f"batch {args.batch_size} of {len(inputs)} images, crop "
                     f"{args.crop_size} of {args.load_size}: both must fit")

  model = Pix2Pix(args.crop_size, args.base_features, device=device)
  history = []
  for epoch in range(1, args.num_epochs + 1):
    start, losses = time.perf_counter(), []
    for batch in jittered_batches(
        inputs, targets, args.crop_size, args.batch_size, rng):
      losses.append(model.train_step(*(to_tensor(x, device) for x in batch)))
    means = torch.stack(losses).mean(0).tolist()  # Waits for the device.
    row = dict(zip(("d_loss", "g_loss", "l1"), means), epoch=epoch,
               steps_per_second=steps / (time.perf_counter() - start))
    if epoch % args.eval_every_epochs == 0 or epoch == args.num_epochs:
      metrics, outputs = evaluate(
          model.generator, eval_inputs, eval_targets, device, args.seed)
      row.update({f"val_{name}": value for name, value in metrics.items()})
    history.append(row)
    print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)

  grid = np.concatenate([eval_inputs[:4], outputs[:4], eval_targets[:4]], axis=2)
  Image.fromarray(np.concatenate(grid)).save(output / "grid.png")
  torch.save(model.generator.state_dict(), output / "generator.pt")
  summary = dict(
      history[-1], steps=steps * args.num_epochs, settings=vars(args),
      median_steps_per_second=float(
          np.median([row["steps_per_second"] for row in history])),
      environment=describe(model.generator, model.discriminator, device))
  (output / "metrics.json").write_text(
      json.dumps(dict(summary, history=history), indent=2) + "\n")
  print(json.dumps(summary))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add("--source_dir", help="pix2pix archive with train/N.jpg and val/N.jpg")
  add("--output", default="runs/torch_peer", help="directory to write to")
  add("--load_size", type=int, default=286)
  add("--crop_size", type=int, default=256)
  add("--base_features", type=int, default=64)
  add("--batch_size", type=int, default=1)
  add("--num_epochs", type=int, default=200)
  add("--seed", type=int, default=0)
  add("--eval_every_epochs", type=int, default=1)
  add("--eval_arrays", help="npz of uint8 NHWC `input` and `target`, not val/")
  add("--threads", type=int, default=os.cpu_count())
  add("--check", action="store_true", help="check parameter counts, then exit")
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # dm_pix must not take the GPU.
  if args.check:
    check()
  elif args.source_dir:
    train(args)
  else:
    parser.error("--source_dir or --check is needed")


if __name__ == "__main__":
  main()
