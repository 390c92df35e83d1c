// The front end of `LabelCleaner` and `Annotator`: one card, a few keys. It decides nothing: a key becomes a message that
// names the card that was seen, and Python answers with the next one. Ids, labels and texts are somebody's input, and are
// written as text nodes only. Colours and type are those of report.css.

const percent = v => v > .995 && v < 1 ? '> 99 %' : v > 0 && v < .005 ? '< 1 %' : `${Math.round(100 * v)} %`;
const count = v => v.toLocaleString('en');

// ---------------------------------------------------------------- one item

function seen(view) { // a long text scrolls, so that the keyboard must reach it
  if (view.image) return h('img', { src: view.image, alt: `picture of item ${view.id}` });
  if (view.why) return h('p', { class: 'absent' }, `No picture: ${view.why}.`);
  return h('p', { class: 'text', dir: 'auto', tabindex: 0, role: 'group', 'aria-label': `text of item ${view.id}` }, view.text);
}
const named = label => label ? user(label) : h('i', {}, 'no label');
const small = (view, extra) => h('li', { class: view.decision || null, 'data-id': view.id }, seen(view), h('b', {}, named(view.label)),
  h('small', {}, user(view.id), extra && ` · ${extra}`, view.decision && ` · ${view.decision}`));

const hasSuggestion = card => card.suggestion || (card.several && typeof card.p_suggestion === 'number'); // of several labels, none is one
function said(card) { // what the model gives to its own label, and to the present one
  if (!hasSuggestion(card)) return null;
  const bar = (label, p) => typeof p === 'number' && h('div', { class: 'bar' }, user(label || 'no label'), h('b', {}, percent(p)), h('i', { vars: { '--share': p } }));
  const own = card.suggestion !== card.given && bar(card.given, card.p_label);
  return h('div', { class: 'said' }, h('h3', {}, 'The model says'), bar(card.suggestion, card.p_suggestion), own);
}

function about(card) {
  return h('div', {},
    h('p', { class: 'place' }, `${count(card.place + 1)} of ${count(card.n)}`), h('h2', { class: 'id' }, user(card.id)),
    h('p', { class: 'given' }, 'Label: ', h('b', { class: 'label' }, named(card.label)), card.label !== card.given && [' instead of ', named(card.given)]),
    card.decision && h('p', { class: 'decision' }, `You have ${card.decision} it.`),
    card.reasons.length > 0 && [h('h3', {}, 'Why it is shown'), h('ul', { class: 'reasons' }, card.reasons.map(r => h('li', {}, user(r))))],
    said(card));
}

function body(card) {
  const twins = card.twins.length > 0 && h('ul', { class: 'twins', 'aria-label': 'Copies of it' }, card.twins.map(v => small(v)));
  return [
    h('div', { class: 'look' }, h('div', { class: twins ? 'pair' : null }, h('figure', { class: 'stage' }, seen(card)), twins), about(card)),
    card.near.length > 0 && [h('h3', {}, 'Nearest in feature space'), h('ul', { class: 'near' }, card.near.map(v => small(v, v.distance.toFixed(3))))]];
}

// ---------------------------------------------------------------- the desk

const setOf = text => new Set(text.split(';').map(l => l.trim()).filter(Boolean));
const WORDS = { k: 'keep', d: 'drop', s: 'skip' }, SIGNS = { Enter: '↵', ArrowLeft: '←', ArrowRight: '→' }, MOST = 40;

function render({ model, el }) {
  let chosen = new Set(), touched = false, picking = false, filter = '', shownId = null, timer = null;
  const name = model.get('can_keep') ? 'Clean labels' : 'Label items';
  const root = h('section', { class: 'sft-report sft-clean', tabindex: 0, 'aria-label': name, onfocusin: keepKeys, onkeydown: press });
  const stop = followTheme(root);
  const status = h('p', { class: 'sofar', role: 'status' }), queue = h('p', { class: 'note' });
  const problem = h('p', { class: 'problem', role: 'alert' }), main = h('div');
  root.append(h('div', { class: 'top' }, status, queue), main, problem);

  function send(action, more) {
    problem.textContent = '';
    model.send({ action, id: model.get('card').id, ...more });
    clearTimeout(timer);
    timer = setTimeout(() => { problem.textContent = 'Python has not answered yet. Is the kernel busy, or gone?'; }, 3000);
  }
  const answered = () => { clearTimeout(timer); problem.textContent = model.get('message'); };

  function give(label) { // a label by its key, button or list
    if (!model.get('card').several) return send('relabel', { label });
    chosen.has(label) ? chosen.delete(label) : chosen.add(label);
    touched = true;
    draw();
  }
  function accept() { // several labels are put on and taken off first; else the suggestion
    const card = model.get('card');
    if (touched) send('relabel', { label: [...chosen].join(';') });
    else if (hasSuggestion(card)) send('relabel', { label: card.suggestion });
  }
  function pick(open) {
    picking = open && Boolean(model.get('card').id);
    filter = '';
    draw();
    if (picking) root.querySelector('.pick input').focus(); else root.focus({ preventScroll: true });
  }

  function press(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    const card = model.get('card'), labels = model.get('labels'), typing = e.target.tagName === 'INPUT';
    const stay = () => { e.preventDefault(); e.stopPropagation(); };
    if (e.key === 'Escape' && picking) return stay(), pick(false);
    if (typing) { if (e.key === 'Enter') { stay(); root.querySelector('.pick li button')?.click(); } else e.stopPropagation(); return; }
    if ((e.key === 'Enter' || e.key === ' ') && e.target.closest('button')) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key], letter = e.key.toLowerCase();
    if (e.repeat && !step) return stay(); // one press, one decision
    if (step) return stay(), send('look', { step });
    if (letter === 'u') return stay(), send('undo');
    if (!card.id) return;
    if (WORDS[letter] && (letter !== 'k' || model.get('can_keep'))) return stay(), send(WORDS[letter]);
    if (e.key === 'Enter') return stay(), accept();
    if (letter === 'r' && labels.length > 9) return stay(), pick(true);
    if (e.key === '0' && card.several) return stay(), send('relabel', { label: '' });
    if (/^[1-9]$/.test(e.key) && labels[e.key - 1] !== undefined) return stay(), give(labels[e.key - 1]);
  }

  // After a click the keys go on from the card; who walks by keyboard stays on the same button.
  const button = (text, key, act, attributes) => h('button', { type: 'button', class: 'act', 'aria-keyshortcuts': key || null, ...attributes,
    onclick: e => { act(); if (e.detail) root.focus({ preventScroll: true }); } }, h('span', {}, text), key && h('kbd', {}, SIGNS[key] || key));

  const labelButton = (label, key, card) => button(user(label), key, () => give(label),
    { title: label, class: (card.several ? setOf(card.suggestion).has(label) : label === card.suggestion) ? 'act likely' : 'act', 'aria-pressed': card.several ? String(chosen.has(label)) : null });

  function list(card, labels) { // all labels, filtered while one types
    const found = h('ul'), note = h('p', { class: 'note', role: 'status' });
    const show = text => {
      filter = text;
      const hits = labels.filter(l => l.toLowerCase().includes(text.trim().toLowerCase()));
      note.textContent = hits.length > MOST ? `The first ${MOST} of ${count(hits.length)}: type to narrow it down.` : hits.length ? '' : 'No such label.';
      found.replaceChildren(...hits.slice(0, MOST).map(l => h('li', {}, labelButton(l, '', card))));
    };
    const input = h('input', { type: 'search', autocomplete: 'off', value: filter, oninput: e => show(e.target.value) });
    show(filter);
    return h('div', { class: 'pick' }, h('label', {}, 'Find a label ', input), found, note);
  }

  function controls(card) {
    const labels = model.get('labels'), joined = [...chosen].join(';');
    const act = (text, key, f, more) => button(text, key, f, { 'data-act': text.toLowerCase(), ...more });
    const accepted = touched ? ['Give ', named(joined)] : 'Accept';
    return [
      card.id && h('div', { class: 'acts labels', role: 'group', 'aria-label': 'Labels' },
        labels.slice(0, 9).map((l, i) => labelButton(l, String(i + 1), card)),
        card.several && button('None of them', '0', () => send('relabel', { label: '' })),
        labels.length > 9 && button(`All ${count(labels.length)} labels`, 'r', () => pick(!picking), { 'aria-expanded': String(picking) })),
      card.id && picking && list(card, labels),
      h('div', { class: 'acts', role: 'group', 'aria-label': 'Decisions' },
        card.id && [
          (hasSuggestion(card) || touched) && button(accepted, 'Enter', accept, { class: 'act likely', 'data-act': 'accept' }),
          model.get('can_keep') && act('Keep', 'k', () => send('keep')), act('Drop', 'd', () => send('drop')), act('Skip', 's', () => send('skip'))],
        act('Undo', 'u', () => send('undo')), act('Back', 'ArrowLeft', () => send('look', { step: -1 }), { disabled: card.place === 0 }),
        act('Forward', 'ArrowRight', () => send('look', { step: 1 }), { disabled: !card.id })),
      h('p', { class: 'note' }, 'Keys work once you have clicked into this frame.')];
  }

  function draw() {
    const card = model.get('card'), active = document.activeElement, inside = root.contains(active) && active !== root;
    if (card.id !== shownId) { // of several labels, those that it has are on
      chosen = new Set(card.several ? [...setOf(card.label)].filter(l => model.get('labels').includes(l)) : []);
      touched = picking = false; shownId = card.id;
    }
    const same = inside && (active.tagName === 'INPUT' ? '.pick input' : active.dataset.act && `[data-act=${active.dataset.act}]:enabled`);
    status.textContent = `${model.get('progress')}.`;
    queue.textContent = model.get('about');
    const end = card.n ? 'That was the last one. Look back with ←, or go on in Python: `.items` is the new table.' : 'There is nothing to look at.';
    main.replaceChildren(...[card.id ? body(card) : h('p', { class: 'done' }, end), controls(card)].flat(Infinity).filter(Boolean));
    const to = inside && (same && main.querySelector(same) || root);
    if (to) to.focus({ preventScroll: true });
    if (to && to.tagName === 'INPUT') to.setSelectionRange(to.value.length, to.value.length);
  }

  el.append(root);
  draw();
  const names = ['card', 'progress', 'about', 'labels'].map(n => `change:${n}`), replies = ['change:message', 'msg:custom'];
  names.forEach(n => model.on(n, draw));
  replies.forEach(n => model.on(n, answered));
  return () => { stop(); clearTimeout(timer); names.forEach(n => model.off(n, draw)); replies.forEach(n => model.off(n, answered)); };
}

export default { render };
