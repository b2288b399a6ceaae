// Where the model is: in this folder, and a worker computes. It stands in for backend.js on web hosts without a server.

import { Raster, readNpy } from './values.js';

const fetched = async (path) => {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} is missing on this web host (${response.status}).`);
  return response;
};

export const isStatic = true;

export const model = async () => (await fetched('model.json')).json();
export const examples = async () => (await fetched('examples.json')).json();
export const example = async (index, side) => readNpy(await (await fetched(`examples/${index}_${side}.npy`)).arrayBuffer())[0];

/** A file as the model's input: npy, or an 8-bit image that the browser can read. */
export async function read(file, size, about) {
  const signal = about.input, head = new Uint8Array(await file.slice(0, 6).arrayBuffer());
  if (String.fromCharCode(...head.slice(1)) === 'NUMPY') {
    const [raster] = readNpy(await file.arrayBuffer());
    if (raster.channels !== signal.channels) throw new Error(`It has ${raster.channels} channels, but the input is: ${signal.description}.`);
    if (raster.dtype !== signal.dtype) raster.data = new Raster(0, 0, 0, signal.dtype).data.constructor.from(raster.data);
    return new Raster(raster.height, raster.width, raster.channels, signal.dtype, raster.data);
  }
  if (signal.kind !== 'image' && signal.kind !== 'classes') throw new Error(`The input is: ${signal.description}. Without a server, only npy files hold such numbers.`);
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { throw new Error('The image is in none of the formats that this browser reads, or damaged.'); }
  const [height, width] = size ?? [bitmap.height, bitmap.width], scale = Math.max(height / bitmap.height, width / bitmap.width);
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.imageSmoothingEnabled = signal.kind === 'image';
  context.imageSmoothingQuality = 'high';
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = context.getImageData(0, 0, width, height), raster = new Raster(height, width, signal.channels, signal.dtype);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (signal.kind === 'classes') {
      const distance = ({ color }) => (color[0] - red) ** 2 + (color[1] - green) ** 2 + (color[2] - blue) ** 2;
      raster.data[i] = signal.classes.reduce((best, each) => distance(each) < distance(best) ? each : best).value[0];
    } else {
      const full = signal.dtype === 'uint16' ? 257 : 1;
      const values = signal.channels >= 3 ? [red, green, blue, 255] : [.299 * red + .587 * green + .114 * blue, 255];
      for (let c = 0; c < signal.channels; c++) raster.data[i * signal.channels + c] = Math.round(values[c] * full);
    }
  }
  return raster;
}

let worker = null, onLoading = () => {};
const waiting = new Map();
let next = 0;

function start() {
  worker = new Worker('worker.js', { type: 'module' });
  worker.onmessage = ({ data: { id, error, results, loaded, total, isReady } }) => {
    if (total) { onLoading(Math.min(loaded, total), total, isReady); return; }
    const { resolve, reject } = waiting.get(id) ?? {};
    waiting.delete(id);
    if (error) reject?.(new Error(error));
    else resolve?.(results.map((each) => new Raster(each.height, each.width, each.channels, each.dtype, each.data)));
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(`The model cannot run in this browser (${event.message ?? 'no worker'}).`));
    waiting.clear();
    worker = null;
  };
}

/** `show(loaded, total, isReady)` is called while the model and the runtime are loaded, in bytes, and when they are ready. */
export const loading = (show) => { onLoading = show; };

/** The translations of a raster; what is computed already goes on, but its answer is dropped. */
export function translate(raster, { seed, samples, signal }) {
  if (!worker) start();
  const id = next++;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    signal?.addEventListener('abort', () => { waiting.delete(id); worker?.postMessage({ cancel: id }); reject(new DOMException('', 'AbortError')); });
    worker.postMessage({ id, raster: { ...raster }, seed, samples });
  });
}
