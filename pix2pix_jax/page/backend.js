// Where the model is: on the server that sent this page. The folder of --static has another file of this name.

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

export const model = async () => (await request('model.json')).json();

/** {status: 'loading' | 'ready' | 'absent', reason, ids, palette} */
export const examples = async () => (await request('examples.json')).json();

/** The npy of an example's `input` or `target`. */
export const example = async (index, side) => (await request(`examples/${index}_${side}.npy`)).arrayBuffer();

/** The npy of a file of any format, as the model's input; `size` [height, width] crops and resizes it. */
export async function read(file, size) {
  const query = size ? `?size=${size[0]}x${size[1]}` : '';
  return (await request(`read${query}`, { method: 'POST', body: file })).arrayBuffer();
}

/** The npy of the translations of an npy. */
export async function translate(npy, { seed, samples, signal }) {
  for (let attempt = 0; ; attempt++) {
    try {
      const path = `translate?format=npy&seed=${seed}&samples=${samples}`;
      return await (await request(path, { method: 'POST', body: npy, signal })).arrayBuffer();
    } catch (error) {
      if (error.status !== 503 || attempt === 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 300 * (attempt + 1)));
    }
  }
}
