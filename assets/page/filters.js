// ---- Filters: the fields, the URL and the list say the same

const FILTERS = ['q', 'from', 'to', 'since', 'until'];
const TYPING_MS = 250;
const field = Object.fromEntries(FILTERS.map((name) => [name, byId(name)]));

/** What is written in the fields. A sender with a star at its end is how senders begin. */
let filters = Object.fromEntries(FILTERS.map((name) => [name, '']));
let committed = '';
let typing = 0;
/** Senders that are known whole. */
const knownSenders = new Set();
/** What the server can filter by beyond its first version, once it was asked. */
let extras = null;

const isFiltered = () => FILTERS.some((name) => filters[name].trim());

// A typed plus comes out of a query as a space; and people write numbers with gaps.
function readNumber(written) {
  const text = written.trim();
  if (!text || /[^\d\s().+*/-]/.test(text)) return text;
  // A star stands at the end only: what is typed behind it moves it.
  const digits = text.replace(/[\s()./-]|\*(?=.)/g, '');
  return /^\d/.test(digits) && !knownSenders.has(digits) ? `+${digits}` : digits;
}

/** A sender as a filter: what is not known whole is how it begins. */
function readSender(written) {
  const number = readNumber(written);
  return !number || number.endsWith('*') || knownSenders.has(number) ? number : `${number}*`;
}

const senderParameter = (sender) =>
  sender.endsWith('*') ? { from_prefix: sender.slice(0, -1) } : { from: sender };

const OPERATOR = /(^|\s)(from|to|before|after|until|since|source|kind|id):("[^"]*"|\S*)/gi;
const NAMES = { before: 'until', after: 'since', id: 'message_id' };

/** The search box: operators, and a text that may be a number or an id. */
function readSearch(written) {
  const found = {};
  let problem = '';
  const rest = written.replace(OPERATOR, (_, space, operator, value) => {
    const key = operator.toLowerCase();
    const name = NAMES[key] ?? key;
    if (name in found) problem = `“${key}:” is given twice.`;
    found[name] = value.replace(/^"|"$/g, '');
    return space;
  });
  let text = rest.trim();
  const isQuoted = /^"[^"]+"$/.test(text);
  if (isQuoted) text = text.slice(1, -1);
  // The text as it was typed, if there is no operator: spaces may matter.
  else if (Object.keys(found).length === 0) text = text && written;
  return { found, text, isQuoted, problem };
}

/**
 * What the API is asked, now: some filters are relative to the time. `others` is how else the text
 * may be meant.
 */
function readFilters(wanted) {
  const { found, text, isQuoted, problem } = readSearch(wanted.q);
  const { from, to, since, until, ...more } = { ...pick(wanted), ...found };
  const result = { parameters: /** @type {any} */ ({}), others: [], problem };
  const parameters = result.parameters;
  if (from) Object.assign(parameters, senderParameter(found.from ? readSender(from) : from));
  if (to) parameters.to = readNumber(to);
  const times = { since: readTime(since ?? ''), until: readTime(until ?? '') };
  for (const [name, time] of Object.entries(times)) {
    if (time === null) result.problem ||= timeProblem(name === 'since' ? since : until);
    else if (time) parameters[name] = time;
  }
  if (times.since && times.until && instant(times.since) >= instant(times.until)) {
    result.problem ||= '“Since” is not before “Until”, so no message can match.';
  }
  for (const name of Object.keys(more)) {
    if (name === 'source' || name === 'kind') result.problem ||= extraProblem(name);
  }
  Object.assign(parameters, more);
  const trimmed = text.trim();
  if (isQuoted || !trimmed) {
    if (trimmed) parameters.q = text;
  } else if (/^\+[\d\s().-]{2,}$/.test(trimmed) && !parameters.from && !parameters.from_prefix) {
    Object.assign(parameters, senderParameter(readSender(trimmed)));
  } else {
    parameters.q = text;
    result.others = otherReadings(trimmed, parameters);
  }
  return result;
}

const pick = ({ from, to, since, until }) => ({ from, to, since, until });

const timeProblem = (written) => `“${written}” isn't a time. ${TIME_HINT} (${zoneName()}).`;

function extraProblem(name) {
  if (extras === null) return 'Asking the server what it can filter by…';
  return extras.includes(name) ? '' : `This server does not filter by ${name}.`;
}

function otherReadings(text, { q, ...rest }) {
  const readings = [];
  const isNumber = /^[\d\s().-]{4,}$/.test(text) && text.replace(/\D/g, '').length >= 4;
  if (isNumber && !rest.from && !rest.from_prefix) {
    const sender = readSender(text);
    const words = sender.endsWith('*')
      ? `from numbers that begin with ${sender.slice(0, -1)}`
      : `from ${sender}`;
    const change = { q: '', from: sender };
    readings.push({ parameters: { ...rest, ...senderParameter(sender) }, words, change });
  }
  if (/^\S{2,}$/.test(text) && !rest.message_id) {
    const change = { q: `id:${text}` };
    readings.push({ parameters: { ...rest, message_id: text }, words: 'with this id', change });
  }
  return readings;
}

/** What the filters mean, in words. */
function describe({ q, from, from_prefix, to, since, until, message_id, source, kind }) {
  const said = [];
  if (q) said.push(`“${q}”`);
  if (message_id) said.push(`with the id ${message_id}`);
  if (source || kind) said.push([source, kind].filter(Boolean).join(' '));
  if (from_prefix) said.push(`from ${from_prefix}…`);
  if (from) said.push(`from ${from}`);
  if (to) said.push(`to ${to}`);
  if (since) said.push(`since ${exactTime(since)}`);
  if (until) said.push(`before ${exactTime(until)}`);
  return said.join(' ');
}

// ---- From the fields to the URL and back

const asQuery = (wanted) => {
  const url = address('/', wanted);
  if (openedId) url.searchParams.set('m', openedId);
  return url.search || location.pathname;
};

function readFields(isFinal) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, field[name].value.trim()]));
  wanted.q = field.q.value;
  wanted.from = readSender(wanted.from);
  // The API knows whole receivers only: half of a number would find nothing.
  wanted.to = isFinal ? readNumber(wanted.to) : filters.to;
  for (const name of ['since', 'until']) {
    const time = readTime(wanted[name]);
    if (time === null && !isFinal) wanted[name] = filters[name];
    else if (time && !isRelative(wanted[name])) wanted[name] = time;
  }
  return wanted;
}

function writeFields(values) {
  for (const name of FILTERS) {
    const shownTime = name === 'since' || name === 'until';
    const value = shownTime ? writtenTime(values[name]) : values[name];
    if (field[name].value !== value) field[name].value = value;
  }
}

/** An instant as its field shows it. Fractions and what is no instant stay as they are. */
function writtenTime(value) {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(value)) return value;
  const { day, time } = parts(milliseconds(value));
  return time.endsWith(':00') ? `${day} ${time.slice(0, 5)}` : `${day} ${time}`;
}

function applyFields(isFinal) {
  clearTimeout(typing);
  const wanted = readFields(isFinal);
  if (isFinal) writeFields(wanted);
  const query = asQuery(wanted);
  const isNew = query !== asQuery(filters);
  if (isNew) history.replaceState(history.state, '', query);
  if (isFinal && query !== committed) {
    // What was typed so far stood in the place of the entry to come back to.
    history.replaceState(history.state, '', committed || location.pathname);
    history.pushState(null, '', query);
    committed = query;
  }
  if (isNew) showFilters(wanted);
  else showProblem();
}

function setFilters(changes) {
  if (changes.from) knownSenders.add(changes.from);
  writeFields({ ...readFields(true), ...changes });
  applyFields(true);
}

function readAddress() {
  clearTimeout(typing);
  const query = new URLSearchParams(location.search);
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? '']));
  const from = readNumber(wanted.from);
  if (from && !from.endsWith('*')) knownSenders.add(from);
  writeFields(wanted);
  const read = readFields(true);
  writeFields(read);
  committed = asQuery(read);
  return read;
}

function showFilters(wanted) {
  adoptFilters(wanted);
  loadList();
  refreshStats(true);
}

function adoptFilters(wanted) {
  filters = wanted;
  byId('clear').hidden = !isFiltered();
  const { parameters, problem } = readFilters(filters);
  for (const format of ['ndjson', 'csv']) {
    const url = address('/export', { format, ...exported(parameters) });
    byId(`export-${format}`).setAttribute('href', url.pathname + url.search);
  }
  byId('exports').hidden = Boolean(problem || parameters.message_id);
  showProblem();
  showTimeSummary();
  markPressed();
}

// The server ignores what it does not know, and would export more than is shown.
const exported = ({ message_id, ...parameters }) => parameters;

function showProblem() {
  const { problem } = readFilters(filters);
  byId('problem').textContent = problem;
  byId('problem').hidden = !problem;
  for (const name of ['since', 'until']) {
    const isWrong = readTime(filters[name]) === null;
    field[name].setAttribute('aria-invalid', String(isWrong));
  }
  if (/(^|\s)(source|kind):/.test(filters.q) && extras === null) learnExtras();
}

async function learnExtras() {
  extras = [];
  try {
    const { body } = await ask(address('/openapi.json'));
    const known = body.paths['/messages'].get.parameters;
    const names = known.map((one) => one.name ?? one.$ref.split('/').at(-1).toLowerCase());
    extras = ['source', 'kind'].filter((name) => names.includes(name));
  } catch {
    extras = null;
    return;
  }
  showFilters(filters);
}

function showTimeSummary() {
  const { since, until } = filters;
  const said = [];
  if (since) said.push(isRelative(since) ? since : `since ${writtenTime(since)}`);
  if (until) said.push(`until ${writtenTime(until)}`);
  byId('time-summary').textContent = said.join(', ') || 'Any time';
  byId('time').toggleAttribute('data-set', said.length > 0);
}

function clearFilters() {
  setFilters(Object.fromEntries(FILTERS.map((name) => [name, ''])));
  field.q.focus();
}
