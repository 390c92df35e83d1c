// The report's one front end. In Jupyter, anywidget calls `render` with a live model; in the saved page, `boot` calls
// it with a model of ten lines. It draws what `sft_nb.report.page.build_payload` made, and writes text only as text
// nodes: class names, file names and notes are somebody's input.
//
// To add a tab: a key in the payload, its name in `TABS` of `sft_nb.report.page`, and a function in `PANELS` below.

// ---------------------------------------------------------------- small things

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const sum = values => values.reduce((a, b) => a + b, 0);

// ---------------------------------------------------------------- numbers as people read them

const known = v => typeof v === 'number' && Number.isFinite(v);
const digitsOf = row => { // as `format_metrics` does it: the width of the interval has two figures
  const width = row.high - row.low;
  return known(width) && width > 0 ? clamp(Math.floor(1 - Math.floor(Math.log10(width))), 0, 6) : 3;
};
const fixed = (v, digits = 3, sign = false) => known(v) ? (sign && v > 0 ? '+' : '') + v.toFixed(digits).replace(/^-(0\.?0*)$/, '$1').replace('-', '−') : '–';
const count = v => known(v) ? v.toLocaleString('en') : '–';
const percent = (v, digits = 0) => known(v) ? `${(100 * v).toFixed(digits)} %` : '–';
const interval = (row, sign) => known(row.low) && known(row.high) ? `[${fixed(row.low, digitsOf(row), sign)},\u00a0${fixed(row.high, digitsOf(row), sign)}]` : '';
const withInterval = (row, sign) => `${fixed(row.value, digitsOf(row), sign)} ${interval(row, sign)}`.trim();
const short = v => typeof v === 'number' ? (Number.isInteger(v) ? count(v) : String(Number(v.toPrecision(4))).replace('-', '−')) : String(v ?? '–');
const duration = t => !known(t) ? '' : t < 90 ? `${Math.round(t)} s` : t < 5400 ? `${Math.round(t / 60)} min` : `${(t / 3600).toFixed(1)} h`;
const plural = (n, one, many = one + 's') => `${count(n)} ${n === 1 ? one : many}`;

function niceTicks(low, high, about = 5) {
  const rough = (high - low || 1) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(m => m >= rough * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}
const tickText = ticks => {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (String(step / 10 ** Math.floor(Math.log10(step))).startsWith('2.5') ? 1 : 0));
  return v => v.toFixed(clamp(digits, 0, 6)).replace('-', '−');
};

function wilson(k, n, z) { // Wilson's interval for a share, as `wilson_interval` has it
  if (!n) return { value: null, low: null, high: null, n };
  const p = k / n, d = 1 + z * z / n, centre = p + z * z / 2 / n, half = z * Math.sqrt(p * (1 - p) / n + z * z / 4 / n / n);
  return { value: p, low: Math.max(0, (centre - half) / d), high: Math.min(1, (centre + half) / d), n };
}

// Of k in n, where groups leave only so many independent items; undefined where there are no groups.
const shareOf = (k, n, worth, z) => worth === undefined ? wilson(k, n, z) : known(worth) && n ? { ...wilson(k / n * worth, worth, z), n } : { value: n ? k / n : null, low: null, high: null, n };
// The distance of a sum's limit from the sum (MOVER, Newcombe 1998; with the correlation r of its parts in groups).
const together = (a, b, r = 0) => Math.sqrt(Math.max(0, a * a + b * b + 2 * (r || 0) * a * b));

// What a threshold does, from its four counts. Shares have Wilson's interval, and the mean of two the one that `together` makes.
// F1 is a monotone function of tp / (tp + fp + fn), so the ends of that interval carry over.
export function ratesAt(row, z) {
  const { tp, fp, fn, tn } = row, recall = shareOf(tp, tp + fn, row.n_recall, z), specificity = shareOf(tn, tn + fp, row.n_specificity, z), overlap = shareOf(tp, tp + fp + fn, row.n_overlap, z);
  const spread = (a, b) => known(a[b]) && known(specificity[b]) ? together(a.value - a[b], specificity.value - specificity[b], row.r_balanced) / 2 : NaN;
  const middle = known(recall.value) && known(specificity.value) ? (recall.value + specificity.value) / 2 : null;
  const f1 = v => known(v) ? 2 * v / (1 + v) : null;
  return {
    accuracy: shareOf(tp + tn, tp + fp + fn + tn, row.n_accuracy, z),
    balanced_accuracy: middle === null ? { value: null, low: null, high: null, n: recall.n + specificity.n }
      : { value: middle, low: middle - spread(recall, 'low'), high: middle + spread(recall, 'high'), n: recall.n + specificity.n },
    recall, specificity, precision: shareOf(tp, tp + fp, row.n_precision, z),
    f1: { value: f1(overlap.value), low: f1(overlap.low), high: f1(overlap.high), n: overlap.n },
  };
}

// ---------------------------------------------------------------- dots and intervals: a table that is also a figure

function niceDomain(values, { zero = false, one = false, pad = .08 } = {}) {
  let low = Math.min(...values.filter(known)), high = Math.max(...values.filter(known));
  if (!Number.isFinite(low)) return [0, 1];
  const margin = (high - low || Math.abs(high) || 1) * pad;
  low = zero ? Math.min(0, low) : low - margin; high = one ? Math.max(1, high) : high + margin;
  const ticks = niceTicks(low, high), step = ticks.length > 1 ? ticks[1] - ticks[0] : high - low;
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

function strip(row, domain, guide) {
  const at = v => `${clamp(100 * (v - domain[0]) / (domain[1] - domain[0]), 0, 100)}%`;
  return s('svg', { class: `strip ${row.tone || 'model'}`, 'aria-hidden': 'true', focusable: 'false' },
    s('line', { class: 'rail', x1: '0%', x2: '100%', y1: '50%', y2: '50%' }),
    known(guide) && s('line', { class: 'guide', x1: at(guide), x2: at(guide), y1: '-10%', y2: '110%' }),
    known(row.low) && known(row.high) && s('line', { class: 'span', x1: at(row.low), x2: at(row.high), y1: '50%', y2: '50%' }),
    known(row.value) && s('circle', { class: 'dot', cx: at(row.value), cy: '50%', r: 5.5 }));
}

function axis(domain) {
  const ticks = niceTicks(domain[0], domain[1], 2.5), text = tickText(ticks);
  const at = v => 100 * (v - domain[0]) / (domain[1] - domain[0]);
  return s('svg', { class: 'axis', 'aria-hidden': 'true', focusable: 'false' },
    ticks.map(t => s('text', { x: `${at(t)}%`, y: 13, 'text-anchor': at(t) < 3 ? 'start' : at(t) > 97 ? 'end' : 'middle' }, text(t))));
}

// rows: { name (node or text), sub, value, low, high, text, how, tone, key }
function forest(rows, { domain, guide, caption, columns = ['', 'value [interval]'] }) {
  const cell = (tag, role, attributes, ...children) => h(tag, { role, ...attributes }, ...children);
  return h('table', { class: 'forest', role: 'table' },
    caption && h('caption', {}, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, cell('th', 'columnheader', { scope: 'col' }, columns[0] || h('span', { class: 'unseen' }, 'what')),
      cell('th', 'columnheader', { scope: 'col', class: 'figure' }, h('span', { class: 'unseen' }, 'drawn')), cell('th', 'columnheader', { scope: 'col', class: 'value' }, columns[1]))),
    h('tbody', { role: 'rowgroup' }, rows.map(row => h('tr', { role: 'row', 'data-key': row.key ?? null },
      cell('th', 'rowheader', { scope: 'row' }, row.name, row.sub && h('small', {}, row.sub)),
      cell('td', 'cell', { class: 'figure' }, strip(row, domain, row.plain ? null : guide)),
      cell('td', 'cell', { class: 'value' }, row.text || [h('b', {}, fixed(row.value, digitsOf(row))), ' ', interval(row)], row.how && h('small', {}, row.how))))),
    h('tfoot', { 'aria-hidden': 'true' }, h('tr', { role: 'presentation' }, h('td'), h('td', { class: 'figure' }, axis(domain)), h('td'))));
}
const how = row => [`n ${count(row.n)}`, known(row.confidence_level) && percent(row.confidence_level), row.method].filter(Boolean).join(' · ');

// ---------------------------------------------------------------- lines

function lineChart(width, { x, y, series, marks = [], points = [], height = 260, label }) {
  const named = series.filter(line => line.name);
  const direct = width >= 480 && named.length > 0;
  const longest = Math.max(0, ...named.map(line => line.name.length)), yt = y.ticks || niceTicks(...y.domain, 5), yf = y.format || tickText(yt);
  const m = { left: 16 + 7 * Math.max(3, ...yt.map(t => yf(t).length)), top: 26, bottom: 40, right: direct ? clamp(longest * 7.6 + 16, 30, 170) : 14 };
  const W = width - m.left - m.right, H = height - m.top - m.bottom;
  const sx = v => m.left + W * (v - x.domain[0]) / ((x.domain[1] - x.domain[0]) || 1);
  const sy = v => m.top + H * (1 - (v - y.domain[0]) / ((y.domain[1] - y.domain[0]) || 1));
  const xt = x.ticks || niceTicks(...x.domain, clamp(W / 70, 2, 10)), xf = x.format || tickText(xt);
  const path = line => line.map((p, i) => `${i ? 'L' : 'M'}${sx(p[0]).toFixed(1)},${sy(p[1]).toFixed(1)}`).join('');
  const ends = direct ? named.map(line => { const p = line.points.filter(q => known(q[1])).at(-1) || [x.domain[1], y.domain[0]]; return { line, x: sx(p[0]), y: sy(p[1]) }; }).sort((a, b) => a.y - b.y) : [];
  for (let i = 1; i < ends.length; i++) ends[i].y = Math.max(ends[i].y, ends[i - 1].y + 15);
  const over = ends.length ? Math.max(0, ends.at(-1).y - (m.top + H)) : 0;
  ends.forEach(e => { e.y -= over; });
  const svg = s('svg', { class: 'lines', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label },
    yt.map(t => [s('line', { class: 'grid', x1: m.left, x2: m.left + W, y1: sy(t), y2: sy(t) }), s('text', { class: 'tick', x: m.left - 8, y: sy(t) + 4, 'text-anchor': 'end' }, yf(t))]),
    xt.map(t => [s('line', { class: 'grid faint', x1: sx(t), x2: sx(t), y1: m.top, y2: m.top + H }), s('text', { class: 'tick', x: sx(t), y: m.top + H + 17, 'text-anchor': 'middle' }, xf(t))]),
    s('text', { class: 'title', x: 4, y: 13 }, y.label),
    s('text', { class: 'title', x: m.left + W, y: height - 6, 'text-anchor': 'end' }, x.label),
    marks.map(mark => [s('line', { class: `mark ${mark.tone || ''}`, x1: sx(mark.x), x2: sx(mark.x), y1: m.top - 4, y2: m.top + H }),
      mark.label && s('text', { class: 'marked', x: sx(mark.x) + (mark.side === 'left' ? -5 : 5), y: m.top + 8, 'text-anchor': mark.side === 'left' ? 'end' : 'start' }, mark.label)]),
    series.map(line => [
      line.band && line.band.length > 0 && s('path', { class: `band ${line.tone}`, d: path(line.band.map(b => [b[0], b[2]])) + path([...line.band].reverse().map(b => [b[0], b[1]])).replace('M', 'L') + 'Z' }),
      (line.errors || []).map(e => s('line', { class: `error ${line.tone}`, x1: sx(e[0]), x2: sx(e[0]), y1: sy(e[1]), y2: sy(e[2]) })),
      s('path', { class: `line ${line.tone} ${line.dash ? 'dash' : ''}`, d: path(line.points.filter(p => known(p[0]) && known(p[1]))) }),
      line.dots && line.points.filter(p => known(p[1])).map(p => s('circle', { class: `dot ${line.tone}`, cx: sx(p[0]), cy: sy(p[1]), r: 4 }, s('title', {}, `${line.name || ''} ${xf(p[0])}: ${short(p[1])}`)))]),
    points.filter(p => known(p.x) && known(p.y)).map(p => [s('circle', { class: 'point', cx: sx(p.x), cy: sy(p.y), r: 6.5 }),
      p.label && s('text', { class: 'marked', x: sx(p.x) + (p.side === 'left' ? -11 : 11), y: sy(p.y) + (p.drop || 16), 'text-anchor': p.side === 'left' ? 'end' : 'start' }, p.label)]),
    ends.map(e => s('text', { class: `name ${e.line.tone}`, x: e.x + 9, y: e.y + 4 }, e.line.name)));
  if (direct || !named.length) return svg;
  return h('div', {}, h('div', { class: 'legend', 'aria-hidden': 'true' }, named.map(line => h('span', { class: `key ${line.tone} ${line.dash ? 'dash' : ''}` }, line.name))), svg);
}

function figure(ctx, title, draw, note) { // redrawn when its width or its numbers change
  const holder = h('div', { class: 'chart' });
  let width = 0;
  const redraw = () => holder.replaceChildren(draw(width || 560));
  const observer = new ResizeObserver(entries => {
    const now = Math.floor(entries[0].contentRect.width);
    if (now > 40 && Math.abs(now - width) > 1) { width = now; redraw(); }
  });
  observer.observe(holder);
  ctx.later(() => observer.disconnect());
  redraw();
  const node = h('figure', {}, title && h('figcaption', {}, title), holder, note && h('p', { class: 'note' }, note));
  node.redraw = redraw;
  return node;
}

// ---------------------------------------------------------------- tables, choosers, pictures

function table(ctx, rows, { caption, limit = 30, order } = {}) {
  const keys = order || [...new Set(rows.flatMap(row => Object.keys(row)))];
  const body = h('tbody');
  const numeric = key => rows.every(row => row[key] === null || row[key] === undefined || typeof row[key] === 'number');
  const line = row => h('tr', {}, keys.map(key => h('td', { class: numeric(key) ? 'number' : null }, content(ctx, row[key], key))));
  const more = h('button', { type: 'button', class: 'more', onclick: () => { body.replaceChildren(...rows.map(line)); more.remove(); } }, `Show all ${count(rows.length)} rows`);
  body.append(...rows.slice(0, limit).map(line));
  return h('div', {}, h('div', { class: 'wide', tabindex: 0, role: 'group', 'aria-label': caption || 'table' },
    h('table', { class: 'plain' }, caption && h('caption', {}, user(caption)), h('thead', {}, h('tr', {}, keys.map(key => h('th', { scope: 'col', class: numeric(key) ? 'number' : null }, user(key.replaceAll('_', ' ')))))), body)),
  rows.length > limit && more);
}

function tablesOf(ctx, captions) {
  return Object.entries(captions).filter(([name]) => (ctx.data.curves[name] || []).length).map(([name, caption]) => table(ctx, ctx.data.curves[name], { caption, limit: 12 }));
}

function content(ctx, value, key) {
  if (value === null || value === undefined || value === '') return '–';
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'number') return short(value);
  if (Array.isArray(value)) return user(value.slice(0, 20).map(short).join(', ') + (value.length > 20 ? ', …' : ''));
  if (typeof value === 'object') return facts(ctx, value);
  if (/^https?:\/\/[^\s]+$/.test(value)) return h('a', { href: value, target: '_blank', rel: 'noopener noreferrer' }, user(value.replace(/^https?:\/\//, '')));
  const at = /^id(_[ab])?$/.test(key) ? ctx.byId.get(value) : undefined;
  if (at) return h('button', { type: 'button', class: 'link', onclick: () => ctx.open([at], 0) }, user(value));
  return user(value);
}

const isRows = value => Array.isArray(value) && value.length > 0 && value.every(v => v && typeof v === 'object' && !Array.isArray(v));
function facts(ctx, values) { // names and values, nested as they come
  const entries = Object.entries(values);
  const flat = entries.filter(([, v]) => !isRows(v) && !(v && typeof v === 'object' && !Array.isArray(v)));
  const deep = entries.filter(([, v]) => v && typeof v === 'object' && !Array.isArray(v) && Object.keys(v).length);
  const lists = entries.filter(([, v]) => isRows(v));
  return h('div', { class: 'facts' },
    flat.length > 0 && h('dl', {}, flat.map(([k, v]) => h('div', {}, h('dt', {}, user(k.replaceAll('_', ' '))), h('dd', {}, content(ctx, v, k))))),
    deep.map(([k, v]) => h('section', {}, h('h4', {}, user(k.replaceAll('_', ' '))), facts(ctx, v))),
    lists.map(([k, v]) => table(ctx, v, { caption: `${k.replaceAll('_', ' ')} (${count(v.length)})` })));
}

function chooser(ctx, label, options, value, choose, attributes = {}) {
  const select = h('select', { ...attributes, onchange: () => choose(select.value) }, options.map(([v, text]) => h('option', { value: v, selected: v === value, dir: 'auto' }, text)));
  const node = h('label', { class: 'chooser' }, h('span', {}, label), select);
  node.select = select;
  return node;
}

function sliceChooser(ctx) {
  if (!ctx.data.slices.length) return null;
  const node = chooser(ctx, 'Slice', [['', 'all items'], ...ctx.data.slices.map(v => [v, sliceTitle(ctx, v)])], ctx.get('slice'), v => ctx.set('slice', v), { class: 'slice' });
  ctx.on('slice', () => { node.select.value = ctx.get('slice'); });
  return node;
}

const partsOf = (ctx, name) => Object.entries(ctx.data.slice_of[name] || {}); // of a slice: its columns and their values
const sliceTitle = (ctx, name) => partsOf(ctx, name).map(([c, v]) => `${c} = ${v}`).join(' and ');
const inSlice = (ctx, item) => partsOf(ctx, ctx.get('slice')).every(([c, v]) => item.slices[c] === v);
const isRight = item => item.target === item.prediction;

function picture(ctx, item, big = false) {
  const url = ctx.data.images[item.image];
  const says = `${item.id}: true ${item.target}, predicted ${item.prediction}`;
  if (url && url.startsWith('data:image/')) return h('img', { src: url, alt: says, loading: 'lazy', decoding: 'async', class: big ? 'big' : null });
  if (item.text) return h('span', { class: 'text', dir: 'auto' }, big ? item.text : item.text.slice(0, 160));
  return h('span', { class: 'absent' }, { 'not found': 'file not found', unreadable: 'file unreadable', 'not embedded': 'not embedded' }[item.why] || 'no picture');
}

function gallery(ctx, items, empty, step = 24) {
  if (!items.length) return h('p', { class: 'note' }, empty);
  const list = h('ul', { class: ctx.data.examples.some(e => e.image >= 0 || e.text || e.why) ? 'gallery' : 'gallery bare' });
  const add = () => {
    const from = list.children.length;
    list.append(...items.slice(from, from + step).map((item, i) => h('li', {}, h('button', { type: 'button', class: 'item', onclick: () => ctx.open(items, from + i) },
      picture(ctx, item), h('span', { class: isRight(item) ? 'right' : 'wrong' }, user(item.prediction), known(item.score) && h('i', {}, ` ${fixed(item.score, 2)}`)),
      h('span', { class: 'truth' }, isRight(item) ? 'right' : ['truly ', user(item.target)])))));
    more.hidden = list.children.length >= items.length;
    more.textContent = `Show ${Math.min(step, items.length - list.children.length)} more of ${count(items.length)}`;
  };
  const more = h('button', { type: 'button', class: 'more', onclick: add });
  add();
  return h('div', {}, list, more);
}

function lightbox(ctx) { // one picture large, next and previous by arrow keys
  let items = [], at = 0;
  const title = ctx.id('item');
  const body = h('div', { class: 'body' });
  const step = by => { if (items[at + by]) { at += by; show(); } };
  const arrow = (by, text, name) => h('button', { type: 'button', class: `arrow ${name}`, 'aria-label': name, onclick: () => step(by) }, text);
  const back = arrow(-1, '‹', 'previous'), next = arrow(1, '›', 'next');
  const dialog = h('dialog', { class: 'lightbox', 'aria-labelledby': title, onclick: e => e.target === dialog && dialog.close(), onclose: () => ctx.set('item', ''),
    onkeydown: e => { const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (by) { e.preventDefault(); step(by); } } },
  h('div', { class: 'frame' }, h('button', { type: 'button', class: 'close', 'aria-label': 'close', onclick: () => dialog.close() }, '×'), back, body, next));
  const show = () => {
    const item = items[at], numbers = [['probability of its prediction', item.score], ['probability of its true label', item.score_target]].filter(([, v]) => known(v));
    body.replaceChildren(h('div', { class: 'stage' }, picture(ctx, item, true)), h('div', { class: 'about' },
      h('p', { class: 'place', 'aria-live': 'polite' }, `${at + 1} of ${items.length}`),
      h('h3', { id: title, tabindex: -1 }, user(item.id)),
      h('p', { class: isRight(item) ? 'right' : 'wrong' }, isRight(item) ? 'Right: ' : 'Wrong: ', user(item.prediction), !isRight(item) && [', truly ', user(item.target)]),
      numbers.map(([name, v]) => h('div', { class: 'bar' }, h('span', {}, name), h('b', {}, fixed(v, 3)), h('i', { vars: { '--share': clamp(v, 0, 1) } }))),
      h('dl', {}, known(item.loss) && h('div', {}, h('dt', {}, 'loss'), h('dd', {}, fixed(item.loss, 2))),
        Object.entries(item.slices).map(([k, v]) => h('div', {}, h('dt', {}, user(k)), h('dd', {}, user(v)))),
        item.file && h('div', {}, h('dt', {}, 'file'), h('dd', {}, user(item.file))))));
    back.setAttribute('aria-disabled', String(at === 0));
    next.setAttribute('aria-disabled', String(at === items.length - 1));
    ctx.set('item', item.id);
  };
  ctx.open = (list, index) => {
    items = list; at = index;
    if (!dialog.open) dialog.showModal();
    show();
    body.querySelector('h3').focus({ preventScroll: true });
  };
  ctx.on('item', () => {
    const id = ctx.get('item');
    if (!id) { if (dialog.open) dialog.close(); return; }
    if (dialog.open && items[at] && items[at].id === id) return;
    const item = ctx.byId.get(id);
    if (item) ctx.open([item], 0);
  });
  return dialog;
}

// ---------------------------------------------------------------- the top of the page: uncomfortable things first

const titleOf = (ctx, metric) => ctx.data.about[metric]?.title || String(metric).replaceAll('_', ' ');
const lowerIsBetter = (ctx, metric) => ctx.data.about[metric]?.better === 'lower';

function drawComparedHead(ctx) {
  const { data } = ctx;
  return [h('header', {}, h('p', { class: 'eyebrow' }, 'Comparison'), h('h1', {}, user(data.title)), h('p', { class: 'facts-line' }, `${plural(data.models.length, 'model')} on the same ${plural(data.n, 'test item')}`)),
    h('section', { class: 'card verdict none' }, h('h2', {}, h('span', {}, user(data.verdict.words))))];
}

function drawHead(ctx) {
  const { data } = ctx, run = data.run;
  const kind = { single_label: 'single label', multi_label: 'multi-label', regression: 'regression' }[data.task] || data.task;
  const parts = [run.backbone && user(run.backbone), data.labels.length ? [`${kind}, ${plural(data.labels.length, 'label')}`, data.labels.length <= 4 && [': ', data.labels.map((l, i) => [i ? ', ' : '', user(l)])]] : kind,
    `${plural(data.n, 'test item')}`, known(run.n_train) && `trained on ${count(run.n_train)}`, known(run.seconds) && `in ${duration(run.seconds)}`].filter(Boolean);
  return h('header', {}, h('p', { class: 'eyebrow' }, 'Evaluation report'), h('h1', {}, user(data.title)), h('p', { class: 'facts-line' }, parts.map((p, i) => [i ? h('span', { class: 'dot-sep', 'aria-hidden': 'true' }, ' · ') : '', h('span', {}, p)])));
}

function drawVerdict(ctx) {
  const { verdict } = ctx.data, tone = { pass: 'pass', fail: 'fail', 'cannot say': 'open' }[verdict.verdict] || 'none';
  const word = { pass: 'PASS', fail: 'FAIL', open: 'CANNOT SAY', none: 'No standard' }[tone];
  const look = { met: ['pass', '✓ met', 'good'], failed: ['fail', '✗ failed', 'bad'], 'cannot say': ['open', '? cannot say', 'other'] };
  return h('section', { class: `card verdict ${tone}`, 'aria-labelledby': ctx.id('verdict') },
    h('h2', { id: ctx.id('verdict') }, h('span', { class: 'stamp' }, word), ' ', h('span', {}, verdict.words.replace(/^(PASS|FAIL|CANNOT SAY): /, '').replace(/^./, c => c.toUpperCase()))),
    verdict.checks.length > 0 && h('ul', { class: 'checks' }, verdict.checks.map(check => {
      const ends = [check.low, check.high, check.threshold, check.value].filter(known), low = Math.min(...ends), high = Math.max(...ends), pad = (high - low || .1) * .25;
      const [kind, chip, color] = look[check.verdict];
      return h('li', { class: kind }, h('span', { class: 'chip' }, chip), h('span', { class: 'words' }, user(check.words)),
        known(check.value) && h('span', { class: 'drawn', 'aria-hidden': 'true' }, strip({ ...check, tone: color }, [low - pad, high + pad], check.threshold)));
    })));
}

function drawHeadline(ctx) {
  const { data } = ctx, row = data.metrics.find(r => r.metric === data.headline && !r.label && !r.slice);
  if (!row) return null;
  const rows = [{ ...row, name: 'this model', key: 'model', plain: true, text: [h('b', {}, fixed(row.value, digitsOf(row))), ' ', interval(row)] }];
  for (const c of data.comparisons.filter(c => c.metric === data.headline)) {
    const d = { value: c.difference, low: c.low, high: c.high };
    rows.push({ name: user(c.baseline), sub: 'baseline', value: c.baseline_value, tone: 'other', key: c.baseline,
      text: [h('b', {}, fixed(c.baseline_value, digitsOf(row))), h('small', {}, `this model ${fixed(d.value, digitsOf(d), true)} ${interval(d, true)}`)] });
  }
  for (const r of data.references.filter(r => r.metric === data.headline)) rows.push({ name: user(r.name), sub: 'published', value: r.value, tone: 'published', text: h('b', {}, fixed(r.value, digitsOf(row))) });
  const domain = niceDomain(rows.flatMap(r => [r.low, r.high, r.value]));
  return h('section', { class: 'card headline', 'aria-labelledby': ctx.id('headline') },
    h('div', { class: 'number' }, h('h2', { id: ctx.id('headline') }, titleOf(ctx, row.metric)), h('p', { class: 'big' }, fixed(row.value, digitsOf(row))), h('p', { class: 'range' }, interval(row)),
      h('p', { class: 'note' }, `${percent(row.confidence_level)} interval, ${row.method}, on ${plural(row.n, 'item')}. ${lowerIsBetter(ctx, row.metric) ? 'Lower' : 'Higher'} is better.`)),
    forest(rows, { domain, guide: row.value, columns: ['', 'value'] }));
}

function drawCautions(ctx) {
  const { cautions } = ctx.data;
  if (!cautions.length) return null;
  return h('section', { class: 'card cautions', 'aria-labelledby': ctx.id('cautions') }, h('h2', { id: ctx.id('cautions') }, 'Before you quote this'),
    h('ul', {}, cautions.map(c => h('li', {}, user(c.text), ctx.data.tabs.includes(c.tab) && [' ', h('button', { type: 'button', class: 'link', onclick: () => ctx.go(c.tab) }, `See ${PANELS[c.tab][0].toLowerCase()}`)]))));
}

// ---------------------------------------------------------------- the tabs

function drawMetrics(ctx) {
  const { data } = ctx, holder = h('div');
  const labelled = [...new Set(data.metrics.filter(r => r.label).map(r => r.metric))];
  let chosen = labelled.includes('recall') ? 'recall' : labelled[0], all = false;
  const draw = () => {
    const rows = [...data.metrics, ...(data.curves.crossed || [])].filter(r => r.slice === ctx.get('slice'));
    const overall = rows.filter(r => !r.label).map(r => ({ ...r, name: titleOf(ctx, r.metric), sub: data.about[r.metric]?.about, how: how(r), key: r.metric }));
    const most = r => data.about[r.metric]?.bounds?.[1] ?? 1;
    const high = overall.filter(r => !lowerIsBetter(ctx, r.metric)), low = overall.filter(r => lowerIsBetter(ctx, r.metric));
    const tops = [...new Set(high.map(most))]; // shares and BLEU do not fit on one axis
    const part = rows.filter(r => r.label && r.metric === chosen), shown = all ? part : part.slice(0, 20);
    const bounded = list => niceDomain(list.flatMap(r => [r.low, r.high, r.value]), { zero: true, one: list.some(r => data.about[r.metric]?.bounds?.[1] === 1), pad: 0 });
    holder.replaceChildren(...[
      ...tops.map(top => high.filter(r => most(r) === top)).map(list => forest(list, { domain: bounded(list), caption: tops.length > 1 ? `Higher is better ↑, of ${most(list[0])}` : 'Higher is better ↑' })),
      low.length && forest(low, { domain: niceDomain(low.flatMap(r => [r.low, r.high, r.value]), { zero: true }), caption: 'Lower is better ↓' }),
      part.length && h('div', { class: 'row' }, h('h3', {}, 'By label'), chooser(ctx, 'Metric', labelled.map(m => [m, titleOf(ctx, m)]), chosen, v => { chosen = v; draw(); holder.querySelector('.by-label')?.focus(); }, { class: 'by-label' })),
      part.length && forest(shown.map(r => ({ ...r, name: user(r.label), how: how(r), key: `${r.metric}/${r.label}` })), { domain: bounded(part), caption: [titleOf(ctx, chosen), data.about[chosen]?.about ? `: ${data.about[chosen].about}` : '', lowerIsBetter(ctx, chosen) ? ' ↓' : ' ↑'] }),
      shown.length < part.length && h('button', { type: 'button', class: 'more', onclick: () => { all = true; draw(); } }, `Show all ${count(part.length)} labels`),
      !rows.length && h('p', { class: 'note' }, 'No numbers for this slice.')].filter(Boolean));
  };
  ctx.on('slice', draw);
  return [lead('Each number with its interval: the range of true values that these items do not contradict.'), sliceChooser(ctx), holder];
}
const lead = (...text) => h('p', { class: 'lead' }, ...text);

function drawComparisons(ctx) {
  const { data } = ctx;
  const row = c => {
    const d = { low: c.low, high: c.high };
    return { ...differenceRow(ctx, c), name: titleOf(ctx, c.metric), sub: `${fixed(c.value, digitsOf(d))} against ${fixed(c.baseline_value, digitsOf(d))}`, key: `${c.metric}/${c.baseline}` };
  };
  const against = [...new Set(data.comparisons.map(c => c.baseline))].map(baseline => {
    const all = data.comparisons.filter(c => c.baseline === baseline).sort((a, b) => (b.metric === data.headline) - (a.metric === data.headline));
    return [h('h3', {}, 'Against ', user(baseline)), [false, true].map(down => {
      const rows = all.filter(c => lowerIsBetter(ctx, c.metric) === down).map(row);
      return rows.length > 0 && forest(rows, { domain: niceDomain([0, ...rows.flatMap(r => [r.low, r.high])]), guide: 0, columns: [down ? 'Lower is better ↓' : 'Higher is better ↑', 'difference [interval]'] });
    })];
  });
  const ours = metric => data.metrics.find(r => r.metric === metric && !r.label && !r.slice);
  const published = data.references.map(r => {
    const us = ours(r.metric);
    const says = !us ? '' : r.value > us.high ? 'above our interval' : r.value < us.low ? 'below our interval' : 'inside our interval';
    return { name: r.name, metric: titleOf(ctx, r.metric), published: fixed(r.value, 3), ours: us ? withInterval(us) : '', 'it lies': says, note: r.note, source: r.source };
  });
  return [
    against.length > 0 && [lead('This model minus the baseline, on the same items. A difference counts as shown if its interval excludes 0 and its p-value, corrected for the number of comparisons, agrees.'), against],
    published.length > 0 && [h('h3', {}, 'Published numbers'), lead('Measured elsewhere, on other splits: a neighbourhood, not a contest.'), table(ctx, published)]];
}

function drawConfusion(ctx) {
  const { data } = ctx, { labels, counts, others, pairs } = data.confusion;
  const names = others ? [...labels, `${count(others)} other labels`] : labels;
  const totals = counts.map(sum), below = h('div', { class: 'opened', 'aria-live': 'polite' });
  const cell = (i, j) => {
    const n = counts[i][j], share = totals[i] ? n / totals[i] : 0, real = i < labels.length && j < labels.length;
    const inside = [h('b', {}, count(n)), h('small', {}, percent(share))];
    const button = real && n > 0 && h('button', { type: 'button', 'aria-pressed': 'false', 'data-target': labels[i], 'data-prediction': labels[j], onclick: () => ctx.set('cell', [labels[i], labels[j]]),
      'aria-label': `true ${labels[i]}, predicted ${labels[j]}: ${count(n)} of ${count(totals[i])} items. Show them.` }, inside);
    return h('td', { class: i === j ? 'hit' : 'miss', vars: { '--share': share.toFixed(3) } }, button || h('span', {}, inside));
  };
  const matrix = h('table', { class: 'matrix', 'aria-label': 'Confusion matrix: rows are the truth, columns what the model said' },
    h('thead', {}, h('tr', {}, h('td', {}, h('span', { class: 'corner' }, 'true ↓ predicted →')), names.map(name => h('th', { scope: 'col' }, user(name))))),
    h('tbody', {}, counts.map((row, i) => h('tr', {}, h('th', { scope: 'row' }, user(names[i]), h('small', {}, plural(totals[i], 'item'))), row.map((_, j) => cell(i, j))))));
  const draw = () => {
    const [target, prediction] = ctx.get('cell') || [];
    matrix.querySelectorAll('button').forEach(b => b.setAttribute('aria-pressed', String(b.dataset.target === target && b.dataset.prediction === prediction)));
    if (target === undefined) return below.replaceChildren(h('p', { class: 'note' }, 'No cell is open.'));
    const items = data.examples.filter(e => e.target === target && e.prediction === prediction), i = labels.indexOf(target), j = labels.indexOf(prediction);
    const n = i >= 0 && j >= 0 ? counts[i][j] : (pairs.find(p => p.target === target && p.prediction === prediction) || {}).count;
    below.replaceChildren(h('h3', {}, 'Truly ', user(target), ', called ', user(prediction)),
      h('p', { class: 'note' }, `${known(n) ? `${plural(n, 'item')}; ` : ''}${count(items.length)} in this report, the highest loss first.`), gallery(ctx, items, 'None of its items are in this report.'));
  };
  ctx.on('cell', draw);
  const list = pairs.slice(0, 12).map(p => h('li', {}, h('button', { type: 'button', class: 'link', onclick: () => ctx.set('cell', [p.target, p.prediction]) }, user(p.target), ' called ', user(p.prediction)), ` ${count(p.count)} of ${count(p.of)} (${percent(p.count / p.of)})`));
  return [lead('Rows are the truth, columns what the model said. Shares are of the row. Press a cell to see its items.'),
    h('div', { class: 'beside' }, h('div', { class: 'wide', tabindex: 0, role: 'group', 'aria-label': 'confusion matrix' }, matrix),
      list.length > 0 && h('div', {}, h('h3', {}, 'Most frequent mistakes'), h('ol', { class: 'pairs' }, list))), below];
}

const bandOf = (rows, x) => rows.filter(p => known(p.low)).map(p => [p[x], p.low, p.high]);

function drawThreshold(ctx) {
  const { data } = ctx, positive = data.labels[1], valid = data.curves.threshold_valid;
  const grouped = data.curves.threshold[0].n_recall !== undefined, band = `with ${percent(data.level)} band${grouped ? ' over groups' : ''}`;
  let split = 'test';
  const curve = () => split === 'valid' ? valid : data.curves.threshold;
  const nearest = t => curve().reduce((best, row) => Math.abs(row.threshold - t) < Math.abs(best.threshold - t) - 1e-9 ? row : best);
  const best = rows => rows.reduce((a, b) => (ratesAt(b, data.z).balanced_accuracy.value || 0) > (ratesAt(a, data.z).balanced_accuracy.value || 0) + 1e-12 ? b : a);
  const slider = h('input', { type: 'range', class: 'threshold', min: 0, max: 1, step: .01, 'aria-label': `threshold on the probability of ${positive}`, oninput: () => ctx.set('threshold', Number(slider.value)) });
  const output = h('output', { class: 'threshold-value' }), numbers = h('div', { class: 'rates' }), four = h('div', { class: 'four' });
  const costs = ['missed', 'false alarm'].map((what, i) => h('input', { type: 'number', min: 0, step: 'any', class: `cost-${i}`, 'aria-label': `cost of one ${what}`, onchange: e => {
    const value = Math.max(0, Number(e.target.value) || 0);
    ctx.set('costs', ctx.get('costs').map((c, k) => k === i ? value : c));
  } }));
  const price = h('p', { class: 'price', role: 'status' }), cheapest = h('span');
  const costOf = row => { const n = row.tp + row.fn + row.fp + row.tn, [a, b] = ctx.get('costs'); return (a * row.fn + b * row.fp) / n; };
  const costAt = row => { // MOVER over the Wilson intervals of two shares; per 1,000 items
    const n = row.tp + row.fn + row.fp + row.tn, [a, b] = ctx.get('costs'), miss = shareOf(row.fn, n, row.n_missed, data.z), alarm = shareOf(row.fp, n, row.n_alarms, data.z), value = 1000 * costOf(row);
    const reach = end => known(miss[end]) && known(alarm[end]) ? 1000 * together(a * (miss[end] - miss.value), b * (alarm[end] - alarm.value), row.r_costs) : NaN;
    return { value, low: Math.max(0, value - reach('low')), high: value + reach('high'), n };
  };
  const set = (value, text) => h('button', { type: 'button', class: 'small', onclick: () => ctx.set('threshold', value) }, text);
  const chosen = valid && best(valid).threshold;
  const names = [['recall', 'blue'], ['precision', 'red'], ['specificity', 'green'], ['balanced_accuracy', 'ink']];
  const about = { recall: `of the truly ${positive}, the share called so`, precision: `of those called ${positive}, the share that is`, specificity: 'of all others, the share left alone', balanced_accuracy: 'mean of recall and specificity', accuracy: 'share of items called right', f1: 'harmonic mean of precision and recall' };
  const lines = figure(ctx, 'What each threshold does', width => {
    const rates = curve().map(row => [row.threshold, ratesAt(row, data.z)]), t = nearest(ctx.get('threshold')).threshold;
    return lineChart(width, { height: 340, x: { domain: [0, 1], label: 'threshold' }, y: { domain: [0, 1], label: `share of the ${split} split, ${band}` }, label: 'Recall, precision, specificity and balanced accuracy against the threshold; the numbers are in the table.',
      marks: [{ x: t, label: fixed(t, 2), side: t > .8 ? 'left' : 'right' }], series: names.map(([name, tone]) => ({ name: titleFor(name), tone, points: rates.map(([x, r]) => [x, r[name].value]),
        band: name === 'balanced_accuracy' ? null : rates.filter(([, r]) => known(r[name].low)).map(([x, r]) => [x, r[name].low, r[name].high]) })) });
  });
  const small = (name, draw) => figure(ctx, name, draw);
  const roc = data.curves.roc && small('ROC', width => {
    const r = ratesAt(nearest(ctx.get('threshold')), data.z);
    return lineChart(width, { height: 250, x: { domain: [0, 1], label: 'false positive rate' }, y: { domain: [0, 1], label: `recall, ${band}` }, label: 'Receiver operating characteristic',
      series: [{ tone: 'faint', dash: true, points: [[0, 0], [1, 1]] }, { tone: 'blue', points: data.curves.roc.map(p => [p.fpr, p.tpr]), band: bandOf(data.curves.roc, 'fpr') }],
      points: [{ x: known(r.specificity.value) ? 1 - r.specificity.value : null, y: r.recall.value, label: `at ${fixed(ctx.get('threshold'), 2)}`, drop: 18 }] });
  });
  const pr = data.curves.pr && small('Precision and recall', width => {
    const r = ratesAt(nearest(ctx.get('threshold')), data.z), rate = curve()[0], share = (rate.tp + rate.fn) / (rate.tp + rate.fn + rate.fp + rate.tn);
    return lineChart(width, { height: 250, x: { domain: [0, 1], label: 'recall' }, y: { domain: [0, 1], label: `precision, ${band}` }, label: 'Precision against recall',
      series: [{ tone: 'faint', dash: true, points: [[0, share], [1, share]] }, { tone: 'blue', points: data.curves.pr.map(p => [p.recall, p.precision]), band: bandOf(data.curves.pr, 'recall') }],
      points: [{ x: r.recall.value, y: r.precision.value, label: `at ${fixed(ctx.get('threshold'), 2)}`, side: r.recall.value > .5 ? 'left' : 'right', drop: 20 }] });
  });
  const draw = () => {
    const row = nearest(ctx.get('threshold')), rates = ratesAt(row, data.z);
    slider.value = ctx.get('threshold');
    slider.setAttribute('aria-valuetext', `${fixed(row.threshold, 2)}: recall ${fixed(rates.recall.value, 2)}, precision ${fixed(rates.precision.value, 2)}`);
    output.textContent = fixed(row.threshold, 2);
    const order = ['recall', 'precision', 'specificity', 'balanced_accuracy', 'accuracy', 'f1'];
    numbers.replaceChildren(forest(order.map(name => ({ ...rates[name], name: titleFor(name), sub: about[name], key: name, how: `n ${count(rates[name].n)}` })), { domain: [0, 1] }));
    const box = (n, text, tone) => h('div', { class: tone }, h('b', { 'data-count': text }, count(n)), h('span', {}, text));
    four.replaceChildren(box(row.tp, 'true positives', 'hit'), box(row.fn, 'missed', 'miss'), box(row.fp, 'false alarms', 'miss'), box(row.tn, 'true negatives', 'hit'));
    costs.forEach((input, i) => { input.value = ctx.get('costs')[i]; });
    price.replaceChildren('Cost of 1,000 items: ', h('b', {}, withInterval(costAt(row))), `, ${percent(data.level)} interval, on the ${split} split.`);
    const least = valid && valid.reduce((a, b) => costOf(b) < costOf(a) - 1e-12 ? b : a).threshold;
    cheapest.replaceChildren(...(valid ? [set(least, `least cost on valid: ${fixed(least, 2)}`)] : []));
    [lines, roc, pr].forEach(f => f && f.redraw());
  };
  ctx.on('threshold', draw);
  ctx.on('costs', draw);
  return [lead('An item is called ', user(positive), ' when its probability is at least the threshold. ', valid ? 'Choose on the valid split, then read the test split: choosing on test flatters the result.' : 'Choosing it here means choosing on the test split, which flatters the result.'),
    h('div', { class: 'control' }, h('label', { class: 'slide' }, h('span', {}, 'Threshold ', output), slider),
      h('div', { class: 'row' }, set(.5, 'reset to 0.50'), known(chosen) && set(chosen, `best balanced accuracy on valid: ${fixed(chosen, 2)}`),
        valid && chooser(ctx, 'Counts of', [['test', 'test split'], ['valid', 'valid split']], split, v => { split = v; draw(); }, { class: 'split' }))),
    h('div', { class: 'control' }, h('div', { class: 'row' }, h('label', { class: 'chooser' }, `One missed ${positive} costs`, costs[0]), h('label', { class: 'chooser' }, 'one false alarm costs', costs[1]), cheapest), price),
    h('div', { class: 'two' }, h('div', {}, four, numbers), h('div', {}, lines)),
    h('p', { class: 'note' }, `${percent(data.level)} intervals: Wilson for shares, Newcombe for balanced accuracy, Wilson through tp / (tp + fp + fn) for F1, Newcombe for costs.${grouped ? ' Groups are kept together: each interval is that of as many independent items as they are worth.' : ''} Bands are of each threshold by itself.`),
    (roc || pr) && h('div', { class: 'two' }, roc, pr)];
}
const titleFor = name => ({ f1: 'F1' }[name] || name.replaceAll('_', ' ').replace(/^./, c => c.toUpperCase()));

function drawErrors(ctx) {
  const { data } = ctx, holder = h('div');
  const numeric = data.task === 'regression', wrong = data.examples.filter(e => !isRight(e));
  const pairs = numeric ? [] : [...new Set(wrong.map(e => JSON.stringify([e.target, e.prediction])))].map(p => JSON.parse(p));
  const what = wrong.length ? 'wrong' : 'all';
  const choice = { pair: what, sort: 'loss', loss: '0' };
  const losses = [['0', 'any'], ['0.693147', 'true label below 50 %'], ['2.302585', 'below 10 %'], ['4.60517', 'below 1 %']];
  const options = [['wrong', 'all mistakes'], ['all', 'all items in this report'], ...pairs.slice(0, 100).map((p, i) => [String(i), `${p[0]} → called ${p[1]}`])];
  const sorts = [['loss', 'highest loss first'], ...(numeric ? [] : [['sure', 'most certain first'], ['unsure', 'least certain first']]), ['id', 'by id']];
  const order = { loss: (a, b) => (b.loss ?? 0) - (a.loss ?? 0), sure: (a, b) => (b.score ?? 0) - (a.score ?? 0), unsure: (a, b) => (a.score ?? 0) - (b.score ?? 0), id: (a, b) => String(a.id).localeCompare(String(b.id), 'en', { numeric: true }) };
  const draw = () => {
    const pair = pairs[Number(choice.pair)];
    const items = data.examples.filter(e => inSlice(ctx, e) && (choice.loss === '0' || e.loss > Number(choice.loss)) && (choice.pair === 'all' || (pair ? e.target === pair[0] && e.prediction === pair[1] : !isRight(e)))).sort(order[choice.sort]);
    holder.replaceChildren(h('p', { class: 'note', role: 'status' }, `${plural(items.length, 'item')}. This report holds ${count(data.examples.length)} of the ${count(data.n)} test items, those with the highest loss${data.confusion.labels ? ' in each cell of the confusion matrix' : ''}.`), gallery(ctx, items, 'No item fits these filters.'));
  };
  ctx.on('slice', draw);
  return [lead('The model’s worst moments. Open one, then walk with the arrow keys. Now and then it is the label that is wrong.'),
    h('div', { class: 'row' }, chooser(ctx, 'Show', options, choice.pair, v => { choice.pair = v; draw(); }, { class: 'pair' }), sliceChooser(ctx), data.examples.some(e => known(e.score_target)) && chooser(ctx, 'Loss', losses, choice.loss, v => { choice.loss = v; draw(); }, { class: 'loss' }), chooser(ctx, 'Order', sorts, choice.sort, v => { choice.sort = v; draw(); }, { class: 'order' })), holder,
    h('details', {}, h('summary', {}, 'Confused pairs, suspect labels, and what withholding answers would bring'), tablesOf(ctx, { confused: 'Pairs that are confused', suspects: 'Labels that the model doubts',
      label_noise: 'Share of wrong labels, estimated', without_suspects: 'The metrics without suspect labels; optimistic, because the model itself picked them', selective: 'If the least certain answers were withheld', threshold_for_risk: 'A threshold chosen on the valid split for a risk' }))];
}

function drawSlices(ctx) {
  const { data } = ctx, crossed = data.curves.crossed || [], ALL = 'all pairs', MOST = 20;
  const alone = data.metrics.filter(r => r.slice && !r.label), metrics = [...new Set(alone.map(r => r.metric))];
  const columns = data.slice_groups.map(([name]) => name), isPair = new Map(data.slice_groups.map(([name, list]) => [name, partsOf(ctx, list[0]).length > 1]));
  const pairs = columns.filter(c => isPair.get(c));
  let metric = metrics.includes(data.headline) ? data.headline : metrics[0], most = MOST;
  const holder = h('div'), picked = h('div', { class: 'opened' });
  const draw = () => {
    const by = ctx.get('by'), inPairs = by === ALL || isPair.get(by), listed = new Set(data.slice_groups.filter(([name]) => by ? by === name || (by === ALL && isPair.get(name)) : !isPair.get(name)).flatMap(([, list]) => list));
    const whole = data.metrics.find(r => r.metric === metric && !r.label && !r.slice), down = lowerIsBetter(ctx, metric);
    const tested = (inPairs ? crossed : data.curves.slices || []).filter(r => r.metric === metric), gaps = new Map(tested.filter(r => known(r.gap_low)).map(r => [r.slice, r]));
    const surely = r => { const g = gaps.get(r.slice); return g ? (down ? g.gap_low : -g.gap_high) : -Infinity; }; // worse than the rest by at least this much
    const part = (inPairs ? crossed : alone).filter(r => r.metric === metric && listed.has(r.slice)).sort((a, b) => surely(b) - surely(a) || (down ? b.value - a.value : a.value - b.value));
    const list = part.slice(0, most).map(r => {
      const g = gaps.get(r.slice), bad = g && surely(r) > 0 && g.p_value < 1 - g.confidence_level, d = g && { value: g.gap, low: g.gap_low, high: g.gap_high };
      return { ...r, key: r.slice, tone: bad ? 'bad' : 'model', how: how(r), sub: g ? `${fixed(g.gap, digitsOf(d), true)} ${interval(d, true)} against the rest${known(g.p_value) ? `, p ${g.p_value < .001 ? '< 0.001' : `= ${fixed(g.p_value, 3)}`}` : ''}${bad ? ': worse' : ''}` : null,
        name: h('button', { type: 'button', class: 'link', 'aria-pressed': String(ctx.get('slice') === r.slice), onclick: () => ctx.set('slice', ctx.get('slice') === r.slice ? '' : r.slice) }, user(sliceTitle(ctx, r.slice))) };
    });
    if (whole) list.push({ ...whole, key: '', tone: 'other', plain: true, name: 'all items', how: how(whole) });
    pick.select.value = by;
    holder.replaceChildren(...[forest(list, { domain: niceDomain(list.flatMap(r => [r.low, r.high, r.value])), guide: whole?.value, caption: `${titleOf(ctx, metric)}, those first that are most surely worse than the rest. ${down ? 'Lower is better ↓' : 'Higher is better ↑'}` }),
      part.length > most && h('button', { type: 'button', class: 'more', onclick: () => { most = part.length; draw(); } }, `Show all ${count(part.length)} slices`),
      !part.length && h('p', { class: 'note' }, 'Not computed: where there are many labels, crossings have only means over items, such as accuracy.')].filter(Boolean));
    const name = ctx.get('slice'), mistakes = data.examples.filter(e => !isRight(e) && inSlice(ctx, e));
    picked.replaceChildren(...(name ? [h('h3', {}, 'Mistakes in ', user(sliceTitle(ctx, name))), gallery(ctx, mistakes, 'None of its mistakes are in this report.', 12)] : [h('p', { class: 'note' }, 'Press a slice to see its mistakes.')]));
  };
  const pick = chooser(ctx, 'Columns', [['', 'all columns'], ...columns.filter(c => !isPair.get(c)).map(c => [c, c]), ...(pairs.length ? [[ALL, 'all pairs, crossed']] : []), ...pairs.map(c => [c, partsOf(ctx, data.slice_groups.find(([name]) => name === c)[1][0]).map(([k]) => k).join(' × ')])],
    ctx.get('by'), v => ctx.set('by', v), { class: 'slice-column' });
  ctx.on('by', () => { most = MOST; draw(); });
  ctx.on('slice', draw);
  return [lead('The same metric on parts of the test set. The dashed line is the value on all items. ', pairs.length > 0 && 'Columns by themselves are one family of questions, crossed columns another; each is corrected for the number of its slices.'),
    h('div', { class: 'row' }, chooser(ctx, 'Metric', metrics.map(m => [m, titleOf(ctx, m)]), metric, v => { metric = v; draw(); }, { class: 'slice-metric' }), columns.length > 1 && pick), holder, picked,
    ...tablesOf(ctx, { fairness: 'Fairness between groups: differences of 0 and ratios of 1 are parity', group_rates: 'How each group fares', weak_slices: 'Weak corners: found on one half of the items, confirmed on the other', not_crossed: 'Columns that were not crossed, or not wholly' })];
}

function drawCalibration(ctx) {
  const { data } = ctx, mended = data.curves.reliability_temperature, holder = h('div'), draw = () => {
  const after = mended && ctx.get('calibrated'), rows = after ? mended : data.curves.reliability, most = Math.max(...rows.map(r => r.n));
  const binary = data.task === 'single_label' && data.labels.length === 2;
  const x = binary ? `probability given to ${data.labels[1]}` : 'probability given to the prediction', y = binary ? `share that truly is ${data.labels[1]}` : 'share that was right';
  const scores = data.metrics.filter(r => !r.label && !r.slice && /log_loss|brier|calibration|ece/.test(r.metric)).map(r => ({ ...r, name: titleOf(ctx, r.metric), sub: data.about[r.metric]?.about, how: how(r), key: r.metric }));
  const off = rows.filter(r => r.low > r.mean_score || r.high < r.mean_score).length;
  holder.replaceChildren(lead(`When the model says 80 %, is it right in 80 % of cases? Of ${plural(rows.length, 'bin')}, ${count(off)} ${off === 1 ? 'has an interval that misses' : 'have intervals that miss'} the diagonal${after ? ' after temperature scaling' : ''}.`),
    h('div', { class: 'two' },
      figure(ctx, after ? 'Reliability, after temperature scaling' : 'Reliability', width => lineChart(width, { height: 320, x: { domain: [0, 1], label: x }, y: { domain: [0, 1], label: y }, label: 'Reliability curve; the numbers are in the table below.',
        series: [{ tone: 'faint', dash: true, points: [[0, 0], [1, 1]] }, after && { name: 'before', tone: 'faint', points: data.curves.reliability.map(r => [r.mean_score, r.observed]) },
          { name: after && 'after', tone: 'blue', dots: true, points: rows.map(r => [r.mean_score, r.observed]), band: rows.map(r => [r.mean_score, r.low, r.high]) }].filter(Boolean) }), `Band: ${percent(data.level)} intervals. On the diagonal, probabilities are frequencies.`),
      h('div', {}, figure(ctx, 'Items in each bin', width => bars(width, rows.map(r => ({ x: r.mean_score, n: r.n })), most, x)), scores.length > 0 && forest(scores, { domain: niceDomain(scores.flatMap(r => [r.low, r.high, r.value]), { zero: true }), caption: after ? 'Before scaling. Lower is better ↓' : 'Lower is better ↓' }))),
    h('details', {}, h('summary', {}, 'The numbers'), table(ctx, rows.map(r => ({ 'mean score': r.mean_score, observed: r.observed, low: r.low, high: r.high, n: r.n })), { caption: 'Reliability' })));
  };
  const box = h('input', { type: 'checkbox', class: 'calibrated', onchange: () => ctx.set('calibrated', box.checked) });
  ctx.on('calibrated', () => { box.checked = Boolean(ctx.get('calibrated')); draw(); });
  return [mended && h('label', { class: 'switch' }, box, ' Temperature scaling, fitted on the valid split'), holder,
    tablesOf(ctx, { calibration: 'How far probabilities are from frequencies', calibrated: 'What a calibrator fitted on the valid split changes on the test split' })];
}

function bars(width, rows, most, label) {
  const height = 150, left = 44, right = 14, top = 22, bottom = 38, W = width - left - right, H = height - top - bottom, wide = Math.min(26, W / (rows.length + 1) * .8);
  return s('svg', { class: 'lines', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': 'Number of items in each bin' },
    niceTicks(0, 1, 5).map(t => s('text', { class: 'tick', x: left + W * t, y: top + H + 17, 'text-anchor': 'middle' }, t.toFixed(1))), s('line', { class: 'grid', x1: left, x2: left + W, y1: top + H, y2: top + H }),
    rows.map((r, i) => { const tall = H * r.n / most, room = !i || W * (r.x - rows[i - 1].x) > 22; return [s('rect', { class: 'column', x: left + W * r.x - wide / 2, width: wide, y: top + H - tall, height: tall }), room && s('text', { class: 'tick', x: left + W * r.x, y: top + H - tall - 4, 'text-anchor': 'middle' }, count(r.n))]; }),
    s('text', { class: 'title', x: left + W, y: height - 4, 'text-anchor': 'end' }, label));
}

function drawTraining(ctx) {
  const rows = ctx.data.history, at = rows.map((r, i) => known(r.epoch) ? r.epoch : i), own = new Set(['epoch', 'stage', 'train_loss', 'valid_loss', 'lr', 'seconds', 'kept', 'train_eval_loss', 'gap', 'gap_low', 'gap_high', 'constant_loss']), isRate = k => /^lr_\d+$/.test(k);
  const keys = [...new Set(rows.flatMap(r => Object.keys(r)))], more = keys.filter(k => !own.has(k) && !isRate(k) && rows.some(r => known(r[k])));
  const stages = rows.map((r, i) => ({ x: at[i], label: r.stage })).filter((m, i) => m.label && (!i || m.label !== rows[i - 1].stage));
  const domain = [Math.min(...at), Math.max(...at, Math.min(...at) + 1)], ticks = niceTicks(...domain, 8).filter(Number.isInteger);
  const x = { domain, label: 'epoch', ticks, format: v => v < 0 ? 'start' : String(v) }, take = key => rows.map((r, i) => [at[i], r[key]]);
  const has = key => rows.some(r => known(r[key])), tones = ['blue', 'red', 'green', 'ink'];
  const chart = (title, label, list, zero) => figure(ctx, title, width => lineChart(width, { x, y: { domain: niceDomain(list.flatMap(l => [...l.points.map(p => p[1]), ...(l.band || []).flatMap(b => [b[1], b[2]])]), { zero }), label, format: label === 'learning rate' ? v => v ? v.toExponential(1).replace('.0e', 'e').replace('e-', 'e−') : '0' : undefined },
    label: `${title}; the numbers are in the table below.`, marks: stages.map((m, i) => ({ ...m, tone: 'soft' })), series: list }));
  const losses = [['train_loss', 'train', 'ink'], ['valid_loss', 'valid', 'blue']].filter(([k]) => has(k)).map(([k, name, tone]) => ({ name, tone, dots: true, points: take(k) }));
  const rates = keys.filter(k => isRate(k) && has(k)), faint = i => i === 0 ? 'red' : 'faint';
  const groups = [...rates.map((k, i) => ({ name: i === 0 ? 'first layers' : '', tone: faint(i), points: take(k) })), { name: rates.length ? 'head' : '', tone: 'blue', dots: true, points: take('lr') }];
  const watched = has('gap'), gap = rows.map((r, i) => [at[i], watched ? r.gap : known(r.train_loss) && known(r.valid_loss) ? r.valid_loss - r.train_loss : null]);
  const band = watched && rows.map((r, i) => [at[i], r.gap_low, r.gap_high]).filter(b => known(b[1]));
  const seconds = sum(rows.map(r => r.seconds || 0)), kept = rows.findIndex(r => r.kept);
  return [lead(`${plural(rows.length, 'epoch')}${seconds ? ` in ${duration(seconds)}` : ''}. ${stages.length > 1 ? 'Vertical lines mark the start of a stage.' : ''}${kept < 0 ? '' : at[kept] < 0 ? ' The weights from before the first were kept.' : ` The weights of epoch ${at[kept]} were kept.`}`),
    h('div', { class: 'two' }, losses.length > 0 && chart('Loss', 'loss', losses, false),
      more.length > 0 && chart('On the valid split', 'value', more.slice(0, 4).map((k, i) => ({ name: titleOf(ctx, k), tone: tones[i], dots: true, points: take(k) }))),
      gap.filter(p => known(p[1])).length > 1 && chart(watched ? 'Gap: valid minus train loss, in evaluation' : 'Gap: valid minus train loss', 'loss', [{ name: '', tone: 'ink', dots: true, points: gap, band }], true),
      has('lr') && chart(rates.length ? `Learning rate of ${rates.length + 1} layer groups, at the end of each epoch` : 'Learning rate', 'learning rate', groups, true)),
    h('details', {}, h('summary', {}, 'The numbers'), table(ctx, rows, { caption: 'History' }))];
}

const plainName = text => String(text).replaceAll('_', ' ').replace(/^jpeg\b/, 'JPEG').replace(/^./, c => c.toUpperCase());
const shownBy = r => known(r.p_value) && r.p_value < 1 - r.confidence_level;

function drawRobustness(ctx) {
  const { curves, stress = {} } = ctx.data, all = curves.robustness, rows = [...(curves.corruptions || [])].sort((a, b) => b.value - a.value), cells = curves.robustness_cells || [];
  const find = name => all.find(r => r.metric === name), clean = find('clean_error'), mean = find('mean_corruption_error'), ratio = rows.some(r => known(r.ratio));
  const baseline = stress.baseline || 'the baseline', what = rows.length ? plainName(rows[0].metric).toLowerCase() : 'error';
  const names = { clean_error: ['As they are', what], mean_corruption_error: ['Corrupted', `mean ${what} over all conditions`], mean_error_increase: ['Increase', 'corrupted minus as they are'],
    mce: ['mCE', `${what} in units of that of ${baseline} under the same corruption; above 1 is worse`], relative_mce: ['Relative mCE', `increase in units of that of ${baseline}`] };
  const row = r => ({ ...r, name: names[r.metric]?.[0] || plainName(r.metric), sub: names[r.metric]?.[1], how: how(r), key: r.metric, plain: r.metric === 'mean_error_increase' });
  const shares = all.filter(r => !/mce/.test(r.metric)).map(row), ratios = all.filter(r => /mce/.test(r.metric) && known(r.value)).map(row);
  const severities = [...new Set(cells.filter(c => c.severity > 0).map(c => c.severity))].sort((a, b) => a - b), at = new Map(cells.map(c => [`${c.corruption}/${c.severity}`, c]));
  const most = Math.max(...cells.map(c => c.value).filter(known), 1e-9);
  return [lead(`What bad ${ctx.data.run?.kind === 'text' ? 'texts' : 'pictures'} do: ${plural(rows.length, 'corruption')} of ${count(clean?.n)} test items${severities.length ? `, each at ${plural(severities.length, 'severity', 'severities')}` : ''}. Lower is better.`),
    forest(shares, { domain: niceDomain([0, ...shares.flatMap(r => [r.low, r.high, r.value])]), guide: clean?.value, caption: `${plainName(what)} ↓` }),
    ratios.length > 0 && forest(ratios, { domain: niceDomain([1, ...ratios.flatMap(r => [r.low, r.high, r.value])]), guide: 1, caption: ['Against ', user(baseline), ', whose value is 1 ↓'] }),
    h('h3', {}, 'By corruption'), forest(rows.map(r => ({ ...r, name: plainName(r.corruption), key: r.corruption, tone: shownBy(r) && r.difference > 0 ? 'bad' : 'model', how: how(r),
      sub: [`${fixed(r.difference, 3, true)} [${fixed(r.difference_low, 3, true)},\u00a0${fixed(r.difference_high, 3, true)}] over clean`, ratio && known(r.ratio) && `; × ${fixed(r.ratio, 2)} [${fixed(r.ratio_low, 2)},\u00a0${fixed(r.ratio_high, 2)}] ${baseline}`, r.may_be_worst && '; may be the worst'] })),
    { domain: niceDomain([0, ...rows.flatMap(r => [r.low, r.high])]), guide: clean?.value, caption: `Mean over severities; the dashed line is without corruption. Red: shown to be worse than that` }),
    cells.length > 1 && h('details', { open: true }, h('summary', {}, 'Every condition'), h('div', { class: 'wide', tabindex: 0, role: 'group', 'aria-label': 'every condition' },
      h('table', { class: 'matrix heat' }, h('thead', {}, h('tr', {}, h('td', {}, h('span', { class: 'corner' }, 'severity →')), severities.map(v => h('th', { scope: 'col' }, String(v))))),
        h('tbody', {}, rows.map(r => h('tr', {}, h('th', { scope: 'row' }, plainName(r.corruption)), severities.map(v => {
          const c = at.get(`${r.corruption}/${v}`);
          return h('td', { class: 'miss', vars: { '--share': c && known(c.value) ? (c.value / most).toFixed(3) : 0 } }, h('span', {}, h('b', {}, c ? fixed(c.value, 2) : '–'), c && h('small', {}, `${fixed(c.low, 2)}–${fixed(c.high, 2)}`)));
        }))))))),
    known(mean?.n) && h('p', { class: 'note' }, 'Intervals are about new items of the same kind under these corruptions. Others may hurt more.')];
}

function drawForgetting(ctx) {
  const rows = ctx.data.curves.forgetting, { stress = {} } = ctx.data, moved = rows.filter(r => known(r.base)), same = rows.filter(r => !known(r.base));
  const changes = moved.map(r => {
    const d = { value: r.value, low: r.low, high: r.high }, bad = shownBy(r) && r.high < 0;
    return { ...d, name: plainName(r.of), sub: `${plainName(r.measure).toLowerCase()}: ${fixed(r.base, 3)} before, ${fixed(r.tuned, 3)} after`, tone: bad ? 'bad' : shownBy(r) && r.low > 0 ? 'good' : 'other', key: r.of,
      text: [h('b', {}, fixed(r.value, digitsOf(d), true)), ' ', interval(d, true), h('span', { class: bad ? 'wrong' : 'unsure' }, bad ? ' forgotten' : shownBy(r) ? ' better' : ' not shown')], how: how(r) };
  });
  return [lead('What the model could do before fine-tuning, and can do now', stress.probe ? [': asked about ', user(stress.probe), ', which has nothing to do with the task'] : '', '.'),
    changes.length > 0 && forest(changes, { domain: niceDomain([0, ...changes.flatMap(r => [r.low, r.high])]), guide: 0, columns: [moved.some(r => /probe/.test(r.measure)) ? 'A linear probe on the features of' : 'What was asked', 'after minus before [interval]'], caption: 'Below 0: information was lost. p-values by Holm' }),
    same.length > 0 && forest(same.map(r => ({ ...r, name: plainName(r.of), sub: r.measure, how: how(r), key: `${r.measure}/${r.of}` })), { domain: niceDomain([...same.flatMap(r => [r.low, r.high, r.value])], { one: true, pad: 0 }), guide: 1, caption: 'Likeness with the base model: 1 is unchanged' })];
}

function drawData(ctx) {
  const { counts = {}, problems = [], n, ...rest } = ctx.data.audit;
  const tiles = [...(known(n) ? [['items', n]] : []), ...Object.entries(counts).filter(([k, v]) => known(v) && k !== 'class_balance')];
  const lists = Object.entries(rest).filter(([, v]) => isRows(v)), others = Object.fromEntries(Object.entries(rest).filter(([, v]) => !Array.isArray(v) || (v.length && !isRows(v))));
  const caption = (k, v) => `${k.replaceAll('_', ' ')}: ${counts[k] > v.length ? `the first ${count(v.length)} of ${count(counts[k])}` : plural(v.length, 'row')}`;
  return [lead('What was found in the data before training. Rows are named, so that each can be looked at.'),
    tiles.length > 0 && h('dl', { class: 'tiles' }, tiles.map(([k, v]) => h('div', { class: v && k !== 'items' ? 'found' : null }, h('dt', {}, user(k.replaceAll('_', ' '))), h('dd', {}, count(v))))),
    problems.length > 0 && h('ul', { class: 'problems' }, problems.map(p => h('li', {}, user(p)))), facts(ctx, others), lists.map(([k, v]) => table(ctx, v, { caption: caption(k, v), limit: 12 }))];
}

function drawProvenance(ctx) {
  const { data } = ctx;
  return [lead('What made this result, so that it can be made again.'),
    known(data.test_reads) && h('p', {}, 'The test split was read ', h('b', {}, plural(data.test_reads, 'time')), '.'),
    Object.keys(data.run).length > 0 && [h('h3', {}, 'Run'), facts(ctx, data.run)], Object.keys(data.provenance).length > 0 && [h('h3', {}, 'Lock'), facts(ctx, data.provenance)],
    data.licences.length > 0 && [h('h3', {}, 'Licences'), table(ctx, data.licences)], !Object.keys(data.run).length && !Object.keys(data.provenance).length && h('p', { class: 'note' }, 'Nothing was recorded.')];
}

// ---------------------------------------------------------------- several runs, in pairs

const differenceRow = (ctx, c) => {
  const up = (c.difference > 0) !== lowerIsBetter(ctx, c.metric), d = { value: c.difference, low: c.low, high: c.high };
  return { ...d, tone: !c.shown ? 'other' : up ? 'good' : 'bad',
    text: [h('b', {}, fixed(c.difference, digitsOf(d), true)), ' ', interval(d, true), known(c.difference) && h('span', { class: c.shown ? (up ? 'right' : 'wrong') : 'unsure' }, c.shown ? (up ? ' better' : ' worse') : ' not shown'),
      h('small', {}, [known(c.p_value) && (c.p_value < .001 ? 'p < 0.001' : `p = ${c.p_value.toFixed(3)}`), how(c)].filter(Boolean).join(' · '))] };
};

function drawRanking(ctx) {
  const { data } = ctx, holder = h('div'), metrics = Object.keys(data.about);
  const pick = chooser(ctx, 'Metric', metrics.map(m => [m, titleOf(ctx, m)]), ctx.get('metric'), v => ctx.set('metric', v), { class: 'ranking-metric' });
  ctx.on('metric', () => {
    const metric = ctx.get('metric'), rows = data.ranking.filter(r => r.metric === metric);
    pick.select.value = metric;
    holder.replaceChildren(forest(rows.map((r, i) => ({ ...r, key: r.model, name: user(r.model), sub: `rank ${r.rank_low === r.rank_high ? r.rank_low : `${r.rank_low} to ${r.rank_high}`}; group ${r.tied}`, how: how(r), tone: i ? 'other' : 'model' })),
      { domain: niceDomain(rows.flatMap(r => [r.low, r.high, r.value])), guide: rows[0]?.value, caption: `${titleOf(ctx, metric)}${data.about[metric]?.about ? `: ${data.about[metric].about}` : ''}. ${lowerIsBetter(ctx, metric) ? 'Lower is better ↓' : 'Higher is better ↑'}` }));
  });
  return [lead('Best first. Models that share a group were not told apart. The intervals are of each alone: two may overlap although the difference, which is paired, is plain. Differences are in the next tab.'), h('div', { class: 'row' }, pick), holder];
}

function pairChoosers(ctx) {
  const { models } = ctx.data, choose = (i, v) => { const pair = [...ctx.get('pair')]; if (pair[1 - i] === v) pair[1 - i] = pair[i]; pair[i] = v; ctx.set('pair', pair); };
  const nodes = ['This', 'minus'].map((label, i) => chooser(ctx, label, models.map(m => [m, m]), ctx.get('pair')[i], v => choose(i, v), { class: `pair-${i}` }));
  ctx.on('pair', () => nodes.forEach((node, i) => { node.select.value = ctx.get('pair')[i]; }));
  return h('div', { class: 'row' }, nodes);
}

function drawPairs(ctx) {
  const { data } = ctx, holder = h('div');
  ctx.on('pair', () => {
    const [a, b] = ctx.get('pair'), neg = v => known(v) ? -v : v;
    const rows = data.pairs.filter(r => (r.model === a && r.baseline === b) || (r.model === b && r.baseline === a)).map(r => {
      const c = r.model === a ? r : { ...r, value: r.baseline_value, baseline_value: r.value, difference: neg(r.difference), low: neg(r.high), high: neg(r.low) };
      const d = { low: c.low, high: c.high };
      return { metric: c.metric, ...differenceRow(ctx, { ...c, p_value: c.p_adjusted }), name: titleOf(ctx, c.metric), sub: `${fixed(c.value, digitsOf(d))} against ${fixed(c.baseline_value, digitsOf(d))}`, key: c.metric };
    });
    holder.replaceChildren(...[false, true].map(down => rows.filter(r => lowerIsBetter(ctx, r.metric) === down)).filter(list => list.length).map((list, i) =>
      forest(list, { domain: niceDomain([0, ...list.flatMap(r => [r.low, r.high])]), guide: 0, columns: [lowerIsBetter(ctx, list[0].metric) ? 'Lower is better ↓' : 'Higher is better ↑', 'difference [interval]'] })));
  });
  return [lead('The first model minus the second, on the same items. A difference counts as shown if its interval excludes 0 and its p-value, corrected over all pairs of models, agrees.'), pairChoosers(ctx), holder];
}

function drawDisagreements(ctx) {
  const { data } = ctx, four = h('div', { class: 'four' }), below = h('div', { class: 'opened', 'aria-live': 'polite' });
  const parts = (a, b) => [['both', 'both right', 'hit'], ['only_first', ['only ', user(a), ' right'], 'hit'], ['only_second', ['only ', user(b), ' right'], 'miss'], ['neither', 'both wrong', 'miss']];
  const draw = () => {
    const [a, b] = ctx.get('pair'), counts = data.disagreements.find(d => d.first === a && d.second === b), part = ctx.get('part');
    const place = e => [e.says[a], e.says[b]].map(v => v.prediction === e.target).reduce((k, ok, i) => k + (ok ? 2 - i : 0), 0);
    const inPart = { both: 3, only_first: 2, only_second: 1, neither: 0 }[part];
    const say = v => `${v.prediction}${known(v.score) ? ` (${fixed(v.score, 2)})` : ''}`;
    const items = data.examples.filter(e => place(e) === inPart).map(e => ({ ...e, ...(part === 'only_first' ? e.says[b] : e.says[a]), slices: { ...Object.fromEntries(data.models.map(m => [m, say(e.says[m])])), ...e.slices } }));
    four.replaceChildren(...parts(a, b).map(([key, text, tone]) => h('button', { type: 'button', class: tone, 'data-part': key, 'aria-pressed': String(key === part), onclick: () => ctx.set('part', key) }, h('b', {}, count(counts[key])), h('span', {}, text))));
    const [, text] = parts(a, b).find(([key]) => key === part);
    below.replaceChildren(h('h3', {}, text), h('p', { class: 'note' }, `${plural(counts[part], 'item')}; ${count(items.length)} in this page. Under each, what ${part === 'only_first' ? 'the second' : 'the first'} model says; open one to see what all say.`),
      gallery(ctx, items, 'None of them are in this page.'));
  };
  ctx.on('pair', draw); ctx.on('part', draw);
  return [lead('Only items on which one is right and the other wrong tell them apart. Press a number to see them.'), pairChoosers(ctx), four, below];
}

function drawSettings(ctx) {
  return [lead('The settings that are not the same in all runs. What else differs between them is luck.'), table(ctx, ctx.data.settings, { caption: 'Settings that differ' })];
}

const PANELS = {
  ranking: ['Ranking', drawRanking], pairs: ['Differences', drawPairs], disagreements: ['Disagreements', drawDisagreements], settings: ['Settings', drawSettings],
  metrics: ['Metrics', drawMetrics], comparisons: ['Comparisons', drawComparisons], confusion: ['Confusion', drawConfusion], threshold: ['Threshold', drawThreshold], errors: ['Errors', drawErrors],
  slices: ['Slices', drawSlices], calibration: ['Calibration', drawCalibration], robustness: ['Robustness', drawRobustness], forgetting: ['Forgetting', drawForgetting], training: ['Training', drawTraining], data: ['Data', drawData], provenance: ['Provenance', drawProvenance],
};

function drawTabs(ctx) {
  const ids = ctx.data.tabs.filter(id => PANELS[id]), panels = new Map(), buttons = new Map();
  const bar = h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Parts of the report', onkeydown: e => {
    const at = ids.indexOf(ctx.get('tab')), to = { ArrowRight: (at + 1) % ids.length, ArrowLeft: (at + ids.length - 1) % ids.length, Home: 0, End: ids.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault(); ctx.set('tab', ids[to]); buttons.get(ids[to]).focus();
  } });
  for (const id of ids) {
    const [name] = PANELS[id], tab = ctx.id(`tab-${id}`), panel = ctx.id(`panel-${id}`);
    buttons.set(id, h('button', { type: 'button', role: 'tab', id: tab, class: 'tab', 'aria-controls': panel, 'data-tab': id, onclick: () => ctx.set('tab', id) }, name));
    panels.set(id, h('section', { role: 'tabpanel', id: panel, class: 'panel', 'aria-labelledby': tab, 'data-panel': id, tabindex: -1, hidden: true }, h('h2', {}, name)));
  }
  bar.append(...buttons.values());
  const drawn = new Set(), fillPanel = id => { if (!drawn.has(id)) { drawn.add(id); fill(panels.get(id), {}, [PANELS[id][1](ctx)]); } };
  const choose = () => {
    const now = ids.includes(ctx.get('tab')) ? ctx.get('tab') : ids[0];
    for (const id of ids) {
      buttons.get(id).setAttribute('aria-selected', String(id === now)); buttons.get(id).tabIndex = id === now ? 0 : -1; panels.get(id).hidden = id !== now;
    }
    fillPanel(now);
    const button = buttons.get(now);
    bar.scrollLeft = button.offsetLeft - (bar.clientWidth - button.offsetWidth) / 2;
  };
  ctx.go = id => { ctx.set('tab', id); choose(); buttons.get(id).focus({ preventScroll: true }); bar.scrollIntoView({ block: 'start' }); };
  ctx.on('tab', choose);
  const everything = () => ids.forEach(fillPanel);
  window.addEventListener('beforeprint', everything);
  ctx.later(() => window.removeEventListener('beforeprint', everything));
  return h('div', { class: 'parts' }, bar, [...panels.values()]);
}

function drawFoot(ctx) {
  const texts = ctx.data.run?.kind && ctx.data.examples.every(e => e.text), shown = ctx.data.examples.filter(e => texts || e.image >= 0).length;
  return h('footer', {}, `${count(shown)} of ${count(ctx.data.n)} ${texts ? 'items' : 'pictures'} are in this report. It asks nothing from the network.`);
}

// ---------------------------------------------------------------- both ways in

function render({ model, el }) {
  const root = h('div', { class: 'sft-report', onfocusin: keepKeys }), stop = followTheme(root);
  const view = `sft${Math.random().toString(36).slice(2)}-`; // each output may load this module anew, so that a counter would begin again
  let cleanups = [];
  const clear = () => { cleanups.forEach(f => f()); cleanups = []; };
  const draw = () => {
    clear();
    const data = model.get('payload');
    if (!data || !data.tabs) return root.replaceChildren(h('p', { class: 'note' }, 'Nothing to show.'));
    const ctx = {
      data, byId: new Map(data.examples.map(e => [e.id, e])), id: name => view + name, get: key => model.get(key), later: f => cleanups.push(f), open: () => {}, go: () => {},
      set(key, value) { if (JSON.stringify(model.get(key)) !== JSON.stringify(value)) { model.set(key, value); model.save_changes(); } },
      on(key, f) { model.on(`change:${key}`, f); cleanups.push(() => model.off(`change:${key}`, f)); f(); },
    };
    const box = lightbox(ctx);
    root.replaceChildren(...[...(data.kind === 'comparison' ? drawComparedHead(ctx) : [drawHead(ctx), drawVerdict(ctx), drawHeadline(ctx), drawCautions(ctx)]), drawTabs(ctx), drawFoot(ctx), box].filter(Boolean));
  };
  el.append(root);
  draw();
  model.on('change:payload', draw);
  return () => { stop(); clear(); model.off('change:payload', draw); };
}

export function boot(source, host) { // the saved page: the same report on a model without a kernel
  const payload = JSON.parse(source.textContent), wanted = location.hash.slice(1), listeners = {};
  const state = { payload, tab: payload.tabs.includes(wanted) ? wanted : payload.tabs[0], threshold: .5, costs: [1, 1], calibrated: false, slice: '', by: '', cell: [], item: '', metric: payload.headline, pair: (payload.models || []).slice(0, 2), part: 'only_first' };
  const model = {
    get: key => state[key], save_changes() {},
    set(key, value) { state[key] = value; for (const f of [...(listeners[`change:${key}`] || [])]) f(); },
    on(name, f) { (listeners[name] ||= []).push(f); }, off(name, f) { listeners[name] = (listeners[name] || []).filter(g => g !== f); },
  };
  render({ model, el: host });
  model.on('change:tab', () => { if (/^(file|https?):$/.test(location.protocol)) history.replaceState(null, '', `#${state.tab}`); });
  window.addEventListener('hashchange', () => { const tab = location.hash.slice(1); if (payload.tabs.includes(tab) && tab !== state.tab) model.set('tab', tab); });
}

export default { render };
