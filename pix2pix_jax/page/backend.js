// Where the model is: on the server that sent this page. The folder of --static has backend_static.js under this name.

import { readNpy, writeNpy } from './values.js';

async function answer(response) {
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try { message = (await response.json()).error ?? message; } catch { /* not JSON */ }
  throw Object.assign(new Error(message), { status: response.status });
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer. Is it still running?');
  }
  return answer(response);
}

export const isStatic = false;

export const loading = () => {}; // there is nothing to load

export const model = async () => (await request('model.json')).json();

/** {status: 'loading' | 'ready' | 'absent', reason, ids, palette} */
export const examples = async () => (await request('examples.json')).json();

/** The raster of an example's `input` or `target`. */
export const example = async (index, side) => readNpy(await (await request(`examples/${index}_${side}.npy`)).arrayBuffer())[0];

/** A file of any format as the model's input, a raster; `size` [height, width] crops and resizes it. */
export async function read(file, size) {
  const query = size ? `?size=${size[0]}x${size[1]}` : '';
  return readNpy(await (await request(`read${query}`, { method: 'POST', body: file })).arrayBuffer())[0];
}

/** The translations of a raster, a list of `samples`. */
export async function translate(raster, { seed, samples, signal }) {
  for (let attempt = 0; ; attempt++) {
    try {
      const path = `translate?format=npy&seed=${seed}&samples=${samples}`;
      return readNpy(await (await request(path, { method: 'POST', body: writeNpy(raster), signal })).arrayBuffer());
    } catch (error) {
      if (error.status !== 503 || attempt === 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 300 * (attempt + 1)));
    }
  }
}
