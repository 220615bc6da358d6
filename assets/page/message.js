// ---- One message: beside the list, or over it where there is no room

const detail = byId('detail');
const isWide = matchMedia('(min-width: 1200px)');

let opened = null;
/** As in the address: a message that is not in the list can be open, too. */
let openedId = '';
let details = new AbortController();

function openDetail(id, { isStep = false } = {}) {
  const row = rows.find((one) => one.message_id === id);
  if (row) openMessage(row, { isStep });
}

function openMessage(message, { isStep = false, isFromUrl = false } = {}) {
  const wasOpen = Boolean(openedId);
  openedId = message.message_id;
  if (!isFromUrl) {
    const url = asQuery(filters);
    if (wasOpen || isStep) history.replaceState(history.state, '', url);
    else history.pushState({ isMessage: true }, '', url);
  }
  opened = message;
  markRead([openedId]);
  notify('', 'message');
  renderDetail();
  markOpened();
  showDetail();
  askDetails(message);
}

function showDetail() {
  detail.querySelector('.scroll').scrollTop = 0;
  byId('no-detail').hidden = true;
  if (detail.open) return;
  // Beside the list, the focus stays where it is.
  if (isWide.matches) detail.setAttribute('open', '');
  else detail.showModal();
}

function renderDetail() {
  const { text } = opened;
  byId('detail-text').replaceChildren(...(text ? marked(text) : [nothing(text, '')]));
  byId('detail-fields').replaceChildren(...detailFields(opened).flat());
  byId('detail-said').textContent = '';
  renderOriginal();
}

/** The text, with every match marked. */
function marked(text) {
  const q = readSearch(filters.q).text.toLowerCase();
  const lower = text.toLowerCase();
  // Some letters have another length in lower case: then the places would be wrong.
  if (!q || lower.length !== text.length) return [visible(text)];
  const nodes = [];
  let end = 0;
  for (let at = lower.indexOf(q); at >= 0; at = lower.indexOf(q, end)) {
    nodes.push(visible(text.slice(end, at)));
    end = at + q.length;
    nodes.push(make('mark', {}, visible(text.slice(at, end))));
  }
  return [...nodes, visible(text.slice(end))];
}

function detailFields(row) {
  const sent = milliseconds(row.ts);
  const storedAt = row.stored_at ?? row.created_at;
  const local = new Date(sent).toLocaleString('en', { dateStyle: 'full', timeStyle: 'long' });
  const entries = [
    ['From', make('bdi', {}, row.from)],
    ['To', make('bdi', {}, row.to)],
    ['Sent', make('span', { title: local }, age(sent))],
    ['Time (UTC)', make('time', { datetime: row.ts, class: 'code' }, row.ts)],
    ['Time (local)', local],
    ['Message ID', make('bdi', { class: 'code' }, visible(row.message_id))],
  ];
  if (storedAt) {
    const stamp = make('span', { class: 'code' }, storedAt);
    entries.push(['Stored', make('span', {}, stamp, ` (${age(Date.parse(storedAt))})`)]);
  }
  if (row.source) entries.push(['Source', row.source]);
  if (row.kind) entries.push(['Kind', row.kind]);
  if (row.text) entries.push(['Length', count([...row.text].length, 'character')]);
  return entries.map(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]);
}

/** All that is known of a message; an older server knows no more than the list does. */
async function askDetails(message) {
  details.abort();
  details = new AbortController();
  const { signal } = details;
  if (message.original !== undefined || knowsNoMore) return;
  try {
    const path = `/messages/${encodeURIComponent(message.message_id)}`;
    const { body } = await ask(address(path), { signal });
    if (opened !== message) return;
    opened = { ...message, ...body };
    renderDetail();
  } catch (error) {
    if (error.status === 404) knowsNoMore = true;
  }
}

let knowsNoMore = false;

function renderOriginal() {
  const { original } = opened;
  const place = byId('detail-original');
  place.hidden = original === undefined || original === null;
  if (place.hidden) return;
  const text = JSON.stringify(original, null, 2);
  place.replaceChildren(
    make('summary', {}, 'As the provider sent it'),
    make(
      'pre',
      { class: 'code', tabindex: '0', role: 'group', 'aria-label': 'Original' },
      ...colours(text),
    ),
    copyButton('Copy the original', () => text),
  );
}

// ---- Where it is in the list

/** The rows before and after it. It need not be among them. */
function neighbours() {
  const at = rows.findIndex((row) => row.message_id === openedId);
  if (at >= 0) return [at - 1, at + 1];
  if (!opened || (isByArrival() && !opened.cursor)) return [-1, rows.length];
  const after = rows.findIndex((row) => newestFirst(opened, row) < 0);
  return after < 0 ? [rows.length - 1, rows.length] : [after - 1, after];
}

function markOpened() {
  for (const row of list.querySelectorAll('[aria-current]')) row.removeAttribute('aria-current');
  if (!openedId) return;
  shown.get(openedId)?.firstElementChild.setAttribute('aria-current', 'true');
  const [newer, next] = neighbours();
  byId('detail-newer').disabled = newer < 0;
  byId('detail-older').disabled = next >= rows.length && !older;
}

async function stepDetail(by) {
  const { activeElement } = document;
  const [newer, next] = neighbours();
  const at = by < 0 ? newer : next;
  if (at >= rows.length && older) await showOlder();
  const row = rows[by < 0 ? at : neighbours()[1]];
  if (!row) return;
  openMessage(row, { isStep: true });
  shown.get(openedId)?.scrollIntoView({ block: 'nearest' });
  // A button that has become disabled loses the focus.
  if (activeElement?.matches(':disabled')) byId('detail-close').focus();
}

// ---- Closing, by a button, by Esc, or by the browser's Back

function closeDetail({ isKeptInUrl = false } = {}) {
  if (!openedId) return;
  const id = openedId;
  const hadFocus = detail.contains(document.activeElement) || !isWide.matches;
  openedId = '';
  opened = null;
  details.abort();
  if (detail.open) detail.close();
  byId('no-detail').hidden = false;
  markOpened();
  if (hadFocus) (shown.get(id)?.firstElementChild ?? field.q).focus({ preventScroll: true });
  if (isKeptInUrl) return;
  if (history.state?.isMessage) history.back();
  else history.replaceState(history.state, '', asQuery(filters));
}

/** Opens or closes what the address says. */
async function openFromAddress() {
  const id = new URLSearchParams(location.search).get('m') ?? '';
  if (id === openedId || tokenGiven) return;
  if (!id) {
    closeDetail({ isKeptInUrl: true });
    return;
  }
  const row = rows.find((one) => one.message_id === id);
  if (row) {
    openMessage(row, { isFromUrl: true });
    return;
  }
  try {
    const { body } = await ask(address('/messages', { message_id: id, limit: 1 }));
    if (body.data[0]) openMessage(body.data[0], { isFromUrl: true });
    else notify('There is no message with this id. It may have been deleted.', 'message');
  } catch (error) {
    if (error.status !== 401) notify(`The message cannot be shown: ${error.message}.`, 'message');
  }
}

/** Between the two ways to show it. */
function fitDetail() {
  if (!openedId) return;
  detail.close();
  showDetail();
}

function contract({ message_id, from, to, ts, text }) {
  return JSON.stringify({ message_id, from, to, ts, text }, null, 2);
}

async function copyDetail(event, text) {
  const isCopied = await copyText(text, event.currentTarget);
  byId('detail-said').textContent = isCopied ? 'Copied.' : BLOCKED;
}
