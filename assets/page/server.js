// ---- Asking the server, and signing in

const SUPERSEDED = new Error('superseded');

class Refusal extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** @returns {any} */
function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null; // Storage is forbidden, or has another text.
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is forbidden or full: the value lives as long as the page.
  }
}

/** @param {any} options */
async function request(url, options = {}) {
  const { signal, seconds = 20, method = 'GET', headers = {} } = options;
  const abort = new AbortController();
  const cancel = () => abort.abort(SUPERSEDED);
  if (signal?.aborted) throw SUPERSEDED;
  signal?.addEventListener('abort', cancel);
  const timer = setTimeout(() => abort.abort(new Error('no response in time')), seconds * 1000);
  try {
    const response = await fetch(url, {
      method,
      headers: { ...HEADERS, ...headers },
      credentials: 'same-origin',
      cache: 'no-store',
      signal: abort.signal,
    });
    if (!response.ok) throw await refusal(response);
    const body = await response.json();
    return { body, next: nextPage(response.headers.get('Link')) };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
  }
}

async function ask(url, options = {}) {
  const round = signInRound;
  try {
    const answer = await request(url, options);
    heard();
    return answer;
  } catch (error) {
    // A response to what was sent before the last sign-in is no news.
    if (error.status === 401 && round === signInRound) askForToken();
    throw error;
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const said = Array.isArray(body.detail)
    ? body.detail.map((problem) => `${problem.loc?.at(-1)}: ${problem.msg}`).join('; ')
    : body.detail;
  const message = String(said || `the server answered ${response.status}`);
  return new Refusal(response.status, message, Number(response.headers.get('Retry-After')) || 0);
}

function nextPage(link) {
  const target = /<([^>]*)>\s*;\s*rel="?next"?/.exec(link || '')?.[1];
  return target ? new URL(target, location.origin) : null;
}

// ---- One status: whether what is shown is current, and since when it is not

let heardAt = 0;
let isAway = false;
let notReady = '';

/** The server has answered: what is shown can be brought up to date. */
function heard() {
  heardAt = Date.now();
  if (isAway) {
    isAway = false;
    cameBack();
  }
  showStatus();
}

function lost() {
  isAway = true;
  showStatus();
}

function showStatus() {
  const [level, words] = currentStatus();
  const element = byId('live');
  element.dataset.level = level;
  if (element.firstElementChild.textContent !== words) {
    element.firstElementChild.textContent = words;
  }
  document.body.toggleAttribute('data-stale', isAway || Boolean(tokenGiven));
}

function currentStatus() {
  if (tokenGiven) return ['warn', 'Sign in'];
  if (isAway) {
    const since = heardAt ? `, showing messages from ${clock(heardAt)}` : '';
    return ['warn', `Reconnecting${since}`];
  }
  if (!heardAt) return ['', 'Connecting'];
  return notReady ? ['bad', `Not storing: ${notReady}`] : ['good', 'Live'];
}

async function checkHealth() {
  try {
    const signal = AbortSignal.timeout(8_000);
    const response = await fetch(address('/health/ready'), { cache: 'no-store', signal });
    const body = await response.json();
    notReady = response.ok ? '' : String(body.detail ?? response.status);
    showStatus();
  } catch {
    // The feed may be waiting on a connection that leads nowhere.
    lost();
    retryFeed();
  }
}

// ---- Signing in: the token is sent once, for a session that the browser keeps in a cookie

let tokenGiven = null;
let signInRound = 0;

function askForToken() {
  if (tokenGiven) return;
  tokenGiven = {};
  tokenGiven.promise = new Promise((resolve) => {
    tokenGiven.resolve = resolve;
  });
  byId('token-form').hidden = false;
  document.body.setAttribute('data-locked', '');
  byId('sign-out').hidden = true;
  closeDetail({ isKeptInUrl: true });
  renderEnds();
  showStatus();
  byId('token').focus();
}

function sayToken(words) {
  byId('token-problem').textContent = words;
  byId('token').setAttribute('aria-invalid', String(Boolean(words)));
  if (words) byId('token').select();
}

async function takeToken(event) {
  event.preventDefault();
  const token = byId('token').value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    sayToken('A token has no spaces and only ASCII characters.');
    return;
  }
  try {
    const headers = { Authorization: `Bearer ${token}` };
    await request(address('/session'), { method: 'POST', headers });
  } catch (error) {
    sayToken(
      error.status === 401
        ? "That token isn't valid. Check READ_TOKEN and try again."
        : `Signing in failed: ${error.message}. Try again.`,
    );
    return;
  }
  try {
    await request(address('/feed', { after: 'latest' }));
  } catch (error) {
    if (error.status === 401) {
      sayToken('The browser did not keep the session. Allow cookies for this page, and try again.');
      return;
    }
  }
  byId('token').value = '';
  sayToken('');
  signedIn();
}

function signedIn() {
  signInRound += 1;
  byId('token-form').hidden = true;
  document.body.removeAttribute('data-locked');
  byId('sign-out').hidden = false;
  store('signedIn', true);
  const next = new URLSearchParams(location.search).get('next');
  if (next === '/docs') {
    location.replace(next + location.hash);
    return;
  }
  const { resolve } = tokenGiven;
  tokenGiven = null;
  resolve();
  heard();
  loadList();
  refreshStats(true);
  openFromAddress();
  byId('q').focus();
}

async function signOut() {
  await request(address('/session'), { method: 'DELETE' }).catch(() => {});
  store('signedIn', false);
  location.reload();
}
