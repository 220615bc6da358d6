// ---- The overview: totals, messages by hour or day, and the senders of most messages

const STATS_MIN_MS = 5_000;

const chart = byId('chart');
const senders = byId('senders');
let bucket = 'hour';
let statsTimer = 0;
let statsAt = Number.NEGATIVE_INFINITY;
let lastStored = '';

function refreshStats(isUrgent = false) {
  if (statsTimer && !isUrgent) return;
  clearTimeout(statsTimer);
  const due = isUrgent ? 0 : Math.max(0, statsAt + STATS_MIN_MS - performance.now());
  statsTimer = setTimeout(askStats, due);
}

async function askStats() {
  statsTimer = 0;
  statsAt = performance.now();
  if (tokenGiven) return;
  const [of, takenBefore] = [bucket, taken];
  const { until, others } = chartFilters();
  const range = seriesRange(of, until);
  const [stats, series] = await Promise.allSettled([
    ask(address('/stats')),
    ask(address('/stats/series', { ...others, bucket: of, ...range })),
  ]);
  if (stats.status === 'fulfilled') renderStats(stats.value.body, taken === takenBefore);
  if (series.status === 'fulfilled' && of === bucket) renderChart(series.value.body);
}

/** What the chart follows: its bars show when messages were sent, and some can be chosen. */
function chartFilters() {
  const { parameters, problem } = readFilters(filters);
  if (problem) return { until: '', others: {} };
  const { since, until, message_id, ...others } = reading?.parameters ?? parameters;
  return { until, others };
}

const bucketMs = (of) => (of === 'day' ? DAY_MS : HOUR_MS);

// Whole buckets, the last one being that of now, or of the end that is asked for.
function seriesRange(of, until) {
  const size = bucketMs(of);
  const end = Math.min(until ? milliseconds(until) - 1 : Date.now(), Date.now());
  const last = (Math.floor(end / size) + 1) * size;
  return { since: isoSeconds(last - (of === 'day' ? 30 : 24) * size), until: isoSeconds(last) };
}

function renderStats(stats, isSettled) {
  byId('sum-messages').textContent = numbers.format(stats.total_messages);
  byId('sum-senders').textContent = numbers.format(stats.senders_count);
  // Counting what arrives may count twice what came while the list was loaded.
  if (isSettled && !isFiltered() && !isLoading && stats.total_messages !== total) {
    setTotal(stats.total_messages);
    renderEnds();
  }
  const top = stats.messages_per_sender;
  const most = Math.max(1, ...top.map((sender) => sender.count));
  for (const sender of top) knownSenders.add(sender.from);
  keepFocus(senders, () =>
    senders.replaceChildren(...top.map((sender) => senderElement(sender, most))),
  );
  if (top.length === 0) senders.append(make('li', { class: 'faint' }, 'No senders yet'));
  byId('known-senders').replaceChildren(
    ...top.map((sender) => make('option', { value: sender.from })),
  );
  markPressed();
}

function senderElement(sender, most) {
  const share = make('span', { class: 'share', 'aria-hidden': 'true' });
  share.style.width = `${Math.max(2, (sender.count / most) * 100)}%`;
  const button = make(
    'button',
    { type: 'button', 'data-key': sender.from },
    make('bdi', {}, sender.from),
    make('span', {}, numbers.format(sender.count), make('span', { class: 'sr' }, ' messages')),
    share,
  );
  button.addEventListener('click', () =>
    setFilters({ from: filters.from === sender.from ? '' : sender.from }),
  );
  return make('li', {}, button);
}

// Rebuilt under the reader's hands, the focus stays on what it was on.
function keepFocus(container, rebuild) {
  const { activeElement } = document;
  const key = container.contains(activeElement) ? activeElement.getAttribute('data-key') : null;
  rebuild();
  if (key === null) return;
  const keyed = [...container.querySelectorAll('[data-key]')];
  keyed.find((element) => element.getAttribute('data-key') === key)?.focus();
}

function renderChart(series) {
  const [width, height, base] = [276, 112, 92];
  const { data } = series;
  const most = Math.max(1, ...data.map((item) => item.count));
  const step = width / Math.max(1, data.length);
  const bars = data.map((item, index) => barElement(item, index * step, step, base, most));
  const ticks = data.map((item, index) => tickElement(item.ts, (index + 0.5) * step, height - 5));
  keepFocus(chart, () =>
    chart.replaceChildren(
      draw('line', { x1: 0, x2: width, y1: 14, y2: 14, 'stroke-dasharray': '2 3' }),
      draw('text', { x: 0, y: 10, 'aria-hidden': 'true' }, numbers.format(most)),
      ...bars,
      draw('line', { x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }),
      ...ticks.filter(Boolean),
    ),
  );
  byId('chart-title').textContent = chartTitle(data);
  byId('chart-filter').textContent = describe(chartFilters().others) || 'all messages';
  markPressed();
  if (!chart.querySelector('g[tabindex="0"]')) bars.at(-1)?.setAttribute('tabindex', '0');
}

function chartTitle(data) {
  const end = milliseconds(data.at(-1)?.ts ?? isoSeconds(Date.now())) + bucketMs(bucket);
  const days = bucket === 'day';
  if (end >= Date.now()) return days ? 'Last 30 days (UTC)' : 'Last 24 hours (UTC)';
  const until = isoSeconds(end)
    .slice(0, days ? 10 : 16)
    .replace('T', ' ');
  return `${days ? '30 days' : '24 hours'} until ${until} (UTC)`;
}

function barElement(item, x, step, base, most) {
  const height = item.count ? Math.max(2, (item.count / most) * (base - 14)) : 1;
  const gap = step * 0.14;
  const when = item.ts.slice(0, bucket === 'day' ? 10 : 16).replace('T', ' ');
  const label = `${when} UTC: ${count(item.count, 'message')}`;
  const bar = draw(
    'g',
    { role: 'button', tabindex: '-1', 'aria-label': label, 'data-key': item.ts },
    draw('title', {}, label),
    draw('rect', { class: 'hit', x, y: 12, width: step, height: base - 12 }),
    draw('rect', {
      class: item.count ? 'fill' : 'none',
      x: x + gap,
      y: base - height,
      width: step - 2 * gap,
      height,
      rx: Math.min(1.5, height / 2),
    }),
  );
  bar.addEventListener('click', () => chooseBucket(item.ts));
  return bar;
}

function tickElement(ts, x, y) {
  const [day, hour] = [Number(ts.slice(8, 10)), Number(ts.slice(11, 13))];
  if (bucket === 'day' ? day % 7 !== 1 || day > 28 : hour % 6 !== 0) return null;
  const words = bucket === 'day' ? ts.slice(5, 10) : ts.slice(11, 16);
  const anchor = x < 16 ? 'start' : x > 260 ? 'end' : 'middle';
  return draw('text', { x, y, 'text-anchor': anchor, 'aria-hidden': 'true' }, words);
}

const bucketRange = (ts) => ({
  since: ts,
  until: isoSeconds(milliseconds(ts) + bucketMs(bucket)),
});

const isChosen = ({ since, until }) => filters.since === since && filters.until === until;

function chooseBucket(ts) {
  const range = bucketRange(ts);
  setFilters(isChosen(range) ? { since: '', until: '' } : range);
}

function markPressed() {
  for (const button of senders.querySelectorAll('button')) {
    const isPressed = button.dataset.key === filters.from;
    button.setAttribute('aria-pressed', String(isPressed));
  }
  for (const bar of chart.querySelectorAll('g')) {
    bar.setAttribute('aria-pressed', String(isChosen(bucketRange(bar.dataset.key))));
  }
  for (const chip of document.querySelectorAll('[data-since]')) {
    const isPressed = filters.since === chip.getAttribute('data-since') && !filters.until;
    chip.setAttribute('aria-pressed', String(isPressed));
  }
  byId('of-all').hidden = !isFiltered();
}

function chooseChart(button) {
  bucket = button.dataset.bucket;
  for (const other of document.querySelectorAll('[data-bucket]')) {
    other.setAttribute('aria-pressed', String(other === button));
  }
  refreshStats(true);
}

// ---- The last message by arrival: a wrong clock of a sender does not matter

function showLastStored(createdAt = lastStored) {
  if (!createdAt || createdAt < lastStored) return;
  lastStored = createdAt;
  byId('last-stored').textContent = age(Date.parse(lastStored));
  byId('last-stored').title = exactTime(lastStored);
}

// ---- An empty inbox: how to send the first message

let emptyFor = null;

function renderEmpty() {
  const wanted = isFiltered() ? describe(wantedParameters()) : 'first';
  if (emptyFor === wanted && byId('empty').hasChildNodes()) return;
  emptyFor = wanted;
  const place = byId('empty');
  if (isFiltered()) {
    const clear = make('button', { type: 'button', class: 'plain' }, 'Clear filters');
    clear.addEventListener('click', clearFilters);
    place.replaceChildren(make('strong', {}, `No messages match ${wanted}`), clear);
  } else {
    place.replaceChildren(...firstMessage());
    showProviders(place);
  }
}

function firstMessage() {
  const url = address('/webhook').href;
  const command = signedCurl(url, JSON.stringify(sample()));
  return [
    make('strong', { role: 'status' }, 'Waiting for the first message…'),
    make('p', {}, 'Give your provider this URL, and the secret that this server has:'),
    make(
      'p',
      { class: 'copy' },
      make('code', { class: 'code' }, url),
      copyButton('Copy', () => url),
    ),
    make('p', {}, 'Or send a signed message from a shell that has WEBHOOK_SECRET:'),
    make('pre', { class: 'code', tabindex: '0', role: 'group', 'aria-label': 'Command' }, command),
    make(
      'p',
      { class: 'copy' },
      copyButton('Copy the command', () => command),
    ),
    make('p', {}, make('a', { href: '/docs' }, 'The API docs'), ' can sign and send it, too.'),
  ];
}

const PROVIDERS = { whatsapp: 'WhatsApp', twilio: 'Twilio', standard: 'Standard Webhooks' };

// A provider's path answers 404 unless the operator has switched it on.
async function showProviders(place) {
  const { body } = await ask(address('/openapi.json')).catch(() => ({ body: { paths: {} } }));
  const paths = Object.keys(body.paths).filter((path) => path.startsWith('/webhook/'));
  for (const path of paths) {
    const response = await fetch(address(path), { method: 'HEAD', headers: HEADERS }).catch(
      () => null,
    );
    if (!response || response.status === 404) continue;
    const url = address(path).href;
    const name = path.slice('/webhook/'.length);
    place.append(
      make(
        'p',
        { class: 'copy' },
        `${PROVIDERS[name] ?? name}: `,
        make('code', { class: 'code' }, url),
        copyButton('Copy', () => url),
      ),
    );
  }
}
