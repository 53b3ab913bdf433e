// What the pages gain with JavaScript. Without it everything can still be read,
// filtered and sent: links are links, buttons are forms. No framework, no build.
// HTML comes from the server alone; what is made here is text.
'use strict';
const root = document.documentElement;
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
root.classList.add('js');

// Say it to screen readers, once.
const voice = document.createElement('p');
voice.className = 'sr';
voice.setAttribute('role', 'status');
document.body.prepend(voice);
const say = (text) => { voice.textContent = text; };

// A cookie with `Secure` needs HTTPS or an address of this machine.
if (!isSecureContext) for (const at of $$('[data-insecure]')) at.hidden = false;

const copy = async (text, at) => {
  try { await navigator.clipboard.writeText(text); } catch { return say('The browser refused to copy'); }
  at?.classList.add('ok');
  say('Copied');
  setTimeout(() => at?.classList.remove('ok'), 1500);
};

// Theme: system, light, dark. The server's cookie keeps it; here it shows at once.
const themes = ['', 'light', 'dark'];
const changeTheme = (at) => {
  const next = themes[(themes.indexOf(root.dataset.theme ?? '') + 1) % 3];
  next ? (root.dataset.theme = next) : delete root.dataset.theme;
  const sent = new URLSearchParams(new FormData(at.form));
  sent.set('theme', next);
  fetch(at.form.action, { method: 'POST', body: sent, redirect: 'manual' });
  say(`Theme: ${next || 'as the system has it'}`);
};

document.addEventListener('click', (event) => {
  const at = event.target.closest('button, a, input');
  if (!at) return;
  if (at.matches('[data-theme-toggle]')) { event.preventDefault(); changeTheme(at); }
  if (at.matches('[data-copy], [data-copy-next]')) {
    copy(at.dataset.copy ?? at.parentElement.querySelector('pre').textContent, at);
  }
  if (at.matches('[data-copy-link]')) copy(location.href, at);
  if (at.matches('[data-copy-ids]')) copy(picked().map((box) => box.value).join('\n'), at);
  // A button or link with data-dialog has a page, too; the dialog asks before it is sent.
  if (at.dataset.dialog) { event.preventDefault(); $('#' + at.dataset.dialog).showModal(); }
  // One more empty row. Without JavaScript the server adds it.
  if (at.matches('[data-add-row]')) {
    event.preventDefault();
    const row = [...$$('[data-row]', at.closest('[data-rows]'))].pop(), made = row.cloneNode(true);
    for (const field of $$('input:not([type=hidden])', made)) field.value = '';
    row.after(made);
    $('input', made).focus();
  }
  // The last row of its kind is emptied, so that there is one to clone.
  if (at.matches('[data-remove-row]')) {
    event.preventDefault();
    const row = at.closest('[data-row]'), form = at.form, rows = at.closest('[data-rows]');
    if ($$('[data-row]', rows).length > 1) row.remove();
    else for (const field of $$('input:not([type=hidden])', row)) field.value = '';
    $('input', rows).focus();
    form.dispatchEvent(new Event('input'));
  }
  if (at.matches('[data-close]')) { event.preventDefault(); at.closest('dialog').close(); }
  if (at.matches('[data-all]')) {
    for (const box of $$('td.pick input', at.closest('table'))) box.checked = at.checked;
    count();
  }
});

// A button pressed twice sends once. Coming back to the page, it works again.
document.addEventListener('submit', (event) => {
  const form = event.target;
  if (form.method !== 'post' || event.defaultPrevented) return;
  if ('sent' in form.dataset) return event.preventDefault();
  form.dataset.sent = '';
});
addEventListener('pageshow', () => { for (const form of $$('form[data-sent]')) delete form.dataset.sent; count(); });

document.addEventListener('change', (event) => {
  if (event.target.closest('td.pick')) count();
  // Boxes that filter: without JavaScript the form has a button.
  event.target.closest('form[data-auto]')?.requestSubmit();
});
const picked = () => $$('td.pick input:checked');
const count = () => {
  const many = picked().length;
  for (const at of $$('[data-count]')) at.textContent = many;
};

// Keyboard. Letters work unless something is being typed, and can be switched off
// in the page of keys (WCAG 2.1.4). Keys are on the elements: data-key="g d".
const hasLetters = root.dataset.keys !== 'off';
let before = '';
const rows = () => $$('.list tbody tr').filter((row) => $('a', row));
const go = (step) => {
  const all = rows(), now = all.findIndex((row) => 'cursor' in row.dataset);
  const next = all[Math.max(0, Math.min(all.length - 1, now + step))];
  if (!next) return;
  all[now]?.removeAttribute('data-cursor');
  next.dataset.cursor = '';
  $('a', next).focus({ preventScroll: true });
  next.scrollIntoView({ block: 'nearest' });
};
const attempt = (step) => {
  const all = $$('[data-attempt]').map((at) => +at.dataset.attempt).sort((a, b) => a - b);
  if (!all.length) return;
  const now = all.indexOf(+(location.hash.slice(2) || $('[data-chosen]').dataset.attempt));
  const next = all[Math.max(0, Math.min(all.length - 1, now + step))];
  location.href = `?attempt=${next}#a${next}`;
};
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]');
  if (event.key === 'Escape' && typing) return typing.blur();
  if (event.key === 'Enter' && (event.metaKey || event.ctrlKey) && typing?.form) {
    // As if the button with this key were pressed: its name says what the form is to do.
    event.preventDefault();
    return typing.form.requestSubmit($('[data-key="mod+Enter"]', typing.form));
  }
  if (typing || event.metaKey || event.ctrlKey || event.altKey || $('dialog[open]') || !hasLetters) return;
  const row = $('.list tr[data-cursor]');
  const keys = {
    j: () => go(1), k: () => go(-1), '[': () => attempt(-1), ']': () => attempt(1), y: () => copy(location.href),
    x: () => { const box = row && $('td.pick input', row); if (box) { box.checked = !box.checked; count(); } },
  };
  const key = CSS.escape(event.key);
  const marked = before === 'g' ? $(`[data-key="g ${key}"]`) : $(`[data-key="${key}"]`);
  const was = before;
  before = event.key;
  // Of the selected ones, only if there are any.
  if (marked?.closest('.bulk') && !picked().length) return;
  if (keys[event.key] && was !== 'g') keys[event.key]();
  else if (marked) marked.matches('input') ? marked.focus() : marked.click();
  else return;
  event.preventDefault();
});

// On a phone the pages are a strip: show where we are.
$('.nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });

// Live. One EventSource a page, as data-events says. Each message names a part of
// the page (data-live) and has its HTML as the server renders it: same templates,
// same escaping. Lists aren't moved under the reader: they get "4 newer" instead.
let source = document.body.dataset.events;
if (source) {
  const state = $('[data-live-state]'), tail = $('[data-live=tail]'), held = $('[data-held]'), hold = $('[data-hold]');
  const later = new Map(), had = new Map();
  let live, since, told, wait, isHeld = false, isOver = false;
  const show = (word, on) => { state.textContent = word; state.dataset.state = on ? 'on' : 'off'; };
  const parse = (html) => new DOMParser().parseFromString(html, 'text/html').body;
  const put = (name, html) => {
    const part = $(`[data-live="${CSS.escape(name)}"]`);
    if (!part) return;
    const made = parse(html);
    if (part === tail && isHeld) {
      // A wait goes on in its line, so what a line says isn't what tells lines apart.
      const key = (line) => `${$('time', line)?.dateTime} ${$('a', line)?.getAttribute('href')}`;
      const shown = new Set($$('li', tail).map(key)), all = $$('li', made);
      const more = all.filter((line) => !shown.has(key(line))).length;
      later.set(name, html);
      held.textContent = `Held: ${more}${more && more === all.length ? ' or more' : ''} ${more === 1 ? 'line' : 'lines'} not shown.`;
      return;
    }
    // A new stream sends all parts again. What somebody has opened in one stays open.
    if (had.get(name) === html) return later.delete(name);
    // A part that has the focus, or that the address leads to, waits until it is left; a chart
    // until its table is closed.
    if (part.contains(document.activeElement) || $(':target, .chart + details[open]', part)) return later.set(name, html);
    later.delete(name);
    had.set(name, html);
    if (name === 'newer') {
      if (html && follows) return refresh();
      part.hidden = !html;
    }
    if (part.innerHTML !== made.innerHTML) part.replaceChildren(...made.childNodes);
  };
  const catchUp = () => { for (const [name, html] of [...later]) put(name, html); };
  document.addEventListener('focusout', () => setTimeout(catchUp));
  // It doesn't bubble.
  document.addEventListener('toggle', catchUp, true);
  const lost = () => {
    since ??= new Date();
    // Streams end after a while, and the next one begins within a second.
    told ??= setTimeout(() => show(`Connecting again; this is from ${since.toISOString().slice(11, 19)}`, false), 2500);
  };
  const listen = () => {
    live?.close();
    live = new EventSource(source);
    live.addEventListener('open', () => {
      clearTimeout(told);
      since = told = wait = undefined;
      show('Live', true);
    });
    live.addEventListener('error', () => {
      lost();
      // The browser gives up after an answer that isn't a stream: too many of them, or none.
      if (live.readyState !== EventSource.CLOSED) return;
      wait = Math.min(2 * (wait ?? 1500), 30000);
      setTimeout(() => { if (!document.hidden && !isOver) listen(); }, wait);
    });
    live.addEventListener('part', (message) => { const { name, html } = JSON.parse(message.data); put(name, html); });
    live.addEventListener('over', () => { isOver = true; live.close(); show('Nothing more comes', false); });
  };
  // Whoever follows a list gets its new rows, as a reload would bring them.
  const follow = $('[data-follow]');
  let follows = false;
  const refresh = async () => {
    const answer = await fetch(location.href).catch(() => {});
    if (!answer?.ok || !follows) return;
    const page = parse(await answer.text()), list = $('[data-list]', page);
    if (!list) return;
    $('[data-list]').replaceChildren(...list.childNodes);
    $('[data-live=newer]').hidden = true;
    had.clear();
    source = page.dataset.events ?? source;
    listen();
  };
  follow?.addEventListener('click', () => {
    follows = !follows;
    follow.setAttribute('aria-pressed', follows);
    say(follows ? 'Following: new rows come by themselves' : 'Not following');
    if (follows) refresh();
  });
  if (document.hidden) show('Held', false); else listen();
  // Hidden pages cost the server nothing. Parts come whole, so none is missed.
  document.addEventListener('visibilitychange', () => {
    if (isOver) return;
    if (document.hidden) { live?.close(); show('Held', false); } else listen();
  });
  const toggle = () => {
    isHeld = !isHeld;
    hold.setAttribute('aria-pressed', isHeld);
    held.textContent = isHeld ? 'Held.' : '';
    if (!isHeld) catchUp();
  };
  if (tail && hold) {
    hold.addEventListener('click', toggle);
    // On a button Space presses that button.
    document.addEventListener('keydown', (event) => {
      if (event.key !== ' ' || event.target.closest('input, textarea, select, button, summary')) return;
      event.preventDefault();
      toggle();
    });
  }
}

// The preview follows what is typed. It is the form's own button, pressed by itself.
const preview = $('[data-preview]');
if (preview) {
  const form = $('form:has([name=preview])');
  let timer, asked;
  const ask = async () => {
    asked?.abort();
    asked = new AbortController();
    const body = new URLSearchParams(new FormData(form));
    body.set('preview', '1');
    try {
      const answer = await fetch(form.action, { method: 'POST', body, signal: asked.signal });
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      const made = $('[data-preview=shown]', page);
      if (made) $('[data-preview]').replaceWith(made);
      for (const part of $$('[data-refreshed]')) {
        const other = $(`[data-refreshed=${part.dataset.refreshed}]`, page);
        if (other) part.replaceChildren(...other.childNodes);
      }
    } catch { /* A newer one was asked for, or the next key asks again. */ }
  };
  form.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(ask, 300); });
}

// Patterns as chips. The field with all of them is what is sent.
const patterns = $('input[data-chips]');
if (patterns) {
  const box = document.createElement('div'), field = patterns.cloneNode();
  box.className = 'chips';
  patterns.type = 'hidden';
  patterns.removeAttribute('id');
  for (const name of ['name', 'data-chips']) field.removeAttribute(name);
  const all = () => patterns.value.split(/[\s,]+/).filter(Boolean);
  const set = (list) => {
    patterns.value = [...new Set(list)].join(', ');
    patterns.dispatchEvent(new Event('input', { bubbles: true }));
    draw();
  };
  const draw = () => box.replaceChildren(...all().map((pattern) => {
    const chip = document.createElement('span'), name = document.createElement('code'), remove = document.createElement('button');
    chip.className = 'chip';
    name.textContent = pattern;
    remove.type = 'button';
    remove.textContent = '×';
    remove.setAttribute('aria-label', `Remove ${pattern}`);
    remove.addEventListener('click', () => { set(all().filter((other) => other !== pattern)); field.focus(); });
    chip.append(name, remove);
    return chip;
  }), field);
  const take = () => {
    const typed = field.value;
    field.value = '';
    if (typed.trim()) { set([...all(), typed]); field.focus(); }
  };
  patterns.after(box);
  field.value = '';
  draw();
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && field.value.trim() || event.key === ',') { event.preventDefault(); take(); }
    if (event.key === 'Backspace' && !field.value) { set(all().slice(0, -1)); field.focus(); }
  });
  field.addEventListener('change', take);
  patterns.form.addEventListener('submit', take);
}
