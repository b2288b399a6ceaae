// The page: what the user does becomes a drawing, and the drawing's translation is shown beside it.

import * as backend from './backend.js';
import { Drawing } from './paint.js';
import { Raster, colorizer, describe, encode, paint } from './values.js';

const $ = (id) => document.getElementById(id);
const DEBOUNCE = 40; // milliseconds
const PHOTO_COLORS = {
  black: '#000000', white: '#ffffff', grey: '#808080', red: '#c0392b', amber: '#e0a030', green: '#3a8f4d', sky: '#5fa8d3',
  navy: '#2c4a8a', brown: '#7a5230', sand: '#d9b99b',
};
const SAVE_NAMES = { png: 'PNG', png16: '16-bit PNG', npy: 'npy (NumPy array)', display: 'PNG as shown' };

let model, outputs = [], selected = 0, tool = 'brush', value = [0], chosenExample = -1, palette = [];
const drawing = new Drawing(onDrawn);

// --- Messages

let failedTranslation = false; // whether the message is about a translation, which the next one takes back

function fail(error, ofTranslation = false) {
  if (error.name === 'AbortError') return;
  failedTranslation = ofTranslation;
  $('error').textContent = error.message;
  $('error').hidden = false;
}
const clearError = () => { $('error').hidden = true; };
const guarded = (action) => async (...given) => { try { await action(...given); } catch (error) { fail(error); } };

function setStatus(text, busy) {
  $('status').textContent = text;
  $('status').classList.toggle('busy', busy);
}

// --- Translation: one request at a time while a stroke goes on; what ends a stroke replaces the request in flight

let isLoading = false, timer = 0, inFlight = null, isStale = false, version = 0;

function translateSoon(isFinal) {
  version++;
  $('outputs').dataset.version = '';
  clearTimeout(timer);
  if (isFinal && inFlight) { inFlight.abort(); inFlight = null; }
  if (inFlight) { isStale = true; return; }
  timer = setTimeout(translateNow, isFinal ? 0 : DEBOUNCE);
}

async function translateNow() {
  const seed = Number($('seed').value), samples = Number($('samples').value);
  if (!Number.isInteger(seed) || seed < 0 || seed > 4294967295 || $('seed').value === '') {
    fail(new Error('The seed has to be an integer from 0 to 4294967295.'), true);
    return;
  }
  const mine = inFlight = new AbortController(), asked = version, begin = performance.now();
  isStale = false;
  if (!isLoading) setStatus('Translating …', true);
  const slow = setTimeout(() => $('outputs').classList.add('stale'), 400);
  try {
    const answer = await backend.translate(drawing.raster, { seed, samples, signal: mine.signal });
    if (inFlight !== mine) return; // a newer request is on its way
    showOutputs(answer);
    setStatus(`${Math.round(performance.now() - begin)} ms`, false);
    if (failedTranslation) clearError();
    if (asked === version) $('outputs').dataset.version = String(version); // for tests: nothing newer is to come
  } catch (error) {
    if (inFlight !== mine) return;
    setStatus('', false);
    fail(error, true);
  } finally {
    clearTimeout(slow);
    if (inFlight === mine) {
      inFlight = null;
      $('outputs').classList.remove('stale');
      if (isStale) timer = setTimeout(translateNow, 0);
    }
  }
}

function showOutputs(rasters) {
  outputs = rasters;
  selected = Math.min(selected, rasters.length - 1);
  const stage = $('outputs'), columns = Math.ceil(Math.sqrt(rasters.length));
  stage.style.setProperty('--columns', columns);
  stage.style.setProperty('--ratio', rasters[0].width / rasters[0].height);
  stage.dataset.count = rasters.length;
  while (stage.children.length > rasters.length) stage.lastChild.remove();
  while (stage.children.length < rasters.length) stage.append(document.createElement('canvas'));
  rasters.forEach((raster, i) => {
    const canvas = stage.children[i];
    canvas.classList.toggle('exact', model.target.kind !== 'image');
    const many = rasters.length > 1;
    canvas.setAttribute('role', many ? 'button' : 'img');
    canvas.setAttribute('aria-label', many ? `Sample ${i + 1}: choose it for the download` : 'Output of the model');
    if (many) { canvas.tabIndex = 0; canvas.setAttribute('aria-pressed', i === selected); } else { canvas.removeAttribute('tabindex'); canvas.removeAttribute('aria-pressed'); }
    paint(canvas, raster, model.target, model.colormap);
  });
}

function select(index) {
  selected = index;
  [...$('outputs').children].forEach((canvas, i) => outputs.length > 1 && canvas.setAttribute('aria-pressed', i === index));
}

// --- Input canvas

/** The signal of the part that is shown, and its first channel. */
function shownPart() {
  if (model.input.kind !== 'stack') return [model.input, null];
  const number = Number($('part').value || 0), parts = model.input.parts;
  return [parts[number], parts.slice(0, number).reduce((sum, part) => sum + part.channels, 0)];
}

function showInput() {
  const canvas = $('canvas'), [signal, offset] = shownPart(), { width, height } = drawing.raster;
  paint(canvas, drawing.raster, signal, model.colormap, offset);
  canvas.classList.toggle('exact', isDrawable() && (signal.kind !== 'image' || palette.length > 0));
  $('input-stage').style.setProperty('--ratio', width / height);
  $('undo').disabled = !drawing.past.length;
  $('redo').disabled = !drawing.future.length;
  $('size').max = Math.max(8, Math.round(Math.min(width, height) / 3));
}

function onDrawn(isFinal) {
  showInput();
  translateSoon(isFinal);
}

const isDrawable = () => model.input.kind !== 'stack';

function place(event, canvas) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}

const inside = (x, y) => x >= 0 && y >= 0 && x < drawing.raster.width && y < drawing.raster.height;
const brushSize = () => Number($('size').value);

/** Draws from one place to another; a rectangle starts over from what was there before. */
function draw(from, to, before) {
  if (tool === 'rectangle') {
    drawing.raster.data.set(before.data);
    drawing.rectangle(...from, ...to, value);
  } else {
    drawing.line(...from, ...to, brushSize(), value);
  }
}

let stroke = null;

function onPointerDown(event) {
  if (!isDrawable() || event.button > 0 || stroke) return;
  const at = place(event, $('canvas'));
  if (!inside(...at)) return;
  event.preventDefault();
  $('canvas').focus({ preventScroll: true });
  $('canvas').setPointerCapture(event.pointerId);
  $('cursor').hidden = true;
  noteChange();
  drawing.remember();
  if (tool === 'fill') {
    drawing.fill(...at.map(Math.floor), value);
    onDrawn(true);
    return;
  }
  stroke = { id: event.pointerId, from: at, before: drawing.raster.copy() };
  draw(at, at, stroke.before);
  onDrawn(false);
}

function onPointerMove(event) {
  const at = place(event, $('canvas'));
  readout($('input-readout'), drawing.raster, at, model.input);
  if (!stroke || event.pointerId !== stroke.id) return;
  for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const to = place(each, $('canvas'));
    draw(stroke.from, to, stroke.before);
    if (tool === 'brush') stroke.from = to;
  }
  onDrawn(false);
}

function onPointerUp(event) {
  if (!stroke || event.pointerId !== stroke.id) return;
  stroke = null;
  onDrawn(true);
}

function readout(element, raster, [x, y], signal) {
  const column = Math.floor(x), row = Math.floor(y);
  const known = raster && column >= 0 && row >= 0 && column < raster.width && row < raster.height;
  const named = known && signal === model.input && palette.find((each) => each.value.every((v, c) => v === raster.at(column, row)[c]));
  element.textContent = known ? `x ${column}, y ${row}: ${named && signal.kind === 'image' ? named.name : describe(signal, raster.at(column, row))}` : '\u00a0';
}

// --- Keyboard

const cursor = { x: 0, y: 0, corner: null };

function showCursor() {
  const canvas = $('canvas'), box = canvas.getBoundingClientRect(), outer = $('input-stage').getBoundingClientRect();
  const scale = box.width / canvas.width, side = Math.max(10, (tool === 'brush' ? brushSize() : 1) * scale);
  Object.assign($('cursor').style, {
    width: `${side}px`, height: `${side}px`,
    left: `${box.left - outer.left + (cursor.x + .5) * scale - side / 2}px`,
    top: `${box.top - outer.top + (cursor.y + .5) * scale - side / 2}px`,
  });
  $('cursor').hidden = false;
  readout($('input-readout'), drawing.raster, [cursor.x, cursor.y], model.input);
}

function onCanvasKey(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const { width, height } = drawing.raster;
  if (steps[event.key]) {
    const [dx, dy] = steps[event.key].map((step) => step * (event.shiftKey ? 8 : 1));
    cursor.x = Math.min(width - 1, Math.max(0, cursor.x + dx));
    cursor.y = Math.min(height - 1, Math.max(0, cursor.y + dy));
    showCursor();
  } else if ((event.key === ' ' || event.key === 'Enter') && isDrawable()) {
    const at = [cursor.x + .5, cursor.y + .5];
    if (tool === 'rectangle' && !cursor.corner) {
      cursor.corner = at;
      setStatus('Move to the opposite corner and press Space', false);
    } else {
      noteChange();
      drawing.remember();
      if (tool === 'fill') drawing.fill(cursor.x, cursor.y, value);
      else draw(tool === 'rectangle' ? cursor.corner : at, at, drawing.raster.copy());
      cursor.corner = null;
      onDrawn(true);
    }
    showCursor();
  } else if (event.key === 'Escape') {
    cursor.corner = null;
    $('cursor').hidden = true;
  } else {
    return;
  }
  event.preventDefault();
}

function onKey(event) {
  const typing = event.target.matches('input:not([type=range]):not([type=checkbox]), select, textarea');
  if (typing || $('camera-dialog').open) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === 'z' && !event.shiftKey) drawing.undo();
    else if (key === 'y' || (key === 'z' && event.shiftKey)) drawing.redo();
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey) return;
  const named = { b: 'brush', r: 'rectangle', f: 'fill' }[key];
  if (named && isDrawable()) chooseTool(named);
  else if (key === '[' || key === ']') { $('size').value = brushSize() + (key === ']' ? 1 : -1); showSize(); }
  else if (key === 'n') another();
  else if (key === 'o') $('file').click();
  else if (key === 'delete') clear();
}

// --- Tools and colours

function chooseTool(name) {
  tool = name;
  cursor.corner = null;
  for (const button of document.querySelectorAll('.tool')) button.setAttribute('aria-pressed', button.dataset.tool === name);
  $('size-row').hidden = name !== 'brush';
}

const showSize = () => { $('size-text').textContent = `${brushSize()} px`; };
const fullRange = () => ({ uint8: 255, uint16: 65535 })[model.input.dtype] ?? 1;
const fromHex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

/** The values of an 8-bit colour in the input's channels. */
function valuesOf([red, green, blue]) {
  const scale = fullRange() / 255, { channels } = model.input;
  const list = channels >= 3 ? [red, green, blue] : [.299 * red + .587 * green + .114 * blue];
  return Array.from({ length: channels }, (_, i) => Math.round((list[i] ?? 255) * scale));
}

function makePalette() {
  const { kind, classes } = model.input, row = $('palette');
  const before = row.querySelector('[aria-checked=true]')?.dataset.key;
  const colors = palette.length
    ? palette.map((each) => ({ ...each, color: each.value }))
    : Object.entries(PHOTO_COLORS).map(([name, hex]) => ({ value: valuesOf(fromHex(hex)), color: fromHex(hex), name }));
  const entries = classes ?? (kind === 'image' ? colors : []);
  row.replaceChildren(...entries.map(({ value: values, color, name }) => {
    const button = document.createElement('button'), box = document.createElement('i');
    button.className = 'swatch';
    button.setAttribute('role', 'radio');
    button.dataset.key = values.join();
    box.style.backgroundColor = `rgb(${color.join()})`;
    button.append(box, name);
    button.addEventListener('click', () => chooseColor(button, values));
    return button;
  }));
  row.hidden = !entries.length;
  $('color-row').hidden = kind !== 'image' || palette.length > 0;
  const initial = [...row.children].find((each) => each.dataset.key === before) ?? row.children[Math.min(2, row.children.length - 1)];
  if (initial) chooseColor(initial, entries[[...row.children].indexOf(initial)].value);
}

function chooseColor(button, values) {
  value = values;
  for (const each of $('palette').children) {
    each.setAttribute('aria-checked', each === button);
    each.tabIndex = each === button || (!button && each === $('palette').firstChild) ? 0 : -1;
  }
}

function onPaletteKey(event) {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...$('palette').children], next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
  next.click();
  next.focus();
}

/** The slider of depth and quantities. */
function chooseValue() {
  const { kind, unit, channels } = model.input, number = Number($('value').value);
  $('value-text').textContent = $('hole').checked ? 'none' : `${number} ${unit}`;
  value = Array(channels).fill($('hole').checked ? (kind === 'depth' ? 0 : NaN) : number);
}

function makeSlider() {
  const numeric = model.input.kind === 'depth' || model.input.kind === 'quantity';
  for (const name of ['value-row', 'hole-row']) $(name).hidden = !numeric;
  if (!numeric) return;
  const [low, high] = model.input.range, step = 10 ** Math.floor(Math.log10((high - low) / 100));
  Object.assign($('value'), { min: model.input.kind === 'depth' ? Math.max(low, step) : low, max: high, step, value: (low + high) / 2 });
  chooseValue();
}

function blankValue() {
  const { kind, range, classes, channels } = model.input;
  if (kind === 'depth' || kind === 'quantity') return Array(channels).fill((range[0] + range[1]) / 2);
  if (kind === 'classes') return classes[0].value;
  return palette.length ? palette[0].value : Array(channels).fill(kind === 'image' ? fullRange() : 0);
}

function clear() {
  noteChange();
  $('target').hidden = true;
  drawing.clear(blankValue());
}

/** The drawing is no longer the example. */
function noteChange() {
  clearError();
  if (chosenExample < 0) return;
  chosenExample = -1;
  for (const button of $('thumbnails').children) button.setAttribute('aria-pressed', false);
}

// --- Files, clipboard, camera

const useFile = guarded(async (file) => {
  clearError();
  setStatus(`Reading ${file.name || 'the image'} …`, true);
  try {
    const raster = await backend.read(file, $('keep').checked ? null : model.size, model);
    noteChange();
    $('target').hidden = true;
    drawing.replace(raster);
  } catch (error) {
    setStatus('', false);
    throw new Error(file.name ? `${file.name}: ${error.message}` : error.message);
  }
});

let media = null;

const openCamera = guarded(async () => {
  try {
    media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: 1280 } });
  } catch (error) {
    throw new Error(`The camera cannot be used (${error.message}). Allow it in the browser, or open a file.`);
  }
  $('video').srcObject = media;
  await $('video').play();
  $('camera-dialog').showModal();
});

function closeCamera() {
  media?.getTracks().forEach((track) => track.stop());
  media = null;
  $('camera-dialog').close();
}

async function shoot() {
  const video = $('video'), canvas = Object.assign(document.createElement('canvas'), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  closeCamera();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  await useFile(new File([blob], 'camera.png'));
}

// --- Examples

const useExample = guarded(async (index) => {
  const raster = await backend.example(index, 'input'), target = await backend.example(index, 'target');
  noteChange();
  chosenExample = index;
  [...$('thumbnails').children].forEach((button, i) => button.setAttribute('aria-pressed', i === index));
  const canvas = $('target').querySelector('canvas');
  paint(canvas, target, model.target, model.colormap);
  canvas.classList.toggle('exact', model.target.kind !== 'image');
  $('target').hidden = false;
  drawing.replace(raster, { remember: drawing.touched });
});

async function loadExamples() {
  let found;
  while ((found = await backend.examples()).status === 'loading') await new Promise((resolve) => setTimeout(resolve, 700));
  $('examples-note').hidden = found.status === 'ready';
  $('examples-note').textContent = `There are none. ${found.reason}`;
  if (found.status !== 'ready') return;
  palette = model.input.kind === 'image' ? found.palette : [];
  makePalette();
  $('camera').hidden = !hasCamera();
  $('thumbnails').append(...found.ids.map((id, index) => {
    const button = document.createElement('button'), canvas = document.createElement('canvas');
    button.title = id;
    button.setAttribute('aria-label', `Example ${id}`);
    button.setAttribute('aria-pressed', false);
    button.append(canvas);
    button.addEventListener('click', () => useExample(index));
    return button;
  }));
  const [signal, offset] = shownPart();
  for (let index = 0; index < found.ids.length; index++) {
    const raster = await backend.example(index, 'input');
    paint($('thumbnails').children[index].firstChild, raster, signal, model.colormap, offset);
    if (index === 0 && !drawing.touched) await useExample(0);
  }
}

// --- Downloads and the legend

function save(blob, name) {
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const download = guarded(async (format) => {
  $('download').open = false;
  if (!outputs.length) return;
  const blob = format === 'display'
    ? await new Promise((resolve) => $('outputs').children[selected].toBlob(resolve, 'image/png'))
    : await encode(outputs[selected], model.target, format);
  const number = outputs.length > 1 ? `_${selected}` : '';
  save(blob, `${model.name}_seed${$('seed').value}${number}.${format === 'npy' ? 'npy' : 'png'}`);
});

function makeDownloads() {
  const plain = model.target.kind === 'image' && model.target.channels === 3 && model.target.dtype === 'uint8';
  const names = model.formats.filter((name) => SAVE_NAMES[name] && !(name === 'display' && plain) && !(name === 'png' && model.formats.includes('png16') && model.target.kind === 'depth'));
  $('formats').append(...names.map((name) => {
    const button = document.createElement('button');
    button.textContent = SAVE_NAMES[name];
    button.dataset.format = name;
    button.addEventListener('click', () => download(name));
    return button;
  }));
}

function makeLegend() {
  const { kind, classes, unit, shown } = model.target, legend = $('legend');
  if (kind === 'classes') {
    const list = document.createElement('ul');
    list.append(...classes.map(({ color, name }) => {
      const item = document.createElement('li'), box = document.createElement('i');
      box.style.backgroundColor = `rgb(${color.join()})`;
      item.append(box, name);
      return item;
    }));
    legend.append(list);
  } else if ((kind === 'depth' || kind === 'quantity') && shown.length === 1) {
    const [low, high] = model.target.ranges ? model.target.ranges[shown[0]] : model.target.range;
    const bar = Object.assign(document.createElement('canvas'), { width: 256, height: 1 }), color = colorizer(model.target, model.colormap);
    const context = bar.getContext('2d'), values = Array(model.target.channels).fill(0);
    for (let i = 0; i < 256; i++) {
      values[shown[0]] = values[0] = low + (high - low) * (i + .5) / 256 || 1e-6;
      context.fillStyle = `rgb(${color(values).join()})`;
      context.fillRect(i, 0, 1, 1);
    }
    const ticks = document.createElement('div');
    ticks.append(...[0, .25, .5, .75, 1].map((at) => Object.assign(document.createElement('span'), { textContent: `${+(low + (high - low) * at).toPrecision(3)}${at === 1 ? ` ${unit}` : ''}` })));
    bar.setAttribute('aria-hidden', true);
    legend.append(bar, ticks);
  }
}

const inMB = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** Of a page without a server: what was loaded, and what its weights cost in quality. */
function describeParts() {
  const { bytes, weights, metrics } = model, names = Object.keys(metrics[weights] ?? {});
  const value = (number) => number.toPrecision(3);
  const compared = names.map((name) => `${name} ${value(metrics[weights][name])} (float32: ${value(metrics.float32[name])})`);
  const sizes = `The model (${inMB(bytes.model)}, ${weights} weights) runs in this browser, by ONNX Runtime (${inMB(bytes.runtime)}); nothing is sent.`;
  $('interface').textContent = compared.length ? `${sizes} Validation: ${compared.join(', ')}.` : sizes;
}

// --- Start

const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia) && model.input.kind === 'image' && !palette.length;

function another() {
  $('seed').value = (Number($('seed').value) + 1) % 4294967296;
  translateSoon(true);
}

function listen() {
  const canvas = $('canvas');
  canvas.addEventListener('pointerdown', onPointerDown);
  canvas.addEventListener('pointermove', onPointerMove);
  for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, onPointerUp);
  canvas.addEventListener('keydown', onCanvasKey);
  canvas.addEventListener('blur', () => { $('cursor').hidden = true; });
  document.addEventListener('keydown', onKey);
  for (const button of document.querySelectorAll('.tool')) button.addEventListener('click', () => chooseTool(button.dataset.tool));
  $('size').addEventListener('input', showSize);
  for (const name of ['value', 'hole']) $(name).addEventListener('input', chooseValue);
  $('color').addEventListener('input', () => chooseColor(null, valuesOf(fromHex($('color').value))));
  $('palette').addEventListener('keydown', onPaletteKey);
  $('undo').addEventListener('click', () => { noteChange(); drawing.undo(); });
  $('redo').addEventListener('click', () => { noteChange(); drawing.redo(); });
  $('clear').addEventListener('click', clear);
  $('open').addEventListener('click', () => $('file').click());
  $('file').addEventListener('change', () => { if ($('file').files.length) useFile($('file').files[0]); $('file').value = ''; });
  $('camera').addEventListener('click', openCamera);
  $('shoot').addEventListener('click', shoot);
  $('camera-close').addEventListener('click', closeCamera);
  $('camera-dialog').addEventListener('close', closeCamera);
  $('seed').addEventListener('change', () => translateSoon(true));
  $('samples').addEventListener('change', () => translateSoon(true));
  $('another').addEventListener('click', another);
  $('part').addEventListener('change', showInput);
  $('outputs').addEventListener('click', (event) => { if (event.target.matches('canvas')) select([...$('outputs').children].indexOf(event.target)); });
  $('outputs').addEventListener('keydown', (event) => {
    if ((event.key === 'Enter' || event.key === ' ') && event.target.matches('canvas')) { event.preventDefault(); event.target.click(); }
  });
  $('outputs').addEventListener('pointermove', (event) => {
    if (!event.target.matches('canvas')) return;
    const index = [...$('outputs').children].indexOf(event.target);
    readout($('output-readout'), outputs[index], place(event, event.target), model.target);
  });
  for (const [stage, text] of [['outputs', 'output-readout'], ['input-stage', 'input-readout']]) {
    $(stage).addEventListener('pointerleave', () => { $(text).textContent = '\u00a0'; });
  }
  addEventListener('paste', (event) => {
    const file = [...event.clipboardData?.files ?? []][0];
    if (file) { event.preventDefault(); useFile(file); }
  });
  addEventListener('dragover', (event) => { event.preventDefault(); $('drop').hidden = false; });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) $('drop').hidden = true; });
  addEventListener('drop', (event) => {
    event.preventDefault();
    $('drop').hidden = true;
    if (event.dataTransfer?.files.length) useFile(event.dataTransfer.files[0]);
  });
}

const start = guarded(async () => {
  model = await backend.model();
  const { input, target, size, step } = model;
  document.title = `${model.name} – pix2pix_jax demo`;
  $('name').textContent = model.name;
  $('about').textContent = `pix2pix_jax demo${step === null ? '' : `, step ${step}`}`;
  $('input-about').textContent = input.description;
  $('output-about').textContent = target.description;
  $('curl').textContent = `curl --data-binary @input.png '${new URL('translate?seed=0', location.href)}' -o output.${model.formats[0].startsWith('png') ? 'png' : 'tif'}`;
  if (backend.isStatic) describeParts();
  backend.loading((loaded, total, isReady) => {
    isLoading = !isReady;
    setStatus(isReady ? 'Translating …' : loaded < total ? `Loading the model: ${inMB(loaded)} of ${inMB(total)}` : 'Starting the model …', true);
  });
  if (input.kind === 'stack') {
    $('part').append(...input.parts.map((part, i) => Object.assign(document.createElement('option'), { value: i, textContent: part.name })));
    $('part-row').hidden = false;
    $('tools').hidden = true;
    document.querySelector('main').style.gridTemplateColumns = 'minmax(0, 1fr) minmax(0, 1fr)';
    $('clear').hidden = true;
  }
  if (!model.dropout) { $('another').hidden = true; $('samples').parentElement.hidden = true; $('seed').parentElement.hidden = true; }
  $('camera').hidden = !hasCamera();
  makePalette();
  makeSlider();
  makeDownloads();
  makeLegend();
  drawing.raster = new Raster(...size, input.channels, input.dtype);
  if (isDrawable()) for (let i = 0; i < drawing.raster.data.length; i += input.channels) drawing.raster.data.set(blankValue(), i);
  showInput();
  showSize();
  listen();
  const first = loadExamples();
  if (isDrawable()) translateSoon(true);
  await first;
});

start();
