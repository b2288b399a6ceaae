// Arrays of values: the npy format, colours to show them in, and PNG files of 8 and 16 bits.

const TYPES = {
  'uint8': ['|u1', Uint8Array], 'int8': ['|i1', Int8Array], 'uint16': ['<u2', Uint16Array], 'int16': ['<i2', Int16Array],
  'uint32': ['<u4', Uint32Array], 'int32': ['<i4', Int32Array], 'float32': ['<f4', Float32Array],
  'float64': ['<f8', Float64Array],
};

/** An image of values: `data` holds height · width · channels numbers, the channels of a pixel side by side. */
export class Raster {
  constructor(height, width, channels, dtype, data) {
    Object.assign(this, { height, width, channels, dtype, data: data ?? new TYPES[dtype][1](height * width * channels) });
  }

  copy() { return new Raster(this.height, this.width, this.channels, this.dtype, this.data.slice()); }

  at(x, y) { const start = (y * this.width + x) * this.channels; return this.data.subarray(start, start + this.channels); }
}

/** The images in an npy file: one for (H, W) and (H, W, C), several for (N, H, W, C). */
export function readNpy(buffer) {
  const head = new Uint8Array(buffer, 0, Math.min(12, buffer.byteLength)), view = new DataView(buffer);
  if (String.fromCharCode(...head.slice(1, 6)) !== 'NUMPY') throw new Error('This is not an npy file.');
  const long = head[6] > 1, start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder('latin1').decode(new Uint8Array(buffer, start, length));
  const descr = header.match(/'descr': '([^']*)'/)?.[1], shape = header.match(/'shape': \(([^)]*)\)/)?.[1];
  const dtype = Object.keys(TYPES).find((name) => TYPES[name][0].slice(1) === descr?.slice(1) && descr[0] !== '>');
  if (!dtype || shape === undefined || /'fortran_order': True/.test(header)) throw new Error(`npy files of ${descr} are not read here.`);
  let sides = shape.split(',').filter((part) => part.trim()).map(Number);
  if (sides.length === 2) sides = [1, ...sides, 1];
  if (sides.length === 3) sides = [1, ...sides];
  const [count, height, width, channels] = sides, size = height * width * channels;
  const all = new TYPES[dtype][1](buffer.slice(start + length), 0, count * size);
  return Array.from({ length: count }, (_, i) => new Raster(height, width, channels, dtype, all.slice(i * size, (i + 1) * size)));
}

export function writeNpy(raster) {
  const shape = `(${raster.height}, ${raster.width}, ${raster.channels})`;
  let header = `{'descr': '${TYPES[raster.dtype][0]}', 'fortran_order': False, 'shape': ${shape}, }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n';
  const bytes = new Uint8Array(10 + header.length);
  bytes.set([0x93, ...[...'NUMPY'].map((c) => c.charCodeAt(0)), 1, 0, header.length & 255, header.length >> 8]);
  bytes.set([...header].map((c) => c.charCodeAt(0)), 10);
  return new Blob([bytes, raster.data], { type: 'application/x-npy' });
}

/** Whether a value of a signal stands for "no value". */
export function isHole(signal, values) {
  if (signal.kind === 'depth') return !(values[0] > 0) || !Number.isFinite(values[0]);
  if (signal.kind === 'quantity') return !Number.isFinite(values[0]);
  return signal.kind === 'classes' && values[0] === signal.ignore;
}

/** A function from a pixel's values to its [red, green, blue], as the signal is shown everywhere in this package. */
export function colorizer(signal, colormap) {
  if (signal.kind === 'classes') {
    const table = new Map(signal.classes.map((each) => [each.value[0], each.color]));
    return (values) => table.get(values[0]) ?? [0, 0, 0];
  }
  if (signal.kind === 'image') {
    const scale = { uint8: 1, uint16: 1 / 257, float32: 255 }, shown = signal.shown;
    return (values, dtype) => [0, 1, 2].map((i) => values[shown[shown.length === 3 ? i : 0]] * scale[dtype]);
  }
  const level = (value, [low, high]) => Math.min(1, Math.max(0, (value - low) / (high - low)));
  if (signal.shown.length === 3) {
    return (values) => isHole(signal, values) ? [0, 0, 0] : signal.shown.map((i) => Math.max(1, Math.round(255 * level(values[i], signal.ranges[i]))));
  }
  const channel = signal.shown[0], range = signal.ranges ? signal.ranges[channel] : signal.range;
  return (values) => {
    if (isHole(signal, values)) return [0, 0, 0];
    const at = level(values[channel], range);
    return colormap[Math.min(255, Math.floor((signal.reversed ? 1 - at : at) * 256))];
  };
}

/** Draws a raster, or one part of several inputs, whose channels begin at `offset`, into a canvas of its size. */
export function paint(canvas, raster, signal, colormap, offset = null) {
  const { height, width, data, channels } = raster, color = colorizer(signal, colormap);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d'), image = context.createImageData(width, height), pixels = image.data;
  const dtype = offset === null ? raster.dtype : signal.dtype; // several inputs are one float32 array of their raw values
  for (let i = 0, from = offset ?? 0, to = 0; i < height * width; i++, from += channels, to += 4) {
    const [red, green, blue] = color(data.subarray(from, from + signal.channels), dtype);
    pixels[to] = red; pixels[to + 1] = green; pixels[to + 2] = blue; pixels[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

const number = (value) => Number.isInteger(value) ? String(value) : Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(3);

/** The values of a pixel as text, with their unit or the name of their class. */
export function describe(signal, values) {
  if (signal.kind === 'stack') return signal.parts.map((part, i) => {
    const start = signal.parts.slice(0, i).reduce((sum, each) => sum + each.channels, 0);
    return `${part.name} ${describe(part, values.subarray(start, start + part.channels))}`;
  }).join(', ');
  if (isHole(signal, values)) return 'no value';
  if (signal.kind === 'classes') {
    const name = signal.classes.find((each) => each.value[0] === values[0])?.name;
    return name === undefined || name === String(values[0]) ? `class ${values[0]}` : `${name} (class ${values[0]})`;
  }
  const unit = signal.unit ? ` ${signal.unit}` : '';
  return Array.from(values, number).join(', ') + unit;
}

// --- PNG (specification: sections 5 and 11)

const CRC = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n >>> 0; });

function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...name].map((c) => c.charCodeAt(0)), 4);
  bytes.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, 8 + content.length)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + content.length, (crc ^ 0xffffffff) >>> 0);
  return bytes;
}

/** A PNG of a raster of uint8 or uint16 with 1 to 4 channels; with a palette ([[r, g, b], …]), of indices. */
export async function writePng(raster, palette) {
  const { height, width, channels, data } = raster, bytes = data.BYTES_PER_ELEMENT, row = width * channels * bytes;
  const raw = new Uint8Array(height * (row + 1));
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < width * channels; i++) {
      const value = data[y * width * channels + i], at = y * (row + 1) + 1 + i * bytes;
      if (bytes === 2) raw[at] = value >> 8;
      raw[at + bytes - 1] = value & 255;
    }
  }
  const zipped = new Blob([raw]).stream().pipeThrough(new CompressionStream('deflate'));
  const header = new Uint8Array(13), view = new DataView(header.buffer);
  view.setUint32(0, width); view.setUint32(4, height);
  header.set([8 * bytes, palette ? 3 : [0, 4, 2, 6][channels - 1]], 8);
  const parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), chunk('IHDR', header)];
  if (palette) parts.push(chunk('PLTE', Uint8Array.from(palette.flat())));
  parts.push(chunk('IDAT', new Uint8Array(await new Response(zipped).arrayBuffer())), chunk('IEND', new Uint8Array()));
  return new Blob(parts, { type: 'image/png' });
}

/** A raster in a format of the server: png, png16 or npy; depth in PNG becomes integers, metres times its scale. */
export async function encode(raster, signal, format) {
  if (format === 'npy') return writeNpy(raster);
  const { height, width, channels, data } = raster;
  if (signal.kind === 'classes') {
    const palette = Array.from({ length: 256 }, (_, i) => signal.classes.find((each) => each.value[0] === i)?.color ?? [0, 0, 0]);
    return writePng(raster, palette);
  }
  const convert = (map, type) => writePng(new Raster(height, width, channels, type, TYPES[type][1].from(data, map)));
  if (signal.kind === 'depth') return convert((v) => v > 0 ? Math.min(65535, Math.round(v * (signal.scale || 256))) : 0, 'uint16');
  if (format === 'png16' && raster.dtype === 'uint8') return convert((v) => 257 * v, 'uint16');
  return writePng(raster);
}
