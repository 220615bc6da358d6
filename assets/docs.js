// The description of the API, from /openapi.json, with a form to try each operation.

const READ_CHARACTERS_MAX = 2 << 20;
const SHOWN_CHARACTERS_MAX = 200_000;
const HEADERS_SHOWN = [
  'Content-Type',
  'Content-Length',
  'Content-Disposition',
  'Link',
  'Retry-After',
  'WWW-Authenticate',
  'Allow',
  'X-Request-ID',
];
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const withToken = byId('with-token');
/** @type {any} */
let api;

// The only markup that the document's descriptions use: paragraphs and `code`.
function inline(text) {
  const parts = (text ?? '').split('`');
  return parts.map((part, index) => (index % 2 ? make('code', {}, part) : part));
}

function paragraphs(text) {
  return (text ?? '').split('\n\n').map((part) => make('p', {}, ...inline(part)));
}

/* The document */

function resolve(node) {
  let found = node ?? {};
  while (found.$ref) {
    const { $ref, ...own } = found;
    found = {
      ...$ref
        .slice(2)
        .split('/')
        .reduce((place, name) => place[name], api),
      ...own,
    };
  }
  if (found.allOf) {
    const parts = found.allOf.map(resolve);
    found = {
      ...found,
      type: 'object',
      properties: Object.assign({}, ...parts.map((part) => part.properties)),
      required: parts.flatMap((part) => part.required ?? []),
    };
  }
  return found.anyOf ? { ...resolve(found.anyOf[0]), ...found } : found;
}

function typeOf(schema) {
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.type === 'array') return `array of ${typeOf(resolve(schema.items))}`;
  return [schema.type ?? 'any'].flat().join(' or ');
}

function rulesOf(schema) {
  const { minimum, maximum, minLength, maxLength, maxItems } = schema;
  const rules = [];
  if (schema.enum) rules.push(schema.enum.join(' or '));
  if (minimum !== undefined && maximum < Number.MAX_SAFE_INTEGER)
    rules.push(`${minimum} to ${maximum}`);
  else if (minimum !== undefined) rules.push(`at least ${minimum}`);
  if (minLength !== undefined)
    rules.push(minLength === 1 ? 'not empty' : `at least ${minLength} characters`);
  if (maxLength !== undefined) rules.push(`at most ${maxLength} characters`);
  if (maxItems !== undefined) rules.push(`at most ${maxItems}`);
  if (schema.type !== 'integer' && schema.format) rules.push(schema.format);
  else if (schema.pattern) rules.push(schema.pattern);
  if (schema.default !== undefined) rules.push(`default ${schema.default}`);
  return rules.join(', ');
}

// Flat, with paths as names: nested tables would not fit a phone.
function fieldsOf(schema, path) {
  if (schema.type === 'array') return fieldsOf(resolve(schema.items), `${path}[]`);
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const found = resolve(property);
    const here = path ? `${path}.${name}` : name;
    const isRequired = schema.required?.includes(name) ?? false;
    return [{ name: here, schema: found, isRequired }, ...fieldsOf(found, here)];
  });
}

function fieldTable(schema) {
  const fields = fieldsOf(schema, '');
  if (fields.length === 0) return undefined;
  return make(
    'table',
    { class: 'fields' },
    make(
      'thead',
      {},
      make(
        'tr',
        {},
        make('th', { scope: 'col' }, 'Field'),
        make('th', { scope: 'col' }, 'Meaning'),
      ),
    ),
    make(
      'tbody',
      {},
      ...fields.map((field) =>
        make(
          'tr',
          {},
          make(
            'th',
            { scope: 'row' },
            make('code', {}, field.name),
            make('small', {}, `${typeOf(field.schema)}${field.isRequired ? '' : ', optional'}`),
          ),
          make(
            'td',
            {},
            ...inline(field.schema.description),
            make('small', {}, rulesOf(field.schema)),
          ),
        ),
      ),
    ),
  );
}

function exampleText(example) {
  return typeof example === 'string' ? example : JSON.stringify(example, null, 2);
}

function contentParts(content) {
  return Object.entries(content ?? {}).flatMap(([type, media]) => {
    const schema = resolve(media.schema);
    return [
      make(
        'p',
        { class: 'faint' },
        make('code', {}, type),
        schema.description ? ': ' : '',
        ...inline(schema.description),
      ),
      fieldTable(schema),
      media.example === undefined
        ? undefined
        : codeBlock('Example', exampleText(media.example), type),
    ];
  });
}

function codeBlock(label, text, type) {
  const isJson = type?.startsWith('application/json');
  const attributes = { class: 'code', tabindex: '0', role: 'group', 'aria-label': label };
  return make('pre', attributes, ...(isJson ? colours(text) : [text]));
}

function statusClass(status) {
  return `status ${status < 300 ? 'good' : status < 500 ? 'warn' : 'bad'}`;
}

function responseDetails([status, reference]) {
  const response = resolve(reference);
  const headers = Object.entries(response.headers ?? {}).map(([name, header]) =>
    make('li', {}, make('code', {}, name), ' ', ...inline(resolve(header).description)),
  );
  return make(
    'details',
    { open: status === '200' },
    make(
      'summary',
      {},
      make('span', { class: statusClass(Number(status)) }, status),
      ' ',
      ...inline(response.description),
    ),
    ...contentParts(response.content),
    headers.length ? make('p', { class: 'faint' }, 'Headers') : undefined,
    headers.length ? make('ul', {}, ...headers) : undefined,
  );
}

/* Trying a call */

function parameterRow(parameter, identifier) {
  const schema = resolve(parameter.schema);
  const attributes = { id: identifier, name: parameter.name, 'data-in': parameter.in };
  let field;
  if (schema.enum) {
    field = make(
      'select',
      attributes,
      make('option', { value: '' }, `default (${schema.default})`),
      ...schema.enum.map((value) => make('option', { value }, value)),
    );
  } else {
    const isSigned = parameter.name === 'X-Signature';
    const example = parameter.example && `e.g. ${parameter.example}`;
    field = make('input', {
      ...attributes,
      type: 'text',
      autocomplete: 'off',
      autocapitalize: 'none',
      spellcheck: 'false',
      inputmode: schema.type === 'integer' ? 'numeric' : undefined,
      placeholder: isSigned
        ? 'from the secret'
        : schema.default !== undefined
          ? `default ${schema.default}`
          : example,
    });
  }
  return make(
    'tr',
    {},
    make(
      'th',
      { scope: 'row' },
      make('label', { for: identifier, class: 'monospace' }, parameter.name),
      make(
        'small',
        {},
        `${typeOf(schema)}, ${parameter.in}${parameter.required ? ', required' : ''}`,
      ),
    ),
    make('td', {}, ...inline(parameter.description), make('small', {}, rulesOf(schema))),
    make('td', { class: 'value' }, field),
  );
}

function parameterTable(parameters, operationId) {
  return make(
    'table',
    {},
    make(
      'thead',
      {},
      make(
        'tr',
        {},
        ...['Parameter', 'Meaning', 'Value'].map((name) => make('th', { scope: 'col' }, name)),
      ),
    ),
    make(
      'tbody',
      {},
      ...parameters.map((parameter) => parameterRow(parameter, `${operationId}-${parameter.name}`)),
    ),
  );
}

/** What a message must have of its own: its id, and the time. */
function fresh(example) {
  const own = sample();
  return Object.fromEntries(
    ['message_id', 'ts'].filter((name) => name in (example ?? {})).map((name) => [name, own[name]]),
  );
}

function bodyFields(requestBody, operationId) {
  const [media] = Object.values(requestBody.content);
  const body = make('textarea', {
    id: `${operationId}-body`,
    name: 'body',
    spellcheck: 'false',
    autocapitalize: 'none',
  });
  const renew = () => {
    body.value = exampleText({ ...media.example, ...fresh(media.example) });
  };
  renew();
  const renewButton = make('button', { type: 'button', class: 'plain' }, 'New id, sent now');
  renewButton.addEventListener('click', () => {
    renew();
    body.dispatchEvent(new Event('input', { bubbles: true }));
  });
  const secret = make('input', {
    id: `${operationId}-secret`,
    name: 'secret',
    type: 'password',
    autocomplete: 'off',
  });
  const canSign = globalThis.crypto?.subtle !== undefined;
  secret.disabled = !canSign;
  const note = canSign
    ? 'Your browser signs the body with the secret when you send. The secret is not sent and not kept.'
    : 'Browsers sign only on pages from https: or localhost. Run the command below instead, or paste a signature above.';
  return make(
    'div',
    {},
    make(
      'div',
      { class: 'fieldset' },
      make('label', { for: body.id }, 'Body'),
      body,
      make('div', {}, renewButton),
    ),
    make(
      'div',
      { class: 'fieldset' },
      make('label', { for: secret.id }, 'WEBHOOK_SECRET'),
      secret,
      make('small', { class: 'faint' }, note),
    ),
  );
}

async function signature(secret, bytes) {
  const encoded = new TextEncoder().encode(secret);
  const key = await crypto.subtle.importKey(
    'raw',
    encoded,
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['sign'],
  );
  const signed = await crypto.subtle.sign('HMAC', key, bytes);
  return Array.from(new Uint8Array(signed), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

// What the form says, without what is empty: an empty parameter is the same as none.
function requestOf(operation, form) {
  const query = [];
  const headers = {};
  let { path } = operation;
  for (const field of form.querySelectorAll('[data-in]')) {
    if (field.value === '') continue;
    if (field.dataset.in === 'header') headers[field.name] = field.value;
    else if (field.dataset.in === 'path')
      path = path.replace(`{${field.name}}`, encodeURIComponent(field.value));
    else query.push(`${encodeURIComponent(field.name)}=${encodeURIComponent(field.value)}`);
  }
  const target = query.length ? `${path}?${query.join('&')}` : path;
  return {
    method: operation.method.toUpperCase(),
    target,
    headers,
    body: form.elements.body?.value,
    secret: form.elements.secret?.value,
  };
}

function command(operation, form) {
  const { target, headers, body } = requestOf(operation, form);
  const lines = [];
  const verb =
    operation.method === 'delete'
      ? ' -X DELETE'
      : operation.method === 'post' && body === undefined
        ? ' -X POST'
        : '';
  const words = [
    `curl${operation.isStreamed ? '' : ' -i'}${verb} ${quoted(location.origin + target)}`,
  ];
  if (withToken.checked && operation.isProtected)
    words.push('-H "Authorization: Bearer $READ_TOKEN"');
  for (const [name, value] of Object.entries(headers))
    words.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) {
    lines.push(`BODY=${quoted(body)}`);
    if (!headers['X-Signature']) {
      lines.push(
        `SIGNATURE=$(printf %s "$BODY" | openssl dgst -sha256 -hmac "$WEBHOOK_SECRET" | sed 's/^.* //')`,
      );
      words.push('-H "X-Signature: $SIGNATURE"');
    }
    words.push("-H 'Content-Type: application/json'", '--data-raw "$BODY"');
  }
  lines.push(words.join(' \\\n  '));
  return lines.join('\n');
}

// An export can be larger than a browser's memory, so reading stops where showing does.
async function readStart(response) {
  const decoder = new TextDecoder();
  let text = '';
  if (!response.body) return text;
  const reader = response.body.getReader();
  while (text.length < READ_CHARACTERS_MAX) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    text += decoder.decode(value, { stream: true });
  }
  await reader.cancel();
  return text;
}

function pretty(text, type) {
  if (!type?.startsWith('application/json')) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send(operation, form, answer, signal) {
  const { method, target, headers, body, secret } = requestOf(operation, form);
  const status = make('p', { role: 'status' });
  answer.replaceChildren(status);
  status.textContent = 'Sending…';
  const started = performance.now();
  try {
    const bytes = body === undefined ? undefined : new TextEncoder().encode(body);
    if (bytes) {
      headers['Content-Type'] = 'application/json';
      if (secret && !headers['X-Signature'])
        headers['X-Signature'] = await signature(secret, bytes);
    }
    const response = await fetch(address(target), {
      method,
      headers: { ...HEADERS, ...headers },
      body: bytes,
      signal,
      cache: 'no-store',
    });
    status.replaceChildren(
      make(
        'span',
        { class: statusClass(response.status) },
        `${response.status} ${response.statusText}`,
      ),
      make('span', { class: 'faint' }, ` after ${Math.round(performance.now() - started)} ms`),
    );
    const shown = HEADERS_SHOWN.filter((name) => response.headers.has(name));
    answer.append(
      make(
        'dl',
        {},
        ...shown.flatMap((name) => [
          make('dt', { class: 'faint' }, name),
          make('dd', { class: 'monospace' }, response.headers.get(name)),
        ]),
      ),
    );
    const text = pretty(await readStart(response), response.headers.get('Content-Type'));
    const shownText = text.slice(0, SHOWN_CHARACTERS_MAX);
    answer.append(
      codeBlock('Body of the response', shownText, response.headers.get('Content-Type')),
    );
    answer.append(copyButton('Copy the response', () => text));
    if (response.status === 401 && operation.isProtected) {
      answer.append(
        make(
          'p',
          {},
          make('a', { href: `/?next=/docs#${operation.operationId}` }, 'Sign in to this inbox'),
          ' to send requests that need a read token.',
        ),
      );
    }
    if (text.length > SHOWN_CHARACTERS_MAX)
      answer.append(
        make(
          'p',
          { class: 'faint' },
          'The response is longer than this page shows. The command shows all of it.',
        ),
      );
  } catch (error) {
    status.replaceChildren(
      signal.aborted ? 'Stopped.' : make('span', { class: 'bad' }, `No response: ${error.message}`),
    );
  }
}

function tryForm(operation) {
  const sendButton = make('button', { type: 'submit', class: 'plain strong send' }, 'Send');
  const curl = make('pre', {
    class: 'code command',
    tabindex: '0',
    role: 'group',
    'aria-label': 'The same call as a command',
  });
  const answer = make('div', { class: 'answer' });
  const form = make(
    'form',
    { autocomplete: 'off', novalidate: true },
    operation.parameters.length
      ? parameterTable(operation.parameters, operation.operationId)
      : undefined,
    operation.requestBody ? bodyFields(operation.requestBody, operation.operationId) : undefined,
    operation.requestBody && operation.isDelivery
      ? make(
          'p',
          { class: 'warn' },
          'Send stores a message for good: it cannot be deleted on this page.',
        )
      : undefined,
    make(
      'div',
      { class: 'actions' },
      sendButton,
      copyButton('Copy the command', () => curl.textContent),
    ),
    curl,
    answer,
  );
  const showCommand = () => (curl.textContent = command(operation, form));
  let running;
  form.addEventListener('input', showCommand);
  withToken.addEventListener('change', showCommand);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    sendButton.textContent = 'Stop';
    await send(operation, form, answer, running.signal);
    running = undefined;
    sendButton.textContent = 'Send';
  });
  showCommand();
  return form;
}

/* The page */

function operationsOf() {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      return {
        ...operation,
        path,
        method,
        parameters: [...(operation.parameters ?? []), ...(item.parameters ?? [])].map(resolve),
        requestBody: operation.requestBody && resolve(operation.requestBody),
        isDelivery: operation.tags.includes('Deliver'),
        isProtected: (operation.security ?? api.security ?? []).length > 0,
        isStreamed: Object.keys(resolve(operation.responses[200]).content ?? {}).every(
          (type) => type !== 'application/json',
        ),
      };
    }),
  );
}

function methodLabel(method) {
  return make('span', { class: `method monospace ${method}` }, method.toUpperCase());
}

/** Its content is made when it is opened for the first time. */
function operationElement(operation) {
  const body = make('div', { class: 'body' });
  const details = make(
    'details',
    {
      class: 'operation card',
      id: operation.operationId,
      'data-operation': `${operation.method.toUpperCase()} ${operation.path}`,
    },
    make(
      'summary',
      {},
      methodLabel(operation.method),
      make('h3', { class: 'monospace' }, operation.path),
      make('span', { class: 'faint' }, operation.summary),
    ),
    body,
  );
  const open = () => {
    if (!body.hasChildNodes()) body.append(...operationBody(operation));
  };
  details.addEventListener('toggle', open);
  details.addEventListener('fill', open);
  return details;
}

function operationBody(operation) {
  const { requestBody } = operation;
  const parts = [
    ...paragraphs(operation.description),
    operation.isProtected ? undefined : make('p', { class: 'faint' }, 'No token needed.'),
    requestBody ? make('h4', {}, 'Body') : undefined,
    requestBody ? make('p', {}, ...inline(requestBody.description)) : undefined,
    requestBody
      ? fieldTable(resolve(/** @type {any} */ (Object.values(requestBody.content)[0]).schema))
      : undefined,
    make('h4', {}, 'Try it'),
    tryForm(operation),
    make('h4', {}, 'Responses'),
    make('div', { class: 'answers' }, ...Object.entries(operation.responses).map(responseDetails)),
  ];
  return parts.filter((part) => part !== undefined);
}

function render() {
  document.title = `${api.info.title} API`;
  byId('version').textContent = api.info.version;
  byId('description').replaceChildren(...paragraphs(api.info.description));
  const operations = operationsOf();
  const contents = byId('contents');
  const place = byId('operations');
  byId('token-choice').hidden = false;
  for (const tag of api.tags) {
    const tagged = operations.filter((operation) => operation.tags.includes(tag.name));
    contents.append(
      make(
        'section',
        {},
        make('h2', {}, tag.name),
        make(
          'ul',
          {},
          ...tagged.map((operation) =>
            make(
              'li',
              { 'data-of': operation.operationId },
              make(
                'a',
                { href: `#${operation.operationId}` },
                methodLabel(operation.method),
                make('span', { class: 'monospace' }, operation.path),
              ),
            ),
          ),
        ),
      ),
    );
    place.append(
      make(
        'section',
        {},
        make('h2', {}, tag.name),
        make('p', { class: 'faint' }, ...inline(tag.description)),
        ...tagged.map(operationElement),
      ),
    );
  }
  byId('filter').addEventListener('input', () => filterOperations(operations));
  addEventListener('hashchange', openFromHash);
  // The browser looked for the address's fragment before there was anything to find.
  openFromHash();
}

function openFromHash() {
  const operation = byId(location.hash.slice(1));
  if (!operation?.matches('.operation')) return;
  operation.open = true;
  operation.scrollIntoView();
}

/** Those whose path, summary, description or parameters have every word. */
function filterOperations(operations) {
  const words = byId('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const operation of operations) {
    const names = operation.parameters.map((parameter) => parameter.name);
    const texts = [
      operation.method,
      operation.path,
      operation.summary,
      operation.description,
      ...names,
    ];
    const text = texts.join(' ').toLowerCase();
    const isShown = words.every((word) => text.includes(word));
    byId(operation.operationId).hidden = !isShown;
    byId('contents').querySelector(`[data-of="${operation.operationId}"]`).hidden = !isShown;
  }
  for (const section of document.querySelectorAll('#operations section, #contents section')) {
    section.toggleAttribute(
      'hidden',
      !section.querySelector('.operation:not([hidden]), li:not([hidden])'),
    );
  }
  byId('none').hidden = Boolean(document.querySelector('.operation:not([hidden])'));
}

async function start() {
  try {
    const response = await fetch(address('/openapi.json'), {
      headers: HEADERS,
      credentials: 'same-origin',
    });
    if (response.status === 401) {
      location.replace(`/?next=/docs${location.hash}`);
      return;
    }
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    api = await response.json();
    render();
  } catch (error) {
    byId('description').replaceChildren(
      make(
        'p',
        { role: 'alert', class: 'bad' },
        `The description could not be shown: ${error.message}`,
      ),
    );
  }
}

start();
