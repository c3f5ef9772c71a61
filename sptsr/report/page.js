'use strict';

// The data: see `Page` in page.py. Names come from files: they become text, never markup.
const data = JSON.parse(document.getElementById('data').textContent);
const GT = data.gt;
const LARGEST_ZOOM = 32;
const VIEWS = [['image', 'pictures'], ['error', '|error|'], ['closer', 'closer to GT'], ['difference', '|left − right|']];
const NEED_GT = ['error', 'closer'];

const get = id => document.getElementById(id);
const stage = get('stage');
const slider = get('slider');
const state = {number: 0, left: '', right: '', view: 'image', reference: data.reference};
const place = {scale: 1, x: 0, y: 0, fit: 1}; // of the picture on the stage, in CSS pixels
const maps = [document.createElement('canvas'), document.createElement('canvas')];
let layers = new Map(); // image element of each arm of the picture
let overlay = null;
let decoded = new Map(); // pixels of an arm, RGBA
let painting = 0; // counts paintings of maps, so that one that was overtaken is dropped

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const picture = () => data.pictures[state.number];
const arms = () => picture().arms;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const isNumber = value => typeof value === 'number';
const shown = value => isNumber(value) ? value.toFixed(4) : String(value ?? '–');
const signed = value => (value < 0 ? '' : '+') + value.toFixed(4);

// ---- pictures on the stage

function choose(number) {
  state.number = clamp(number, 0, data.pictures.length - 1);
  const {images, masks, name, set, size, whole, corner} = picture();
  const names = arms();
  if (!names.includes(state.left)) state.left = names.includes(data.reference) ? data.reference : names[0];
  if (!names.includes(state.right)) state.right = names.includes(data.tuned) ? data.tuned : names[names.length - 1];
  const views = VIEWS.filter(([view]) => GT in images || !NEED_GT.includes(view));
  if (!views.some(([view]) => view === state.view)) state.view = 'image';
  for (const old of [...layers.values(), overlay, ...maps]) old?.remove();
  decoded = new Map();
  layers = new Map(names.map(arm => [arm, make('img', {src: images[arm], alt: arm})]));
  overlay = masks && make('img', {src: masks, alt: 'masks'});
  for (const map of maps) [map.width, map.height] = size;
  stage.prepend(...layers.values(), ...maps, ...(overlay ? [overlay] : []));
  for (const image of layers.values()) image.decode().catch(() => {}); // so that flipping does not wait

  get('name').textContent = set ? `${set}: ${name}` : name;
  const part = size[0] < whole[0] || size[1] < whole[1];
  get('about-picture').textContent = `${part ? `${size.join('×')} at (${corner.join(', ')}) of ` : ''}${whole.join('×')} pixels, `
    + `image ${state.number + 1} of ${data.pictures.length}`;
  get('masks').disabled = !masks;
  get('previous').disabled = state.number === 0;
  get('next').disabled = state.number === data.pictures.length - 1;
  for (const button of get('list').querySelectorAll('button')) {
    const here = Number(button.dataset.number) === state.number;
    here ? button.setAttribute('aria-current', 'true') : button.removeAttribute('aria-current');
  }
  chips('left', names.map((arm, n) => [arm, arm, n < 9 && `⇧${n + 1}`]), state.left);
  chips('right', names.map((arm, n) => [arm, arm, n < 9 && `${n + 1}`]), state.right);
  chips('view', views, state.view);
  figures();
  fit();
  update();
}

function chips(name, choices, chosen) {
  get(name).replaceChildren();
  for (const [value, text, key] of choices) {
    const input = make('input', {type: 'radio', name, value, checked: value === chosen});
    const hint = key ? [' ', make('kbd', {ariaHidden: 'true'}, key)] : [];
    get(name).append(make('label', {className: 'chip'}, input, make('span', {}, text, ...hint)));
  }
}

function set(name, value) {
  state[name] = value;
  for (const input of get(name).querySelectorAll('input')) input.checked = input.value === value;
  update();
}

function exchange() {
  const {left, right} = state;
  state.left = right;
  set('right', left);
  set('left', right);
}

function update() {
  const value = arm => { // the first figure, beside the name
    const [metric] = Object.keys(picture().figures);
    const figure = metric && picture().figures[metric][arm];
    return figure === undefined ? arm : `${arm} · ${metric} ${shown(figure)}`;
  };
  get('label-left').textContent = value(state.left);
  get('label-right').textContent = value(state.right);
  get('gain').disabled = state.view === 'image';
  if (state.view === 'image') legend();
  else paint();
  render();
}

// ---- where everything stands

function fit() {
  const [width, height] = picture().size;
  const ratio = window.devicePixelRatio || 1;
  const most = Math.min(stage.clientWidth / width, Math.max(240, 0.72 * window.innerHeight) / height);
  place.fit = most * ratio >= 1 ? Math.floor(most * ratio) / ratio : most; // whole screen pixels an image pixel
  place.scale = place.fit;
  place.x = place.y = 0;
  stage.style.height = `${Math.ceil(height * place.fit)}px`;
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const scale = clamp(place.scale * factor, place.fit, Math.max(LARGEST_ZOOM, place.fit));
  place.x = x - (x - place.x) * scale / place.scale;
  place.y = y - (y - place.y) * scale / place.scale;
  place.scale = scale;
  render();
}

function within(offset, length, space) { // no gap on one side while the picture is cut off on the other
  return length <= space ? (space - length) / 2 : clamp(offset, space - length, 0);
}

function render() {
  const [width, height] = picture().size.map(side => side * place.scale);
  place.x = within(place.x, width, stage.clientWidth);
  place.y = within(place.y, height, stage.clientHeight);
  const line = slider.value / 100 * stage.clientWidth;
  const elements = state.view === 'image' ? [layers.get(state.left), layers.get(state.right)] : maps;
  for (const element of [...layers.values(), ...maps, ...(overlay ? [overlay] : [])]) {
    element.style.width = `${width}px`;
    element.style.height = `${height}px`;
    element.style.left = `${place.x}px`;
    element.style.top = `${place.y}px`;
    element.style.clipPath = '';
    element.classList.toggle('shown', elements.includes(element) || (element === overlay && get('masks').checked));
  }
  if (elements[0] !== elements[1]) {
    const cut = clamp(line - place.x, 0, width);
    elements[0].style.clipPath = `inset(0 ${width - cut}px 0 0)`;
    elements[1].style.clipPath = `inset(0 0 0 ${cut}px)`;
  }
  get('line').style.left = `${line}px`;
  const zoomed = place.scale > place.fit;
  stage.classList.toggle('zoomed', zoomed);
  stage.classList.toggle('reduced', place.scale * (window.devicePixelRatio || 1) < 1);
  stage.style.touchAction = zoomed ? 'none' : 'pan-y';
  get('zoom').textContent = `×${Number(place.scale.toFixed(place.scale < 10 ? 2 : 1))}`;
}

// ---- error maps

async function pixels(arm) {
  if (!decoded.has(arm)) {
    const image = layers.get(arm), known = decoded;
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const context = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');
    context.drawImage(image, 0, 0);
    known.set(arm, context.getImageData(0, 0, width, height).data);
    return known.get(arm);
  }
  return decoded.get(arm);
}

const distance = (a, b, n) => (Math.abs(a[n] - b[n]) + Math.abs(a[n + 1] - b[n + 1]) + Math.abs(a[n + 2] - b[n + 2])) / 3;
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // five points of "inferno"
const heat = value => {
  const at = clamp(value / 255, 0, 1) * (HEAT.length - 1), n = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[n].map((low, channel) => low + (at - n) * (HEAT[n + 1][channel] - low));
};
const TABLE = Array.from({length: 256}, (_, value) => heat(value));

async function paint() {
  const turn = ++painting, {left, right, view} = state;
  const [a, b] = [await pixels(left), await pixels(right)];
  const gt = view === 'difference' ? null : await pixels(GT);
  if (turn !== painting) return;
  const values = { // at byte n of the left and of the right map, of 255
    error: [n => distance(a, gt, n), n => distance(b, gt, n)],
    difference: [n => distance(a, b, n), n => distance(a, b, n)],
    closer: [n => distance(a, gt, n) - distance(b, gt, n), n => distance(a, gt, n) - distance(b, gt, n)],
  }[view].map(value => Float32Array.from({length: a.length / 4}, (_, n) => value(4 * n)));
  const gain = Number(get('gain').value) || fittingGain(values);
  maps.forEach((map, side) => {
    const context = map.getContext('2d', {willReadFrequently: true}), image = context.createImageData(map.width, map.height);
    values[side].forEach((value, n) => {
      image.data.set(view === 'closer' ? sided(gain * value) : TABLE[Math.min(255, Math.round(gain * value))], 4 * n);
      image.data[4 * n + 3] = 255;
    });
    context.putImageData(image, 0, 0);
  });
  stage.dataset.painted = view;
  legend(gain);
}

function fittingGain(values) { // a power of two by which one pixel in a hundred has the full colour
  const all = Float32Array.from(values.flatMap(side => [...side]), Math.abs).sort();
  return clamp(2 ** Math.floor(Math.log2(255 / (all[Math.floor(0.99 * all.length)] || 1))), 1, 64);
}

function sided(value) { // blue below 0, orange above
  const strength = Math.min(1, Math.abs(value) / 255);
  return (value > 0 ? [255, 150, 20] : [60, 150, 255]).map(end => 24 + strength * (end - 24));
}

function legend(gain) {
  const most = gain && `${Number((255 / gain).toFixed(1))} of 255`;
  get('legend').textContent = {
    image: '',
    error: `|error| to GT, mean of the channels: black 0, yellow from ${most} (gain ×${gain}).`,
    difference: `|left − right|, mean of the channels: black 0, yellow from ${most} (gain ×${gain}).`,
    closer: `Blue: ${state.left} is closer to GT; orange: ${state.right} is; full colour from ${most} (gain ×${gain}).`,
  }[state.view];
}

// ---- figures and the list

function figures() {
  const table = get('figures'), {figures: found} = picture(), metrics = Object.keys(found);
  const measured = arms().filter(arm => metrics.some(metric => arm in found[metric]));
  get('measured').hidden = !measured.length;
  if (!measured.includes(state.reference)) state.reference = measured[0];
  get('reference').replaceChildren(...measured.map(arm => make('option', {value: arm, selected: arm === state.reference}, arm)));
  table.replaceChildren();
  const head = make('tr', {}, make('td'));
  head.append(...metrics.map(metric => make('th', {scope: 'col'}, `${metric} ${data.better[metric] === 'lower' ? '↓' : '↑'}`)));
  table.append(make('thead', {}, head));
  const body = make('tbody');
  for (const arm of measured) {
    const row = make('tr', {}, make('th', {scope: 'row'}, arm));
    for (const metric of metrics) {
      const value = found[metric][arm], base = found[metric][state.reference];
      const cell = make('td', {title: String(value ?? '')}, shown(value));
      if (arm !== state.reference && isNumber(value) && isNumber(base)) {
        const gain = (value - base) * (data.better[metric] === 'lower' ? -1 : 1);
        cell.append(make('small', {className: gain > 0 ? 'better' : gain < 0 ? 'worse' : ''}, signed(value - base)));
      }
      row.append(cell);
    }
    body.append(row);
  }
  table.append(body);
}

function list() {
  let group = null, ol = null;
  data.pictures.forEach(({name, set, group: own, rank, arms, images}, number) => {
    const title = [set, own].filter(Boolean).join(', ');
    if (title !== group) {
      group = title;
      ol = make('ol');
      get('list').append(...(title ? [make('h3', {}, title)] : []), ol);
    }
    const thumbnail = make('img', {src: images[data.tuned] ?? images[arms[0]], alt: '', decoding: 'async'});
        const button = make('button', {type: 'button', onclick: () => choose(number)}, thumbnail,
      make('span', {className: 'name', title: name}, name), make('span', {className: 'gain'}, rank ?? ''));
    button.dataset.number = number;
    ol.append(make('li', {}, button));
  });
}

// ---- input

const pointers = new Map();
let drags = null; // what one finger or the mouse drags: the line, or the picture

const position = event => {
  const box = stage.getBoundingClientRect();
  return {x: event.clientX - box.left, y: event.clientY - box.top};
};

function moveLine(x) {
  slider.value = 100 * x / stage.clientWidth;
  render();
}

stage.addEventListener('pointerdown', event => {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  const {x, y} = position(event);
  pointers.set(event.pointerId, {x, y});
  const near = Math.abs(x - slider.value / 100 * stage.clientWidth) < 22;
  drags = near || place.scale <= place.fit ? 'line' : 'picture';
  if (pointers.size === 1 && drags === 'line' && event.pointerType === 'mouse') moveLine(x);
});
stage.addEventListener('pointermove', event => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = position(event);
  pointers.set(event.pointerId, now);
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const spread = point => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    zoom(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  } else if (drags === 'line') {
    moveLine(now.x);
  } else {
    place.x += now.x - before.x;
    place.y += now.y - before.y;
    render();
  }
});
for (const kind of ['pointerup', 'pointercancel']) stage.addEventListener(kind, event => pointers.delete(event.pointerId));
stage.addEventListener('wheel', event => {
  if (event.deltaY > 0 && place.scale <= place.fit) return; // the page scrolls
  event.preventDefault();
  const {x, y} = position(event);
  zoom(Math.exp(-clamp(event.deltaY, -100, 100) / 300), x, y);
}, {passive: false});
stage.addEventListener('dblclick', event => {
  const {x, y} = position(event);
  zoom(place.scale > place.fit ? 0 : 4, x, y);
});
stage.addEventListener('keydown', event => {
  const step = {ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40]}[event.key];
  if (!step || place.scale <= place.fit) return;
  event.preventDefault();
  place.x += step[0];
  place.y += step[1];
  render();
});

slider.addEventListener('input', render);
for (const name of ['left', 'right', 'view']) get(name).addEventListener('change', event => set(name, event.target.value));
get('masks').addEventListener('change', render);
get('gain').addEventListener('change', update);
get('reference').addEventListener('change', event => {
  state.reference = event.target.value;
  figures();
});
get('previous').onclick = () => choose(state.number - 1);
get('next').onclick = () => choose(state.number + 1);
get('zoom-in').onclick = () => zoom(2);
get('zoom-out').onclick = () => zoom(0.5);
get('fit').onclick = () => zoom(0);

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('select')) return;
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
  if (digit) {
    const arm = arms()[digit - 1];
    if (arm) set(event.shiftKey ? 'left' : 'right', arm);
    return;
  }
  const views = [...get('view').querySelectorAll('input')].map(input => input.value);
  ({
    x: exchange,
    n: () => choose(state.number + 1),
    p: () => choose(state.number - 1),
    m: () => overlay && get('masks').click(),
    e: () => set('view', views[(views.indexOf(state.view) + 1) % views.length]),
    '+': () => zoom(2),
    '=': () => zoom(2),
    '-': () => zoom(0.5),
    0: () => zoom(0),
  })[event.key]?.();
});

if (data.pictures.length) {
  list();
  choose(0);
  let width = stage.clientWidth;
  new ResizeObserver(() => {
    if (stage.clientWidth === width) return;
    width = stage.clientWidth;
    fit();
    render();
  }).observe(stage.parentElement);
} else {
  document.querySelector('main').hidden = true;
}
