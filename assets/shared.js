// What the two pages share: making elements, copying, JSON in colours, and a message to try.

/** @returns {any} */
const byId = (id) => document.getElementById(id);

// Text only ever becomes text: what the server says is never parsed as markup.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(name, '');
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== ''));
  return element;
}

/** @returns {any} */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** @returns {any} */
function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

// The origin alone: a page opened as http://user:password@host/ may not fetch relative to itself.
function address(path, parameters = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value) url.searchParams.set(name, value);
  }
  return url;
}

// Tells the server that a 401 is for this page to handle, not for the browser's own dialog.
const HEADERS = { 'X-Requested-With': 'mailslot' };

const BLOCKED = 'Copying was blocked. Select the text instead.';

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // There is no clipboard on plain http but from this machine.
    const area = make('textarea', { class: 'sr', 'aria-hidden': 'true' });
    area.value = text;
    button.after(area);
    area.select();
    const isCopied = document.execCommand('copy');
    area.remove();
    button.focus();
    return isCopied;
  }
}

/** A button that copies what `text` returns, and says so. */
function copyButton(words, text, className = 'plain') {
  const button = make('button', { type: 'button', class: className }, words);
  button.addEventListener('click', async () => {
    button.textContent = (await copyText(text(), button)) ? 'Copied' : BLOCKED;
    setTimeout(() => {
      button.textContent = words;
    }, 2000);
  });
  return button;
}

const JSON_TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g;

/** The nodes of a JSON text in colours. */
function colours(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(JSON_TOKEN)) {
    const [token, string, colon] = match;
    const kind = string === undefined ? 'other' : colon === undefined ? 'string' : 'key';
    nodes.push(text.slice(end, match.index));
    nodes.push(make('span', { class: kind }, string ?? token), colon ?? '');
    end = match.index + token.length;
  }
  return [...nodes, text.slice(end)];
}

const isoSeconds = (milliseconds) => `${new Date(milliseconds).toISOString().slice(0, 19)}Z`;

/** A message with an id of its own, sent now. */
function sample() {
  return {
    message_id: `sample-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`,
    from: '+919876543210',
    to: '+14155550100',
    ts: isoSeconds(Date.now()),
    text: 'Hello',
  };
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Lines of shell that sign a body and post it. */
function signedCurl(url, body) {
  return [
    `BODY=${quoted(body)}`,
    'SIGNATURE=$(printf %s "$BODY" | openssl dgst -sha256 -hmac "$WEBHOOK_SECRET" | sed \'s/^.* //\')',
    `curl -i ${quoted(url)} -H "X-Signature: $SIGNATURE" --data-raw "$BODY"`,
  ].join('\n');
}
