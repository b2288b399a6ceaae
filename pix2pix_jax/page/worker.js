// Runs the model of a static page. The encoding of values is that of pix2pix_jax/signals.py.

import * as ort from './onnxruntime/ort.wasm.min.mjs';

ort.env.wasm.wasmPaths = new URL('onnxruntime/', import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that few web hosts send

const about = fetch('model.json').then((response) => response.json());
const session = load();
session.catch(() => { /* whoever asks for a translation is told */ });

async function load() {
  const { bytes } = await about, total = bytes.model + bytes.runtime;
  let loaded = 0;
  const note = (size) => { loaded += size; postMessage({ loaded, total }); };
  const [model, wasmBinary] = await Promise.all(['model.onnx.gz', 'onnxruntime/ort-wasm-simd-threaded.wasm.gz'].map((path) => unpacked(path, note)));
  ort.env.wasm.wasmBinary = wasmBinary;
  const options = { executionProviders: ['wasm'], extra: { session: { disable_quant_qdq: '1' } } }; // turns int8 weights into floats once
  const made = await ort.InferenceSession.create(model, options);
  postMessage({ loaded: total, total, isReady: true });
  return made;
}

/** The content of a gzip file, whether or not the web host has decompressed it. */
async function unpacked(path, note) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} is missing on this web host: ${response.status}`);
  const reader = response.body.getReader(), chunks = [];
  for (let part; !(part = await reader.read()).done;) { chunks.push(part.value); note(part.value.length); }
  const content = new Blob(chunks), head = new Uint8Array(await content.slice(0, 2).arrayBuffer());
  const isPacked = head[0] === 0x1f && head[1] === 0x8b;
  return new Response(isPacked ? content.stream().pipeThrough(new DecompressionStream('gzip')) : content).arrayBuffer();
}

const FULL = { uint8: 255, uint16: 65535, float32: 1 };

/** Random bits of a seed (mulberry32 over a hash of seed and sample). */
function generator(seed, sample) {
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(sample + 1, 0xc2b2ae35)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** A function from a pixel's raw value in a channel to [-1, 1], and the number of channels that the network sees. */
function encoder(signal, dtype) {
  if (signal.kind === 'classes') return [signal.count, (at, c) => at(0) === c ? 1 : -1];
  if (signal.kind === 'image') return [signal.channels, (at, c) => at(c) * (2 / FULL[dtype]) - 1];
  const range = (c) => signal.ranges?.[c] ?? signal.range;
  return [signal.channels, (at, c) => {
    const value = at(c), [low, high] = range(c);
    const missing = !Number.isFinite(value) || (signal.kind === 'depth' && value <= 0);
    return missing ? -1 : Math.min(1, Math.max(-1, (value - low) * (2 / (high - low)) - 1));
  }];
}

/** The place that numpy's reflection reads for a place beyond the end. */
function reflected(i, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1), at = i % period;
  return at < size ? at : period - at;
}

/** The parts of an input: one, or those of a stack, with the first raw channel of each. */
function partsOf(signal) {
  let first = 0;
  return (signal.parts ?? [signal]).map((part) => { const made = { part, first }; first += part.channels; return made; });
}

function encode(raster, signal, multiple) {
  const { height, width, channels, data, dtype } = raster, up = (side) => Math.ceil(side / multiple) * multiple;
  const [tall, wide] = [up(height), up(width)], planes = [];
  for (const { part, first } of partsOf(signal)) {
    const [count, value] = encoder(part, signal.parts ? part.dtype : dtype);
    for (let c = 0; c < count; c++) {
      const plane = new Float32Array(tall * wide);
      for (let y = 0; y < tall; y++) {
        for (let x = 0; x < wide; x++) {
          const start = (reflected(y, height) * width + reflected(x, width)) * channels + first;
          plane[y * wide + x] = value((channel) => data[start + channel], c);
        }
      }
      planes.push(plane);
    }
  }
  const all = new Float32Array(planes.length * tall * wide);
  planes.forEach((plane, c) => all.set(plane, c * tall * wide));
  return new ort.Tensor('float32', all, [1, planes.length, tall, wide]);
}

function decode({ data, dims }, signal, height, width) {
  const [, planes, tall, wide] = dims, { channels, kind, dtype } = signal;
  const known = kind === 'classes' ? signal.count : channels; // a further plane is validity
  const missing = signal.missing ?? NaN; // JSON has no NaN
  const types = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array, int8: Int8Array, float32: Float32Array };
  const type = types[dtype] ?? Float32Array, result = new type(height * width * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = (c) => data[(c * tall + y) * wide + x], to = (y * width + x) * channels;
      if (planes > known && !(at(known) > 0)) {
        result.fill(missing, to, to + channels);
        continue;
      }
      if (kind === 'classes') {
        let best = 0;
        for (let c = 1; c < known; c++) if (at(c) > at(best)) best = c;
        result[to] = best;
        continue;
      }
      for (let c = 0; c < channels; c++) {
        const encoded = Math.min(1, Math.max(-1, at(c)));
        if (kind === 'image') {
          result[to + c] = roundEven((encoded + 1) * FULL[dtype] / 2);
        } else {
          const [low, high] = signal.ranges?.[c] ?? signal.range, value = (encoded + 1) * ((high - low) / 2) + low;
          result[to + c] = type === Float32Array ? value : roundEven(value);
        }
      }
    }
  }
  return { height, width, channels, dtype: types[dtype] ? dtype : 'float32', data: result };
}

const roundEven = (value) => { const floor = Math.floor(value), rest = value - floor; return rest === .5 ? floor + (floor % 2 ? 1 : 0) : Math.round(value); };

function masks(network, tall, wide, random) {
  return Object.fromEntries(network.masks.map(({ name, channels, size }) => {
    const [height, width] = [tall, wide].map((side) => side * size / network.multiple);
    const values = new Float32Array(channels * height * width).fill(1);
    if (network.dropout) for (let i = 0; i < values.length; i++) values[i] = random() & 0x10000 ? 2 : 0;
    return [name, new ort.Tensor('float32', values, [1, channels, height, width])];
  }));
}

const cancelled = new Set();
let queue = Promise.resolve();

async function work({ id, raster, seed, samples }) {
  if (cancelled.delete(id)) return;
  try {
    const { input, target, network } = await about, running = await session;
    const x = encode(raster, input, network.multiple), results = [];
    for (let sample = 0; sample < samples; sample++) {
      const { y } = await running.run({ x, ...masks(network, x.dims[2], x.dims[3], generator(seed, sample)) });
      results.push(decode(y, target, raster.height, raster.width));
    }
    postMessage({ id, results });
  } catch (error) {
    postMessage({ id, error: `The model cannot run in this browser (${error.message ?? error}).` });
  }
}

onmessage = ({ data }) => {
  if ('cancel' in data) cancelled.add(data.cancel);
  else queue = queue.then(() => work(data));
};
