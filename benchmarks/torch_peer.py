"""A plain pix2pix in eager PyTorch: the peer that pix2pix_jax is compared with.

It shares no code with the JAX package and implements only the paper's RGB setup (Isola et al. 2017, arXiv 1611.07004):
U-Net, 70x70 PatchGAN, and a (fused) Adam for each. Image arrays are uint8 NHWC; the networks accept NCHW in [-1, 1].

  python benchmarks/torch_peer.py --source_dir=facades --output=runs/peer

Details that matter for a comparison: skips follow the authors' code, where the decoder's ReLU comes after the
concatenation; images are resized to `load_size` once, when read, not in every epoch (same pixels, less work); the
incomplete last batch of an epoch is dropped; evaluation resizes with PIL's `Image.resize(..., Image.BICUBIC)` directly
to `crop_size`, without a crop (`--eval_arrays` evaluates on given pixels instead); every reported `l1` is on [0, 1].

On a CPU shared with other programs set OMP_WAIT_POLICY=PASSIVE: otherwise OpenMP threads spin while they wait for each
other, and a step can take ten times as long. On an idle machine leave it unset, because spinning is faster there.
"""

import argparse
import copy
import functools
import itertools
import json
import os
import pathlib
import sys
import time

import numpy as np
from PIL import Image
import torch
from torch import nn
import torch.nn.functional as F

MEMORY_FORMAT = {False: torch.contiguous_format, True: torch.channels_last}
torch.backends.cudnn.benchmark = True  # shapes never change


class UNet(nn.Module):
  """The paper's U-Net, NCHW in [-1, 1] in and out.

  Its widths are base_features * (1, 2, 4, 8, 8, 8, 8, 8)[:levels], mirrored in the decoder.
  """

  def __init__(self, in_channels=3, out_channels=3, base_features=64, levels=8):
    super().__init__()
    widths = [base_features * min(2**level, 8) for level in range(levels)]
    self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
    for level, width in enumerate(widths):
      layers = [nn.Conv2d(widths[level - 1] if level else in_channels, width, 4, 2, 1, bias=False)]
      layers += [nn.BatchNorm2d(width)] if 0 < level < levels - 1 else []
      layers += [nn.LeakyReLU(0.2, inplace=True)] if level < levels - 1 else []  # the innermost gets the decoder's ReLU
      self.encoder.append(nn.Sequential(*layers))
    for block, level in enumerate(range(levels - 1, 0, -1)):
      channels, width = widths[level] * (2 if block else 1), widths[level - 1]
      layers = [nn.ReLU(inplace=True), nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width)]
      layers += [nn.Dropout(0.5)] if block < 3 else []
      self.decoder.append(nn.Sequential(*layers))
    self.last = nn.Sequential(
      nn.ReLU(inplace=True), nn.ConvTranspose2d(widths[0] * 2, out_channels, 4, 2, 1), nn.Tanh()
    )
    self.apply(initialize)

  def forward(self, x):
    skips = []
    for block in self.encoder:
      skips.append(block(skips[-1] if skips else x))
    x = skips.pop()
    for block in self.decoder:
      x = torch.cat([block(x), skips.pop()], dim=1)
    return self.last(x)


class PatchGAN(nn.Sequential):
  """70x70 PatchGAN: concatenated input and candidate → map of logits."""

  def __init__(self, in_channels=6, base_features=64):
    layers = [nn.Conv2d(in_channels, base_features, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for factor, stride in ((2, 2), (4, 2), (8, 1)):
      channels, width = base_features * factor // 2, base_features * factor
      layers += [
        nn.Conv2d(channels, width, 4, stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2, inplace=True),
      ]
    super().__init__(*layers, nn.Conv2d(base_features * 8, 1, 4, 1, 1))
    self.apply(initialize)


def initialize(module):
  """Weights N(0, 0.02), norm scales N(1, 0.02), every bias 0."""
  if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
    nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
  if getattr(module, "bias", None) is not None:
    nn.init.zeros_(module.bias)


def num_levels(image_size):
  """log2 of the image size, at most 8."""
  levels = min(8, image_size.bit_length() - 1)
  assert levels >= 2 and image_size % 2**levels == 0, (
    f"image size {image_size} is neither a power of two (at least 4) nor a multiple of 256"
  )
  return levels


def num_parameters(module):
  return sum(p.numel() for p in module.parameters())


def to_tensor(images, device="cpu", channels_last=False):
  """NumPy NHWC or torch NCHW, uint8 or float in [-1, 1] → NCHW in [-1, 1]."""
  if isinstance(images, np.ndarray):
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
  images = images.to(device)
  images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
  return images.contiguous(memory_format=MEMORY_FORMAT[channels_last])


def cross_entropy(logits, real):
  """Mean binary cross-entropy on logits, all labelled real (1) or all fake (0)."""
  return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real), dtype=torch.float32))


class Pix2Pix:
  """Both networks, their optimizers, and the alternating update. bfloat16 uses autocast, with float32 parameters."""

  def __init__(
    self,
    image_size,
    base_features=64,
    in_channels=3,
    out_channels=3,
    l1_weight=None,
    dtype=torch.float32,
    channels_last=False,
    compile=False,
    device="cpu",
  ):
    assert dtype in (torch.float32, torch.bfloat16), f"dtype is {dtype}; it has to be torch.float32 or torch.bfloat16"
    placement = dict(device=device, memory_format=MEMORY_FORMAT[channels_last])
    self.generator = UNet(in_channels, out_channels, base_features, num_levels(image_size)).to(**placement)
    self.discriminator = PatchGAN(in_channels + out_channels, base_features).to(**placement)
    self.l1_weight = 300 / out_channels if l1_weight is None else l1_weight
    self.translate = torch.compile(self.generator) if compile else self.generator
    self.judge = torch.compile(self.discriminator) if compile else self.discriminator
    self.autocast = functools.partial(
      torch.autocast, torch.device(device).type, torch.bfloat16, dtype == torch.bfloat16
    )
    adam = functools.partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
    self.generator_optimizer = adam(self.generator.parameters())
    self.discriminator_optimizer = adam(self.discriminator.parameters())

  def discriminator_step(self, inputs, targets, fakes):
    """Updates D on real → 1 and fake → 0; returns the halved loss."""
    self.discriminator.requires_grad_(True)
    self.discriminator_optimizer.zero_grad()
    with self.autocast():
      real = self.judge(torch.cat([inputs, targets], dim=1))
      fake = self.judge(torch.cat([inputs, fakes.detach()], dim=1))
    loss = (cross_entropy(real, True) + cross_entropy(fake, False)) / 2
    loss.backward()
    self.discriminator_optimizer.step()
    return loss.detach()

  def generator_step(self, inputs, targets, fakes):
    """Updates G through the current D, without a gradient for D; returns the loss and L1."""
    self.discriminator.requires_grad_(False)
    self.generator_optimizer.zero_grad()
    with self.autocast():
      logits = self.judge(torch.cat([inputs, fakes], dim=1))
    l1 = F.l1_loss(fakes.float(), targets)
    loss = cross_entropy(logits, True) + self.l1_weight * l1
    loss.backward()
    self.generator_optimizer.step()
    return loss.detach(), l1.detach()

  def train_step(self, inputs, targets):
    """Updates D, then G, on NCHW tensors in [-1, 1].

    Returns [d_loss, g_loss, l1 on [-1, 1]] without waiting for the device.
    """
    with self.autocast():
      fakes = self.translate(inputs)
    discriminator_loss = self.discriminator_step(inputs, targets, fakes)
    return torch.stack([discriminator_loss, *self.generator_step(inputs, targets, fakes)])


def make_train_step(
  batch_size, image_size, base_features=64, dtype=torch.float32, channels_last=False, compile=False, device=None
):
  """Returns (step, info). `step(inputs, targets)` returns the losses and does not wait for a GPU; see `to_tensor`."""
  info = describe(**locals())
  device = info["device"]
  model = Pix2Pix(image_size, base_features, dtype=dtype, channels_last=channels_last, compile=compile, device=device)
  info["parameters"] = num_parameters(model.generator) + num_parameters(model.discriminator)

  def step(inputs, targets):
    assert len(inputs) == batch_size, f"{len(inputs)} images in a batch of {batch_size}"
    return model.train_step(*(to_tensor(images, device, channels_last) for images in (inputs, targets)))

  return step, info


def make_generator(
  batch_size, image_size, base_features=64, dtype=torch.float32, channels_last=False, compile=False, device=None
):
  """Returns (forward, info). `forward(inputs)` returns NCHW images.

  Batch norm uses batch statistics, dropout is on, and weights are in `dtype` too.
  """
  info = describe(**locals())
  device = info["device"]
  generator = UNet(3, 3, base_features, num_levels(image_size)).to(
    device, dtype, memory_format=MEMORY_FORMAT[channels_last]
  )
  info["parameters"] = num_parameters(generator)
  translate = torch.compile(generator) if compile else generator

  @torch.no_grad()
  def forward(inputs):
    assert len(inputs) == batch_size, f"{len(inputs)} images in a batch of {batch_size}"
    return translate(to_tensor(inputs, device, channels_last).to(dtype))

  return forward, info


def describe(device=None, dtype=torch.float32, **settings):
  """The settings to report with a measurement, ready for JSON. If `device` is None, it is the GPU if there is one."""
  device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
  name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
  return dict(
    settings,
    dtype=str(dtype),
    torch=torch.__version__,
    device=device,
    device_name=name,
    threads=torch.get_num_threads(),
    omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
  )


class PairDataset(torch.utils.data.Dataset):
  """The usual Dataset over DIR/N.jpg or DIR/N.png (photo = target | labels = input).

  Every access decodes, resizes, crops, mirrors and normalises.
  """

  def __init__(self, path, load_size, crop_size):
    self.files = sorted(file for form in ("*.jpg", "*.png") for file in pathlib.Path(path).glob(form))
    self.load_size, self.crop_size = load_size, crop_size

  def __len__(self):
    return len(self.files)

  def __getitem__(self, index):
    with Image.open(self.files[index]) as file:
      image = file.convert("RGB")
    half = image.width // 2
    left, top = torch.randint(self.load_size - self.crop_size + 1, (2,)).tolist()
    mirrored = torch.rand(()) < 0.5
    pair = []
    for start in (half, 0):
      side = image.crop((start, 0, start + half, image.height)).resize((self.load_size, self.load_size), Image.BICUBIC)
      side = side.crop((left, top, left + self.crop_size, top + self.crop_size))
      side = side.transpose(Image.FLIP_LEFT_RIGHT) if mirrored else side
      pair.append(torch.from_numpy(np.array(side)).permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1))
    return tuple(pair)


def read_pairs(path, size):
  """Reads (inputs, targets), uint8 (n, size, size, 3).

  `path` is a folder of N.jpg (photo = target | labels = input), which are resized, or a .npz of that size.
  """
  if str(path).endswith(".npz"):
    arrays = np.load(path)
    inputs, targets = arrays["input"], arrays["target"]
    for array in (inputs, targets):
      assert array.dtype == np.uint8 and array.shape == (len(inputs), size, size, 3), (
        f"{path}: {array.dtype} {array.shape}"
      )
    return inputs, targets
  inputs, targets = [], []
  for file in sorted(pathlib.Path(path).glob("*.jpg"), key=lambda file: (len(file.stem), file.stem)):  # numeric order
    image = Image.open(file).convert("RGB")
    half = image.width // 2
    for side, left in ((targets, 0), (inputs, half)):
      side.append(np.asarray(image.crop((left, 0, left + half, image.height)).resize((size, size), Image.BICUBIC)))
  assert inputs, f"{path} has no *.jpg"
  return np.stack(inputs), np.stack(targets)


def jittered_batches(inputs, targets, crop_size, batch_size, rng):
  """Yields one epoch in random order; each pair gets one random crop and one random mirror."""
  order = rng.permutation(len(inputs))
  for start in range(0, len(order) - batch_size + 1, batch_size):
    pairs = []
    for index in order[start : start + batch_size]:
      top, left = rng.integers(inputs.shape[1] - crop_size + 1, size=2)
      pair = np.stack([inputs[index], targets[index]])[:, top : top + crop_size, left : left + crop_size]
      pairs.append(pair[:, :, ::-1] if rng.random() < 0.5 else pair)
    yield np.stack(pairs, axis=1)  # (2, N, H, W, C): inputs, targets


def evaluate(generator, inputs, targets, device="cpu", seed=0):
  """Means on [0, 1] over every image, and the outputs as uint8 NHWC, by the paper's test protocol.

  Each image is a batch of one, with batch statistics and dropout on. Works on a copy of the generator with separate
  random numbers, so that training is not affected.
  """
  import dm_pix  # here, because `serve` needs neither dm_pix nor JAX
  import jax

  compare = jax.jit(lambda a, b: (dm_pix.psnr(a, b), dm_pix.ssim(a, b)))
  generator = copy.deepcopy(generator).train()
  rows, outputs = [], []
  with torch.random.fork_rng(), torch.no_grad():
    torch.manual_seed(seed)
    for index in range(len(inputs)):
      output = generator(to_tensor(inputs[index : index + 1], device))[0]
      output = (output.permute(1, 2, 0).cpu().numpy() + 1) / 2
      target = targets[index].astype(np.float32) / 255
      psnr, ssim = compare(output, target)
      rows.append((np.abs(output - target).mean(), float(psnr), float(ssim)))
      outputs.append(np.uint8(np.rint(output * 255)))
  l1, psnr, ssim = np.mean(rows, axis=0, dtype=np.float64).tolist()
  return dict(l1=l1, psnr=psnr, ssim=ssim, count=len(rows)), np.stack(outputs)


def training_work(batch_size, image_size, **settings):
  """Returns (run, info); `run(count)` returns seconds per training step, on one batch that is already on the device."""
  step, info = make_train_step(batch_size, image_size, **settings)
  random = lambda: to_tensor(
    torch.rand(batch_size, 3, image_size, image_size) * 2 - 1, info["device"], info["channels_last"]
  )
  inputs, targets = random(), random()

  def run(count):
    synchronize(info["device"])
    start = time.perf_counter()
    for _ in range(count):
      step(inputs, targets)
    synchronize(info["device"])
    return (time.perf_counter() - start) / count

  return run, info


def translation_work(batch_size, image_size, **settings):
  """The same for translation, with uint8 NHWC arrays in and out."""
  forward, info = make_generator(batch_size, image_size, **settings)
  inputs = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8)

  def run(count):
    start = time.perf_counter()
    for _ in range(count):
      outputs = (
        forward(inputs)
        .float()
        .add_(1)
        .mul_(127.5)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
      )
    assert outputs.shape == inputs.shape
    return (time.perf_counter() - start) / count

  return run, info


def loading_work(path, batch_size, load_size, crop_size, workers):
  """Returns (run, info); `run(seconds)` returns seconds per batch of a fresh iterator, without its first batch."""
  dataset = PairDataset(path, load_size, crop_size)
  # Endless, so that no epoch restarts the workers.
  sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**9)
  loader = torch.utils.data.DataLoader(
    dataset, batch_size, sampler=sampler, num_workers=workers, pin_memory=torch.cuda.is_available()
  )

  def run(seconds):
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for count in itertools.count(1):
      next(batches)
      if time.perf_counter() - start >= seconds:
        return (time.perf_counter() - start) / count

  return run, describe(workers=workers, pairs=len(dataset))


WORKS = dict(train_step=training_work, translate=translation_work, load=loading_work)


def synchronize(device):
  if device.startswith("cuda"):
    torch.cuda.synchronize()


def setups(dtype):
  """Settings worth trying: on a CPU, both memory formats with several numbers of threads, all eager."""
  if not torch.cuda.is_available():
    cores = os.cpu_count()
    threads = sorted({max(1, cores // 2), torch.get_num_threads(), cores})
    return [dict(channels_last=last, threads=number) for number in threads for last in (False, True)]
  if dtype == torch.bfloat16:
    return [dict(channels_last=True, compile=True)]
  return [dict(channels_last=last) for last in (False, True)]


def serve(work, settings):
  """Does one of WORKS on request: prints its settings, then a result for every number that it reads, as JSON lines.

  `settings` are the arguments of that function, and optionally `threads` and `try_all`. With `try_all` it first times
  each of `setups` and uses the fastest.
  """
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX does
  settings = dict(settings)
  if "dtype" in settings:
    settings["dtype"] = getattr(torch, settings["dtype"])

  def make(threads=None, **more):
    if threads:
      torch.set_num_threads(threads)
    run, info = WORKS[work](**settings, **more)
    return run, info

  trial = {}
  if settings.pop("try_all", False):
    tried = []
    for setup in setups(settings.get("dtype")):
      run, _ = make(**setup)
      run(1)
      tried.append((min(run(1) for _ in range(3)), setup))
      del run  # frees its memory before the next one
    _, fastest = min(tried, key=lambda one: one[0])
    settings |= fastest
    trial = dict(
      fastest=fastest, tried_s={" ".join(f"{k}={v}" for k, v in setup.items()): round(s, 4) for s, setup in tried}
    )
  run, info = make(settings.pop("threads", None))
  print(json.dumps({name: value for name, value in (info | trial).items() if value is not None}), flush=True)
  for line in sys.stdin:
    seconds = run(float(line) if work == "load" else int(line))
    print(json.dumps(dict(seconds=seconds, peak_memory_mib=peak_memory_mib())), flush=True)


def peak_memory_mib():
  """Peak allocation on the GPU, or peak resident memory of this process, so far."""
  if torch.cuda.is_available():
    return torch.cuda.max_memory_allocated() / 2**20
  try:  # not ru_maxrss, which on Linux starts at the parent process's value
    (line,) = [
      line
      for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
      if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 2**10
  except (OSError, ValueError):
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


LENGTH = ("num_epochs", "keep_epochs", "threads", "output")  # settings that may change when a run is resumed


def save(path, model, rng, history, settings):
  """Writes everything that the next epoch depends on, so that the same command resumes an interrupted run."""
  parts = [model.generator, model.discriminator, model.generator_optimizer, model.discriminator_optimizer]
  state = dict(
    parts=[part.state_dict() for part in parts],
    torch_rng=torch.get_rng_state(),
    numpy_rng=rng.bit_generator.state,
    history=history,
    settings=settings,
  )
  torch.save(state, path.with_suffix(".part"))
  path.with_suffix(".part").replace(path)


def restore(path, model, rng, settings):
  """Returns the history of the epochs in `path`, after restoring their state; without the file, no epochs."""
  if not path.exists():
    return []
  state = torch.load(path, weights_only=False)  # written by `save`
  changed = {name for name, value in settings.items() if name not in LENGTH and state["settings"].get(name) != value}
  assert not changed, f"{path} is from a run with other settings: {sorted(changed)}"
  parts = [model.generator, model.discriminator, model.generator_optimizer, model.discriminator_optimizer]
  for part, saved in zip(parts, state["parts"], strict=True):
    part.load_state_dict(saved)
  torch.set_rng_state(state["torch_rng"])
  rng.bit_generator.state = state["numpy_rng"]
  return state["history"]


def train(args):
  torch.manual_seed(args.seed)
  rng = np.random.default_rng(args.seed)
  environment = describe(cpu_count=os.cpu_count())
  device = environment["device"]
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  inputs, targets = read_pairs(f"{args.source_dir}/train", args.load_size)
  eval_inputs, eval_targets = read_pairs(args.eval_arrays or f"{args.source_dir}/val", args.crop_size)
  steps = len(inputs) // args.batch_size
  assert steps > 0 and args.load_size >= args.crop_size, (
    f"batch_size is above the {len(inputs)} images, or crop_size is above load_size"
  )
  model = Pix2Pix(args.crop_size, args.base_features, device=device, dtype=getattr(torch, args.dtype))
  history = restore(output / "state.pt", model, rng, vars(args))
  for epoch in range(len(history) + 1, args.num_epochs + 1):
    start, losses = time.perf_counter(), []
    for batch in jittered_batches(inputs, targets, args.crop_size, args.batch_size, rng):
      losses.append(model.train_step(*(to_tensor(images, device) for images in batch)))
      if epoch == len(losses) == 1:
        losses[0].tolist()  # waits for the device
        print("first step done", flush=True)
    d_loss, g_loss, l1 = torch.stack(losses).mean(0).tolist()  # waits for the device
    row = dict(
      epoch=epoch, d_loss=d_loss, g_loss=g_loss, l1=l1 / 2, steps_per_second=steps / (time.perf_counter() - start)
    )
    if epoch % args.eval_every_epochs == 0 or epoch == args.num_epochs:
      metrics, outputs = evaluate(model.generator, eval_inputs, eval_targets, device, args.seed)
      row.update({f"val_{name}": value for name, value in metrics.items()})
      grid = np.concatenate([eval_inputs[:4], outputs[:4], eval_targets[:4]], axis=2)  # rows of input | output | target
      Image.fromarray(np.concatenate(grid)).save(output / "grid.png")
      if epoch in args.keep_epochs:
        Image.fromarray(np.concatenate(grid)).save(output / f"grid_{epoch:03}.png")
        torch.save(model.generator.state_dict(), output / f"generator_{epoch:03}.pt")
    history.append(row)
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    save(output / "state.pt", model, rng, history, vars(args))
  torch.save(model.generator.state_dict(), output / "generator.pt")
  speed = float(np.median([row["steps_per_second"] for row in history]))
  summary = dict(history[-1], median_steps_per_second=speed, settings=vars(args), environment=environment)
  (output / "metrics.json").write_text(json.dumps(dict(summary, history=history), indent=2) + "\n", encoding="utf-8")
  print(json.dumps(summary))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--source_dir", help="folder in the layout of the pix2pix archive: train/N.jpg and val/N.jpg")
  parser.add_argument("--output", default="runs/torch_peer", help="folder to write to")
  parser.add_argument("--eval_arrays", help="npz of uint8 NHWC `input` and `target`, instead of val/")
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="precision of the arithmetic; bfloat16 uses autocast",
  )
  parser.add_argument("--serve", choices=WORKS, help="work for the benchmark that started this process; see `serve`")
  parser.add_argument("--settings", default="{}", help="settings for --serve, as JSON")
  parser.add_argument("--check", action="store_true", help="check the parameter counts, then exit")
  integers = dict(
    load_size=286, crop_size=256, base_features=64, batch_size=1, num_epochs=200, seed=0, eval_every_epochs=1
  )
  parser.add_argument(
    "--keep_epochs",
    type=lambda text: [int(epoch) for epoch in text.split(",")],
    default=[],
    help="epochs whose generator and grid are kept, separated by commas",
  )
  for name, default in dict(integers, threads=os.cpu_count()).items():
    parser.add_argument(f"--{name}", type=int, default=default)
  args = parser.parse_args()
  if args.serve:
    return serve(args.serve, json.loads(args.settings))
  torch.set_num_threads(args.threads)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # dm_pix uses JAX, which must not reserve the GPU's memory
  if args.check:
    sizes = dict(generator=num_parameters(UNet(3, 3, 64, 8)), discriminator=num_parameters(PatchGAN(6, 64)))
    assert sizes == dict(generator=54_413_955, discriminator=2_768_705), sizes
    print(json.dumps(sizes))
  elif args.source_dir:
    train(args)
  else:
    parser.error("--source_dir or --check is required")


if __name__ == "__main__":
  main()
