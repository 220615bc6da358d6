// ---- Messages that arrive: shown at once, or held back while the reader is at the list

const UNREAD_MAX = 1_000;

let taken = 0;
let refreshTimer = 0;
let refreshedAt = 0;
let isPointed = false;
/** Messages that are not in the list yet, by their ids. */
let held = new Map();
/** How many came that are not seen where they are in the list, and their days. */
let late = { count: 0, days: [] };
let unread = new Set(stored('unread') ?? []);

/** Rows must not move while somebody is about to use one. */
const isPaused = () =>
  isPointed ||
  list.contains(document.activeElement) ||
  byId('held').contains(document.activeElement) ||
  list.getBoundingClientRect().top < -40;

function takeMessages(messages, isKnown = false) {
  if (messages.length === 0) return;
  taken += messages.length;
  for (const message of messages) showLastStored(message.created_at);
  if (isLoading) {
    incoming.push(...messages);
  } else if (isFiltered()) {
    refreshMatches();
  } else {
    const fresh = messages.filter(isNew);
    setTotal(total + fresh.length);
    receive(fresh, isKnown);
  }
  if (!isKnown) refreshStats();
}

const isNew = (message) => !shown.has(message.message_id) && !held.has(message.message_id);

/** Adds messages to the list, or holds them back. */
function receive(fresh, isKnown) {
  if (fresh.length === 0) return renderEnds();
  if (!isKnown) {
    noteLate(fresh);
    announce(fresh);
  }
  if (isPaused()) {
    for (const message of fresh) held.set(message.message_id, message);
    showHeld();
    renderEnds();
  } else {
    insert(fresh);
  }
}

function showHeld() {
  byId('new').hidden = held.size === 0;
  byId('new').textContent = `↑ ${numbers.format(held.size)} new · show`;
}

function clearHeld() {
  held = new Map();
  showHeld();
}

/** Inserts what was held back. */
function release() {
  if (held.size === 0) return;
  const messages = [...held.values()];
  clearHeld();
  if (isHeadCut || messages.length >= ROWS_MAX) loadList();
  else insert(messages);
}

function showNew() {
  const isCut = isHeadCut;
  scrollTo({ top: 0 });
  release();
  if (isCut) return;
  list.querySelector('.row')?.focus({ preventScroll: true });
}

function releaseIfFree() {
  if (held.size > 0 && !isPaused()) release();
}

// ---- Late messages: by time they stand far below

function noteLate(fresh) {
  if (isByArrival()) return;
  for (const message of fresh) {
    const below = rows.findIndex((row) => newestFirst(message, row) < 0);
    const isSeen = below >= 0 ? below < SEEN_ROWS : rows.length < SEEN_ROWS;
    if (isSeen) continue;
    late.count += 1;
    late.days.push(parts(milliseconds(message.ts)).day);
  }
  if (late.count > 0) showLate();
}

function showLate() {
  late.days = [...new Set(late.days)].sort();
  const [first, last] = [late.days[0], late.days.at(-1)];
  late.days = first === last ? [first] : [first, last];
  const dated = first === undefined ? '' : `, dated ${late.days.join(' to ')}`;
  byId('late').textContent = `${count(late.count, 'late message')}${dated} · show`;
  byId('late').hidden = false;
}

function clearLate() {
  late = { count: 0, days: [] };
  byId('late').hidden = true;
}

/** By arrival they are the first ones. */
function showLateMessages() {
  clearLate();
  if (isFiltered()) clearFilters();
  chooseOrder('arrival');
  scrollTo({ top: 0 });
  focusList();
}

// ---- Matches of a filter: the server says what matches

function refreshMatches() {
  if (refreshTimer) return;
  refreshTimer = setTimeout(askMatches, Math.max(0, refreshedAt + REFRESH_MS - Date.now()));
}

async function askMatches() {
  refreshTimer = 0;
  if (isLoading) {
    refreshedAt = Date.now();
    refreshMatches();
    return;
  }
  refreshTimer = -1;
  const { signal } = view;
  try {
    const { body, next } = await askPage(signal);
    mergeFirstPage(body, next);
  } catch (error) {
    if (!signal.aborted) listFailed(error);
  } finally {
    refreshTimer = 0;
    refreshedAt = Date.now();
  }
}

function mergeFirstPage(body, next) {
  if (readFilters(filters).problem) return;
  const fresh = body.data.filter(isNew);
  const below = body.total - total - fresh.length;
  setTotal(body.total);
  if (fresh.length === PAGE_SIZE && next && !isHeadCut && !isPaused()) {
    // So many came that rows in between are missing.
    replaceRows(body, next);
    announce(fresh);
  } else {
    receive(fresh, false);
  }
  if (below > 0) {
    late.count += below;
    showLate();
  }
}

// ---- What is read, and what is announced

function markUnread(messages) {
  for (const message of messages) unread.add(message.message_id);
  if (unread.size > UNREAD_MAX) unread = new Set([...unread].slice(-UNREAD_MAX));
  for (const message of messages) {
    shown.get(message.message_id)?.classList.add('unread');
  }
  keepUnread();
}

let keepTimer = 0;

function keepUnread() {
  document.title = unread.size ? `(${numbers.format(unread.size)}) mailslot` : 'mailslot';
  byId('read-all').hidden = unread.size === 0;
  byId('read-all').textContent = `Mark ${numbers.format(unread.size)} as read`;
  keepTimer ||= setTimeout(() => {
    keepTimer = 0;
    store('unread', [...unread]);
    if (cursor !== null) store('cursor', cursor);
  }, 500);
}

function markRead(ids) {
  for (const id of ids) {
    unread.delete(id);
    shown.get(id)?.classList.remove('unread');
  }
  keepUnread();
}

let unannounced = 0;
let announceTimer = 0;

function announce(messages) {
  unannounced += messages.length;
  announceTimer ||= setTimeout(() => {
    byId('news').textContent = count(unannounced, 'new message');
    unannounced = 0;
    announceTimer = 0;
  }, 1500);
}

// ---- The feed: everything that is committed, from before the first list on

const FEED_LIMIT = 1000;
const FEED_WAIT_SECONDS = 25;
const HIDDEN_POLL_MS = 15_000;
/** Between attempts while the server is away. */
const RETRY_MS = 1_200;

let cursor = null;
let fullAnswers = 0;
let wake = () => {};
let waiting = new AbortController();

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// A sleep that ends early when the reader comes back.
function doze(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve(undefined);
    };
  });
}

/** Ends a sleep, and a request that may be waiting on a dead connection. */
function retryFeed() {
  waiting.abort();
  wake();
}

async function follow() {
  for (;;) {
    try {
      if (cursor === null) await begin();
      else await listen();
    } catch (error) {
      await recover(error);
    }
  }
}

async function askFeed(parameters, seconds) {
  waiting = new AbortController();
  const { signal } = waiting;
  const url = address('/feed', { limit: FEED_LIMIT, ...parameters });
  const { body } = await ask(url, { signal, seconds });
  return body;
}

// What came since this browser was here last time is unread. On its first visit only the cursor is
// needed: a full answer has 64 KB, for which the list would wait.
async function begin() {
  const last = stored('cursor');
  const limit = last === null ? 1 : FEED_LIMIT;
  const { data, next } = await askFeed({ before: 'latest', limit }, 5);
  cursor = next;
  fullAnswers = 0;
  showLastStored(data.at(-1)?.created_at);
  markUnread(data.filter((message) => last !== null && Number(message.cursor) > Number(last)));
  refreshStats(true);
  await loadList();
}

async function listen() {
  // Hidden tabs hold no connection of the few that a browser has for one server; and after a
  // failure only a response at once tells that all is well again.
  const wait = document.hidden || isAway ? 0 : FEED_WAIT_SECONDS;
  const asked = Date.now();
  const { data, next } = await askFeed({ after: cursor, wait }, wait ? wait + 10 : 5);
  cursor = next;
  if (data.length > 0) {
    markUnread(data);
    takeMessages(data);
  }
  fullAnswers = data.length >= FEED_LIMIT / 2 ? fullAnswers + 1 : 0;
  if (fullAnswers > 3) {
    // More comes than can be shown: leave the rest out, the list has the newest.
    cursor = null;
    await sleep(1000);
  } else if (data.length > 0) {
    await sleep(data.length > BURST ? 600 : 250);
  } else if (document.hidden) {
    await doze(HIDDEN_POLL_MS);
  } else if (wait && Date.now() - asked < 1000) {
    // Something between here and the server does not wait.
    await sleep(1000);
  }
}

async function recover(error) {
  if (error.status === 401) {
    await tokenGiven?.promise;
    return;
  }
  // The cursor is of another inbox, or of one before a restore.
  if (error.status === 409) {
    cursor = null;
    store('cursor', null);
    return;
  }
  lost();
  // The list may be had where the feed is not.
  if (cursor === null && !isLoading && error.status) loadList();
  await doze(error.retryAfter ? Math.min(error.retryAfter, 120) * 1000 : RETRY_MS);
}

/** The server answers again after it did not. */
function cameBack() {
  if (isOutdated) loadList();
  refreshStats(true);
  checkHealth();
}
