// ---- The list: by time or by arrival, newest first

const PAGE_SIZE = 50;
const ROWS_MAX = 500;
const BURST = 20;
const REFRESH_MS = 1_000;
const PREVIEW_CHARS = 600;
/** Rows that a reader sees at once: a message that lands below them is not seen. */
const SEEN_ROWS = 20;

const list = byId('messages');
const numbers = new Intl.NumberFormat('en');
const count = (number, noun) => `${numbers.format(number)} ${noun}${number === 1 ? '' : 's'}`;

let order = stored('order') === 'arrival' ? 'arrival' : 'time';
let rows = [];
let shown = new Map();
/** Where older messages are to be had, if there are any. */
let older = null;
let total = 0;
let isHeadCut = false;
let view = new AbortController();
let isLoading = false;
let isOutdated = false;
let incoming = [];
let listTimer = 0;
/** How the text is meant, where it is not how it was read at first. */
let reading = null;

const isByArrival = () => order === 'arrival' && !isFiltered();

function newestFirst(a, b) {
  if (isByArrival()) return Number(b.cursor) - Number(a.cursor);
  const [timeA, timeB] = [instant(a.ts), instant(b.ts)];
  if (timeA !== timeB) return timeA < timeB ? 1 : -1;
  if (a.message_id === b.message_id) return 0;
  return a.message_id < b.message_id ? 1 : -1;
}

const pageOf = (parameters) =>
  address('/messages', { ...parameters, order: 'desc', limit: PAGE_SIZE });

const wantedParameters = () => reading?.parameters ?? readFilters(filters).parameters;

async function askPage(signal) {
  if (!isByArrival()) return ask(pageOf(wantedParameters()), { signal });
  const [feed, all] = await Promise.all([
    ask(address('/feed', { before: 'latest', limit: PAGE_SIZE }), { signal }),
    ask(address('/messages', { limit: 1 }), { signal }),
  ]);
  return byArrival(feed.body.data, all.body.total);
}

// The feed has the order of storing, and the list the newest first.
function byArrival(data, known) {
  const first = data[0]?.cursor;
  const next = first ? address('/feed', { before: first, limit: PAGE_SIZE }) : null;
  return { body: { data: data.reverse(), total: known }, next };
}

async function loadList() {
  view.abort();
  view = new AbortController();
  const { signal } = view;
  clearTimeout(listTimer);
  incoming = [];
  clearHeld();
  reading = null;
  const { problem, others } = readFilters(filters);
  if (problem) {
    isLoading = false;
    list.setAttribute('aria-busy', 'false');
    // Messages that do not match must not stand under this filter.
    replaceRows({ data: [], total: 0 }, null);
    return;
  }
  isLoading = true;
  isOutdated = true;
  list.setAttribute('aria-busy', 'true');
  try {
    const found = askOthers(others, signal);
    let { body, next } = await askPage(signal);
    const hits = await found;
    if (body.total === 0 && hits.length > 0) {
      [reading] = hits;
      ({ body, next } = await askPage(signal));
    }
    isLoading = false;
    isOutdated = false;
    notify('');
    replaceRows(body, next);
    hint(hits);
    // What came while the answer was under way may be in it, or not.
    takeMessages(incoming, true);
  } catch (error) {
    if (!signal.aborted) listFailed(error);
  } finally {
    if (!signal.aborted) {
      isLoading = false;
      list.setAttribute('aria-busy', 'false');
    }
  }
}

/** Those of the other readings that find anything. */
async function askOthers(others, signal) {
  const asked = others.map(async (other) => {
    const { body } = await ask(address('/messages', { ...other.parameters, limit: 1 }), { signal });
    return { ...other, total: body.total };
  });
  const answers = await Promise.allSettled(asked);
  return answers
    .map((answer) => (answer.status === 'fulfilled' ? answer.value : { total: 0 }))
    .filter((other) => other.total > 0);
}

/** Says how else the text can be meant. */
function hint(hits) {
  const [hit] = hits;
  byId('hint').hidden = !hit;
  if (!hit) return;
  const words = `${count(hit.total, 'message')} ${hit.words}`;
  const { text } = readSearch(filters.q);
  if (reading) {
    byId('hint').replaceChildren(`No text contains “${text.trim()}”. Showing ${words}.`);
    return;
  }
  const button = make('button', { type: 'button', class: 'link' }, 'Show');
  button.addEventListener('click', () => {
    setFilters(hit.change);
    field.q.focus();
  });
  byId('hint').replaceChildren(`There ${hit.total === 1 ? 'is' : 'are'} also ${words}. `, button);
}

function listFailed(error) {
  if (error.status === 401) return;
  if (error.status) {
    notify(`The messages cannot be listed: ${error.message}.`);
  } else {
    lost();
    const since = heardAt ? `Showing messages from ${clock(heardAt)}; retrying…` : 'Retrying…';
    notify(`Can't reach the server. ${since}`);
  }
  if (error.status >= 400 && error.status < 500 && error.status !== 429) return;
  listTimer = setTimeout(loadList, (error.retryAfter || 2) * 1000);
}

let noticeAbout = 'list';

/** Says what went wrong; '' takes back what was said about the same. */
function notify(words, about = 'list') {
  if (!words && about !== noticeAbout) return;
  noticeAbout = about;
  if (!words && byId('notice').contains(document.activeElement)) focusList();
  byId('notice').hidden = !words;
  byId('notice').firstElementChild.textContent = words;
}

function replaceRows(body, next) {
  const isScrolled = list.getBoundingClientRect().top < 0;
  const hadFocus = list.contains(document.activeElement);
  rows = body.data;
  older = next;
  isHeadCut = false;
  setTotal(body.total);
  byId('hint').hidden = true;
  shown = new Map();
  list.replaceChildren();
  render();
  if (isScrolled) scrollTo({ top: 0 });
  if (hadFocus) focusList();
}

function focusList() {
  const row = list.querySelector('.row[tabindex="0"]') ?? list.querySelector('.row');
  (row ?? field.q).focus({ preventScroll: true });
}

function setTotal(number) {
  total = number;
  byId('total').textContent = numbers.format(total);
  const noun = total === 1 ? 'message' : 'messages';
  byId('unit').textContent = isFiltered() ? `${noun} ${total === 1 ? 'matches' : 'match'}` : noun;
}

const moment = (row) => (isByArrival() ? Date.parse(row.created_at) : milliseconds(row.ts));

function render(fresh = new Set()) {
  const wanted = new Set(rows.map((row) => row.message_id));
  const hadFocus = list.contains(document.activeElement);
  const days = new Map();
  let day = '';
  const elements = [];
  for (const row of rows) {
    knownSenders.add(row.from);
    const own = parts(moment(row)).day;
    if (own !== day) {
      day = own;
      days.set(day, shown.get(`day ${day}`) ?? dayElement(day));
      elements.push(days.get(day));
    }
    elements.push(shown.get(row.message_id) ?? rowElement(row, fresh.has(row.message_id)));
  }
  for (const [id, element] of shown) {
    if (!wanted.has(id) && !days.has(id.slice(4))) {
      element.remove();
      shown.delete(id);
    }
  }
  let place = list.firstElementChild;
  for (const element of elements) {
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  keepOneTabStop();
  // The row that had it may be gone.
  if (hadFocus && !list.contains(document.activeElement)) focusList();
  markOpened();
  renderEnds();
}

function dayElement(day) {
  const element = make('li', { class: 'day' }, make('h2', {}, dayName(day)));
  shown.set(`day ${day}`, element);
  return element;
}

function renderEnds() {
  byId('older').hidden = !older;
  const isPart = rows.length > 0 && rows.length < total;
  byId('shown').textContent = isPart
    ? `${numbers.format(rows.length)} of ${numbers.format(total)} shown`
    : '';
  const isKnown = heardAt > 0 && !tokenGiven && !isLoading && !readFilters(filters).problem;
  byId('empty').hidden = rows.length > 0 || !isKnown;
  if (!byId('empty').hidden) renderEmpty();
  byId('newest').hidden = !isHeadCut;
  byId('results').hidden = Boolean(tokenGiven);
}

function rowElement(row, isFresh) {
  const time = make('time', { class: 'when', datetime: row.ts });
  const button = make(
    'button',
    { type: 'button', class: 'row', tabindex: '-1' },
    time,
    make('bdi', { class: 'who' }, row.from),
    preview(row.text),
  );
  const element = make('li', { 'data-id': row.message_id }, button);
  element.classList.toggle('fresh', isFresh);
  element.classList.toggle('unread', unread.has(row.message_id));
  shown.set(row.message_id, element);
  showTime(time, row);
  return element;
}

function showTime(element, row) {
  element.textContent = rowTime(moment(row));
  const arrived = row.created_at ? `, stored ${exactTime(row.created_at)}` : '';
  element.title = `${exactTime(row.ts)}${arrived}`;
}

/** Again, for the minute that has passed or the zone that was chosen. */
function showTimes() {
  for (const row of rows) {
    const element = shown.get(row.message_id);
    if (element) showTime(element.querySelector('time'), row);
  }
}

function preview(text) {
  if (!text) return nothing(text, 'text');
  const element = make('span', { class: 'text', dir: 'auto' });
  const q = readSearch(filters.q).text;
  const at = q ? text.toLowerCase().indexOf(q.toLowerCase()) : -1;
  if (at < 0) {
    element.append(visible(cut(text, 0, PREVIEW_CHARS)));
    return element;
  }
  // One line does not reach a match far inside.
  const start = at > 40 ? at - 20 : 0;
  const end = at + q.length;
  element.append(start ? '…' : '', visible(cut(text, start, at)));
  element.append(make('mark', {}, visible(text.slice(at, end))));
  element.append(visible(cut(text, end, end + PREVIEW_CHARS)));
  return element;
}

// Never between the two halves of a character.
const cut = (text, start, end) =>
  text.slice(start, end).replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, '');

function nothing(text, className) {
  const dash = make('span', { 'aria-hidden': 'true' }, '— ');
  const words = text === null ? 'no text' : 'empty text';
  return make('span', { class: `${className} void` }, dash, words);
}

// Control characters are shown as pictures; the two that turn letters round are spelled out.
function visible(text) {
  return text
    .replace(/[\0-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(
      /[\x7f-\x9f\u202d\u202e]/g,
      (c) => `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}]`,
    );
}

// ---- More of the list

// Into a list that may lack its newest rows (cut off) and its older ones (not loaded yet).
function insert(messages) {
  const inside = messages.filter(
    (message) =>
      !shown.has(message.message_id) &&
      (!isHeadCut || newestFirst(message, rows[0]) > 0) &&
      (!older || rows.length === 0 || newestFirst(message, rows.at(-1)) < 0),
  );
  rows = rows.concat(inside).sort(newestFirst);
  cutTail();
  render(new Set(inside.length <= BURST ? inside.map((message) => message.message_id) : []));
}

function cutTail() {
  if (rows.length <= ROWS_MAX) return;
  rows = rows.slice(0, ROWS_MAX);
  const last = rows.at(-1);
  // The server's cursor is behind the rows just dropped; begin again at the last one left.
  older = isByArrival()
    ? address('/feed', { before: last.cursor, limit: PAGE_SIZE })
    : pageOf({ ...wantedParameters(), until: justAfter(last.ts) });
}

async function showOlder() {
  const { signal } = view;
  const button = byId('older');
  const hadFocus = document.activeElement === button;
  button.disabled = true;
  try {
    const fresh = await fetchOlder(signal);
    rows = rows.concat(fresh).sort(newestFirst);
    if (rows.length > ROWS_MAX) {
      rows = rows.slice(-ROWS_MAX);
      isHeadCut = true;
    }
    notify('');
    render();
    if (hadFocus) shown.get(fresh[0]?.message_id)?.firstElementChild.focus({ preventScroll: true });
  } catch (error) {
    if (!signal.aborted && error.status !== 401) {
      notify(`Older messages cannot be shown: ${error.message}.`);
    }
  } finally {
    button.disabled = false;
  }
}

// Where many have the same ts, the first pages may have nothing but rows already shown.
async function fetchOlder(signal) {
  for (let pages = 0; older && pages < 12; pages += 1) {
    const asked = older;
    const answer = await ask(asked, { signal });
    // The tail was cut meanwhile.
    if (older !== asked) continue;
    const { body, next } = isByArrival() ? byArrival(answer.body.data, total) : answer;
    older = next;
    const fresh = body.data.filter((row) => !shown.has(row.message_id));
    if (fresh.length) return fresh;
  }
  return [];
}

function backToNewest() {
  scrollTo({ top: 0 });
  list.querySelector('.row')?.focus({ preventScroll: true });
  loadList();
}

function chooseOrder(wanted) {
  order = wanted;
  store('order', order);
  showOrder();
  clearLate();
  loadList();
}

function showOrder() {
  for (const button of document.querySelectorAll('[data-order]')) {
    button.setAttribute('aria-pressed', String(button.getAttribute('data-order') === order));
  }
}
