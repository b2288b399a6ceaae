"""Laws that hold for any data: batches, signals, resizing and translations of random forms and numbers.

The examples are the same in every run.
"""

import functools

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
from tiny_runs import make_translator

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import augmentation, pipeline
from pix2pix_jax.data.resizing import resize, resize_raw
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Quantity, Stack

examples = functools.partial(
  settings, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
slow_examples = functools.partial(examples, phases=[Phase.generate])  # to simplify a failure would take minutes
seeds = st.integers(0, 2**32 - 1)


# --- Signals


@st.composite
def ranges(draw, low=-1e6):
  """Pairs (lowest, highest) that float32 tells apart well."""
  first = draw(st.floats(low, 1e6, width=32))
  return first, float(np.float32(first + draw(st.floats(0.015625, 10, width=32)) * max(1.0, abs(first))))


images = st.builds(Image, st.integers(1, 5), st.sampled_from(["uint8", "uint16"]))
depths = st.builds(Depth, st.integers(1, 2), ranges(low=0.0))


@st.composite
def quantities(draw):
  dtype = draw(st.sampled_from(["float32", "int16", "uint16", "uint8", "int32"]))
  channels = draw(st.integers(1, 3))
  if dtype == "float32":
    chosen = draw(st.lists(ranges(), min_size=channels, max_size=channels))
  else:
    limits = np.iinfo(dtype if dtype != "int32" else "int16")
    ends = st.lists(st.integers(limits.min, limits.max), min_size=2, max_size=2, unique=True)
    chosen = [tuple(sorted(map(float, pair))) for pair in draw(st.lists(ends, min_size=channels, max_size=channels))]
  nodata = draw(st.sampled_from([(), (-9.0,)])) if dtype != "uint8" and dtype != "uint16" else ()
  return Quantity(channels, dtype, tuple(chosen), "HU", nodata)


classes = st.builds(Classes, st.integers(1, 200), ignore=st.sampled_from([-1, 200, 255]))
single = st.one_of(images, depths, quantities(), classes)
stacks = st.lists(single, min_size=1, max_size=3).map(
  lambda parts: Stack(tuple(parts), tuple(f"part{number}" for number in range(len(parts))))
)
signals = st.one_of(single, stacks)


def raw_values(signal, seed, shape=(3, 4)):
  """Raw numbers of every kind: values beyond the range, both ends of it, and pixels without a value."""
  rng = np.random.default_rng(seed)
  shape = (*shape, signal.raw_channels)
  if isinstance(signal, Stack):
    parts = [raw_values(part, seed + number, shape[:2]) for number, part in enumerate(signal.parts)]
    return np.concatenate([part.astype(np.float32) for part in parts], axis=-1)
  if isinstance(signal, Image):
    largest = np.iinfo(signal.dtype).max
    return rng.choice([0, largest, *rng.integers(0, largest, 9)], shape).astype(signal.dtype)
  if isinstance(signal, Classes):
    return rng.choice([*range(signal.count), *[signal.ignore] * signal.has_holes], shape).astype(np.uint8)
  if isinstance(signal, Depth):
    low, high = signal.range
    return rng.choice([0, low, high, 2 * high, *rng.uniform(low, high, 9)], shape).astype(np.float32)
  low, high = np.array(signal.range).T
  values = low + (high - low) * rng.choice([-0.5, 0, 1, 2, *rng.random(9)], shape)
  if signal.dtype != "float32":
    limits = np.iinfo(signal.dtype)
    return values.round().clip(limits.min, limits.max).astype(signal.dtype)
  return np.where(rng.random(shape) < 0.2, rng.choice([np.nan, np.inf, *signal.nodata], shape), values).astype("f4")


def clipped(signal, raw):
  """What should come back of raw values: those beyond the range become its ends, holes its lower end, or class 0."""
  if isinstance(signal, Image):
    return raw
  if isinstance(signal, Classes):
    return np.where(raw == signal.ignore, 0, raw)
  low, high = np.array([signal.range] if isinstance(signal, Depth) else signal.range, np.float32).T
  if isinstance(signal, Depth):
    return raw.clip(low, high)
  return np.where(np.isfinite(signal.canonical(raw)), raw, low).clip(low, high)


@examples(max_examples=150)
@given(single, seeds)
def test_values_come_back_from_their_code(signal, seed):
  raw = raw_values(signal, seed)
  encoded = signal.encode(raw)
  assert encoded.dtype == np.float32 and encoded.shape == (*raw.shape[:2], signal.channels)
  assert -1 <= encoded.min() and encoded.max() <= 1
  decoded = signal.decode(encoded)
  assert (decoded.dtype, decoded.shape) == (signal.dtype, raw.shape)
  if decoded.dtype.kind in "ui":
    np.testing.assert_array_equal(decoded, clipped(signal, raw))
  else:
    low, high = np.array([signal.range] if isinstance(signal, Depth) else signal.range).T
    tolerance = 2.0**-21 * (high - low + np.maximum(abs(low), abs(high)))
    assert (np.abs(decoded - clipped(signal, raw)) <= tolerance).all()


@examples(max_examples=60)
@given(stacks, seeds)
def test_a_stack_is_its_parts_one_after_the_other(stack, seed):
  raw = stack.accept(raw_values(stack, seed), "x")
  pieces = list(zip(stack.parts, stack.split(raw)))
  encoded = np.concatenate([part.encode(piece) for part, piece in pieces], axis=-1)
  np.testing.assert_array_equal(stack.encode(raw), encoded)
  decoded = np.concatenate([part.decode(part.encode(piece)) for part, piece in pieces], axis=-1, dtype=np.float32)
  np.testing.assert_array_equal(stack.decode(encoded), decoded)
  assert encoded.shape[-1] == stack.channels and raw.shape[-1] == stack.raw_channels


@examples(max_examples=100)
@given(signals, seeds)
def test_accepting_twice_changes_nothing_and_finds_the_same_holes(signal, seed):
  raw = raw_values(signal, seed)
  once = signal.canonical(raw)
  np.testing.assert_array_equal(signal.canonical(once), once)
  np.testing.assert_array_equal(signal.encode(once), signal.encode(raw))
  valid = signal.valid(raw)
  if valid is not None:
    assert valid.shape == (*raw.shape[:2], 1) and valid.dtype == bool
    np.testing.assert_array_equal(signal.valid(once), valid)
  if isinstance(signal, Quantity):
    np.testing.assert_array_equal(valid[..., 0], np.isfinite(once).all(-1))


@examples(max_examples=100)
@given(signals, seeds, st.sampled_from([1.0, 1.5, 1e30, np.inf]))
def test_whatever_a_network_says_is_decoded_within_the_range(signal, seed, largest):
  rng = np.random.default_rng(seed)
  said = rng.choice([-largest, largest, *rng.uniform(-1, 1, 5)], (3, 4, signal.channels)).astype(np.float32)
  parts = signal.parts if isinstance(signal, Stack) else (signal,)
  pieces = signal.split_encoded(said) if isinstance(signal, Stack) else [said]
  for part, piece in zip(parts, pieces):
    decoded = part.decode(piece)
    if isinstance(part, Image):
      assert decoded.dtype == part.dtype
      assert (decoded == np.iinfo(part.dtype).max)[piece >= 1].all() and (decoded == 0)[piece <= -1].all()
    elif isinstance(part, Classes):
      assert decoded.max() < part.count
    elif isinstance(part, Quantity) or largest == 1:
      low, high = np.array([part.range] if isinstance(part, Depth) else part.range, np.float64).T
      slack = 2.0**-21 * (high - low + np.maximum(abs(low), abs(high))) * (np.dtype(part.dtype).kind == "f")
      assert (decoded >= low - slack).all() and (decoded <= high + slack).all()


@examples(max_examples=12)
@given(signals, seeds)
def test_what_is_kept_on_devices_has_the_bits_of_the_code(signal, seed):
  raw = raw_values(signal, seed)
  packed = signal.pack(raw)
  unpacked = np.asarray(jax.jit(signal.unpack)(packed))
  assert packed.shape == raw.shape or isinstance(signal, Stack | Depth | Quantity)
  np.testing.assert_array_equal(unpacked.view(np.int32), signal.encode(raw).view(np.int32))


# --- Resizing

sides = st.integers(1, 24)
resamplings = st.sampled_from(["bicubic", "nearest", "area"])


def image_for(resampling, size, channels, seed):
  rng = np.random.default_rng(seed)
  if resampling == "area":
    values = rng.normal(0, 1000, (*size, channels)).astype(np.float32)
    return np.where(rng.random(values.shape) < 0.2, np.float32(np.nan), values)
  dtype = rng.choice([np.uint8, np.uint16])
  return rng.integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


@examples(max_examples=150)
@given(st.data(), resamplings, st.tuples(sides, sides), st.tuples(sides, sides), st.integers(1, 4), seeds)
def test_a_window_of_a_resized_image_is_that_part_of_it(data, resampling, size, shape, channels, seed):
  image = image_for(resampling, size, channels, seed)
  whole = resize(image, shape, resampling)
  assert (whole.shape, whole.dtype) == ((*shape, channels), image.dtype)
  y, x = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
  height, width = data.draw(st.integers(1, shape[0] - y)), data.draw(st.integers(1, shape[1] - x))
  found = resize(image, shape, resampling, (y, x, height, width))
  np.testing.assert_array_equal(found, whole[y : y + height, x : x + width])


@examples(max_examples=150)
@given(resamplings, st.tuples(sides, sides), st.tuples(sides, sides), seeds)
def test_resizing_invents_no_values_and_knows_no_left_or_right(resampling, size, shape, seed):
  image = image_for(resampling, size, 2, seed)
  resized = resize(image, shape, resampling)
  if resampling == "nearest":
    assert set(np.unique(resized)) <= set(np.unique(image))
    return
  mirrored = resize(image[:, ::-1], shape, resampling)[:, ::-1]
  if resampling == "bicubic":
    assert np.abs(resized.astype(int) - mirrored).max() <= 1
    flat = np.full_like(image, image[0, 0, 0])
    np.testing.assert_array_equal(resize(flat, shape, resampling), flat[0, 0, 0])
  elif np.isfinite(resized).any():
    assert np.nanmin(image) - 0.1 <= np.nanmin(resized) and np.nanmax(resized) <= np.nanmax(image) + 0.1
    known = np.isfinite(resized) & np.isfinite(mirrored)  # an exact half may be lost to rounding
    np.testing.assert_allclose(resized[known], mirrored[known], atol=0.1)


@examples(max_examples=60)
@given(signals, st.tuples(sides, sides), seeds)
def test_resized_raw_values_are_raw_values(signal, shape, seed):
  resized = resize_raw(signal, raw_values(signal, seed), shape)
  assert resized.shape == (*shape, signal.raw_channels)
  np.testing.assert_array_equal(signal.canonical(signal.accept(resized, "x")), signal.canonical(resized))


# --- Batches


@st.composite
def cases(draw):
  """A split whose pixels hold their example and place, settings, and the form of its batches."""
  count, height, width = draw(st.integers(1, 7)), draw(st.integers(4, 9)), draw(st.integers(4, 9))
  y, x = np.mgrid[:height, :width]
  pixels = np.stack([np.stack([np.full_like(y, n), y, x], -1) for n in range(count)])
  spec = DataSpec(Image(3), Depth(3, (0.0, 128.0)), {"train": count})
  arrays = {"input": pixels.astype(np.uint8), "target": (pixels + 1).astype(np.float32)}
  arrays["mask"] = (arrays["target"].sum(-1, keepdims=True) % 3) > 0
  split = pipeline.MemorySplit(arrays, [str(n) for n in range(count)], spec)
  settings = config_lib.default().data
  settings.update({"crop_size": draw(st.integers(1, height)), "crop_width": draw(st.integers(1, width))})
  settings.update({"load_size": height, "load_width": width, "mirror": draw(st.booleans()), "shuffle": True})
  return split, settings, {"batch_size": draw(st.sampled_from([1, 2, 4, 6])), "seed": draw(seeds)}


def take(split, data, count, **form):
  batches = pipeline.train_batches(split, data, **form)
  return [next(batches) for _ in range(count)]


def places(batch):
  """(N, H, W, 3): the example, row and column that the pixels of a batch come from."""
  return np.round((batch["input"] + 1) * 127.5).astype(int)


@slow_examples(max_examples=10)
@given(cases())
def test_each_epoch_has_every_example_once_in_crops_within_it(case):
  split, data, form = case
  size, count = split.sizes[0], len(split)
  steps = -(-3 * count // form["batch_size"])
  crop = (data.crop_size, data.crop_width)
  seen = []
  for batch in take(split, data, steps, **form):
    found = places(batch)
    target = (batch["target"] + 1) * 64 - 1
    np.testing.assert_allclose(target, found, atol=1e-4, err_msg="input and target move together")
    np.testing.assert_array_equal(batch["mask"], (found + 1).sum(-1, keepdims=True) % 3 > 0)
    assert found.shape[1:3] == crop
    assert (found[..., 1:] >= 0).all() and (found[..., 1:] < size).all()
    rows, columns = found[:, :, 0, 1], found[:, 0, :, 2]
    assert (np.diff(rows, axis=1) == 1).all() and len(set(found[0, ..., 0].ravel())) == 1
    step = np.diff(columns, axis=1)
    assert ((step == 1).all(1) | ((step == -1).all(1) & data.mirror)).all()
    seen += found[:, 0, 0, 0].tolist()
  for epoch in range(3):
    assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@slow_examples(max_examples=6)
@given(cases(), st.integers(0, 12), st.sampled_from([2, 3]))
def test_batches_depend_on_neither_the_start_nor_the_processes(case, start, processes):
  split, data, form = case
  form["batch_size"] *= processes
  whole = take(split, data, start + 2, **form)[start:]
  shares = []
  with pytest.MonkeyPatch.context() as patch:
    for process in range(processes):
      patch.setattr(pipeline.jax, "process_count", lambda: processes)
      patch.setattr(pipeline.jax, "process_index", lambda process=process: process)
      shares.append(take(split, data, 2, start_step=start, **form))
  for number, batch in enumerate(whole):
    for name in batch:
      np.testing.assert_array_equal(np.concatenate([share[number][name] for share in shares]), batch[name], name)


@slow_examples(max_examples=5)
@given(cases())
def test_mirroring_twice_is_not_mirroring(case):
  split, data, form = case
  data.mirror = True
  mirrored = take(split, data, 2, **form)
  data.mirror = False
  for batch, plain in zip(mirrored, take(split, data, 2, **form)):
    for row in range(form["batch_size"]):
      same = [np.array_equal(batch[name][row], plain[name][row]) for name in batch]
      turned = [np.array_equal(batch[name][row][:, ::-1], plain[name][row]) for name in batch]
      assert all(same) or all(turned)


@examples(max_examples=60)
@given(st.integers(0, 7), st.booleans(), st.tuples(sides, sides), seeds)
def test_rearranged_pixels_return(turns, upside_down, size, seed):
  change = augmentation.Change(quarter_turns=turns, upside_down=upside_down)
  array = np.random.default_rng(seed).random((*change.before_turns(size), 2))
  there = change.rearrange(array)
  assert there.shape[:2] == size
  np.testing.assert_array_equal(np.rot90(there[::-1] if upside_down else there, -turns), array)


@examples(max_examples=100)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), seeds)
def test_an_evaluation_sees_every_image_once_whatever_their_sizes(count, batch_size, kinds, multiple, seed):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(multiple, 3 * multiple + 9, (kinds, 2))[rng.integers(0, kinds, count)]
  arrays = {"input": [rng.integers(0, 256, (*size, 1)).astype(np.uint8) for size in sizes]}
  split = pipeline.MemorySplit(arrays, [str(n) for n in range(count)], DataSpec(Image(1), Image(1), {"val": count}))
  seen = []
  for batch in pipeline.eval_batches(split, batch_size=batch_size, multiple=multiple):
    assert len(batch["input"]) == batch_size and not any(side % multiple for side in batch["input"].shape[1:3])
    for image, index, is_real in zip(batch["input"], batch["index"], batch["is_real"]):
      height, width = sizes[index]
      np.testing.assert_array_equal(image[:height, :width], split.read_encoded(index)["input"])
      seen += [index] * bool(is_real)
  assert sorted(seen) == list(range(count))


# --- Translations

KINDS = {
  "image": {},
  "16 bits": {"data__target_dtype": "uint16", "model__input_channels": 1, "data__input_dtype": "uint16"},
  "depth": {"data__target_kind": "depth", "model__output_channels": 2, "data__validity_channel": True},
}


@pytest.fixture(scope="module", params=KINDS)
def translator(request):
  return make_translator(**KINDS[request.param])


@slow_examples(max_examples=10)
@given(st.data(), st.integers(1, 16), st.integers(1, 16), st.integers(0, 2), seeds)
def test_an_image_of_any_size_and_form_comes_back_at_its_size(translator, data, height, width, count, seed):
  channels = translator.input_signal.channels
  dtype = data.draw(st.sampled_from(["uint8", "uint16", "bool", "float16", "float32", "float64", ">u2", ">f4"]))
  shape = (*[count] * (count > 0), height, width, channels)
  if channels == 1 and not count and data.draw(st.booleans()):
    shape = (height, width)
  values = np.random.default_rng(seed).random(shape)
  kind = np.dtype(dtype).kind
  image = (values * np.iinfo(dtype).max if kind == "u" else values > 0.5 if kind == "b" else values).astype(dtype)
  if data.draw(st.booleans()):
    image = image.swapaxes(-1, -2).copy().swapaxes(-1, -2)  # in another order of memory
  result = translator(image, batch_size=1, seed=seed)
  batched = (shape if len(shape) > 2 else (*shape, channels))[:-1]
  assert result.shape == (*batched, translator.target_signal.channels)
  is_float = kind == "f" or translator.target_signal.kind == "depth"
  assert result.dtype == (np.float32 if is_float else translator.target_signal.dtype)
  assert np.isfinite(result).all() and result.min() >= 0
