// ---- Keys: one tab stop for the rows, one for the bars; arrows move inside

const HEALTH_MS = 15_000;
const STATS_MS = 60_000;
const MINUTE_MS = 30_000;

function keepOneTabStop() {
  if (!list.querySelector('.row[tabindex="0"]')) {
    list.querySelector('.row')?.setAttribute('tabindex', '0');
  }
}

function moveTabStop(container, element) {
  for (const other of container.querySelectorAll('[tabindex="0"]')) {
    other.setAttribute('tabindex', '-1');
  }
  element.setAttribute('tabindex', '0');
}

const hasModifier = (event) => event.ctrlKey || event.metaKey || event.altKey;

function arrowKeys(container, selector, back, forth) {
  container.addEventListener('focusin', (event) => {
    const item = event.target.closest(selector);
    if (item) moveTabStop(container, item);
  });
  container.addEventListener('keydown', (event) => {
    const items = [...container.querySelectorAll(selector)];
    const at = items.indexOf(event.target.closest(selector));
    const to = { [back]: at - 1, [forth]: at + 1, Home: 0, End: items.length - 1 }[event.key];
    if (at < 0 || to === undefined || hasModifier(event)) return;
    event.preventDefault();
    items[Math.min(Math.max(to, 0), items.length - 1)].focus();
  });
}

function globalKey(event) {
  if (hasModifier(event)) return;
  const isTyping = event.target.closest('input, textarea');
  if (openedId && event.key === 'Escape') {
    event.preventDefault();
    closeDetail();
  } else if (openedId && !isTyping && event.key === 'ArrowLeft') {
    if (!event.target.closest('#chart')) stepDetail(-1);
  } else if (openedId && !isTyping && event.key === 'ArrowRight') {
    if (!event.target.closest('#chart')) stepDetail(1);
  } else if (event.key === '/' && !isTyping && !detail.matches(':modal')) {
    event.preventDefault();
    field.q.focus();
    field.q.select();
  }
}

// ---- Start

function becameVisible() {
  if (document.hidden) return;
  wake();
  checkHealth();
}

function fitOverview(query) {
  byId('overview').open = !query.matches;
}

function chooseZone(button) {
  isLocal = button.dataset.zone === 'local';
  store('zone', button.dataset.zone);
  showZone();
  writeFields(filters);
  showTimeSummary();
  shown = new Map();
  list.replaceChildren();
  render();
}

function showZone() {
  for (const button of document.querySelectorAll('[data-zone]')) {
    const isChosenZone = (button.getAttribute('data-zone') === 'local') === isLocal;
    button.setAttribute('aria-pressed', String(isChosenZone));
  }
  for (const element of document.querySelectorAll('.zone')) element.textContent = zoneName();
}

function listenToFilters() {
  const form = byId('filters');
  form.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(applyFields, TYPING_MS, false);
  });
  form.addEventListener('change', () => applyFields(true));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    applyFields(true);
  });
  form.addEventListener('click', (event) => {
    const since = event.target.dataset?.since;
    if (since) setFilters({ since: filters.since === since ? '' : since, until: '' });
  });
  field.q.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowDown') return;
    event.preventDefault();
    focusList();
  });
  byId('clear').addEventListener('click', clearFilters);
  byId('more-filters').addEventListener('click', () => {
    const isOpen = form.classList.toggle('open');
    byId('more-filters').setAttribute('aria-expanded', String(isOpen));
  });
  document.addEventListener('click', (event) => {
    if (!byId('time').contains(event.target)) byId('time').open = false;
  });
  byId('time').addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !byId('time').open) return;
    event.stopPropagation();
    byId('time').open = false;
    byId('time-summary').focus();
  });
}

function listenToList() {
  list.addEventListener('click', (event) => {
    const element = event.target.closest('[data-id]');
    // A number that is selected to be copied is not to be opened.
    if (element && (event.detail === 0 || getSelection().isCollapsed)) {
      openDetail(element.dataset.id);
    }
  });
  list.addEventListener('focusin', (event) => {
    const id = event.target.closest('[data-id]')?.dataset.id;
    if (id && openedId && id !== openedId && isWide.matches) openDetail(id, { isStep: true });
  });
  list.addEventListener('pointerenter', (event) => {
    isPointed = event.pointerType === 'mouse';
  });
  list.addEventListener('pointerleave', () => {
    isPointed = false;
    setTimeout(releaseIfFree, 300);
  });
  list.addEventListener('focusout', () => setTimeout(releaseIfFree, 300));
  arrowKeys(list, '.row', 'ArrowUp', 'ArrowDown');
  byId('new').addEventListener('click', showNew);
  byId('late').addEventListener('click', showLateMessages);
  byId('older').addEventListener('click', showOlder);
  byId('newest').addEventListener('click', backToNewest);
  byId('retry').addEventListener('click', () => {
    retryFeed();
    loadList();
  });
  byId('read-all').addEventListener('click', () => {
    markRead([...unread]);
    focusList();
  });
  for (const button of document.querySelectorAll('[data-order]')) {
    button.addEventListener('click', () => chooseOrder(button.getAttribute('data-order')));
  }
}

function listenToOverview() {
  for (const button of document.querySelectorAll('[data-bucket]')) {
    button.addEventListener('click', () => chooseChart(button));
  }
  chart.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    chooseBucket(event.target.dataset.key);
  });
  // Chromium makes an svg that listens to the focus a tab stop of its own.
  arrowKeys(byId('chart-frame'), 'g', 'ArrowLeft', 'ArrowRight');
  for (const button of document.querySelectorAll('[data-zone]')) {
    button.addEventListener('click', () => chooseZone(button));
  }
}

function listenToDetail() {
  byId('detail-close').addEventListener('click', () => closeDetail());
  byId('detail-newer').addEventListener('click', () => stepDetail(-1));
  byId('detail-older').addEventListener('click', () => stepDetail(1));
  byId('detail-copy').addEventListener('click', (event) => copyDetail(event, contract(opened)));
  byId('detail-link').addEventListener('click', (event) =>
    copyDetail(event, address('/', { m: openedId }).href),
  );
  byId('detail-sender').addEventListener('click', () => {
    const { from } = opened;
    if (!isWide.matches) closeDetail();
    // The address is that of the list again only after this.
    setTimeout(setFilters, 50, { from });
  });
  detail.addEventListener('click', (event) => {
    if (event.target === detail) closeDetail();
  });
  // Esc in the sheet.
  detail.addEventListener('cancel', (event) => {
    event.preventDefault();
    closeDetail();
  });
  isWide.addEventListener('change', fitDetail);
}

function readHistory() {
  const wanted = readAddress();
  if (FILTERS.some((name) => wanted[name] !== filters[name])) showFilters(wanted);
  openFromAddress();
}

function listenToWindow() {
  const narrow = matchMedia('(max-width: 1000px)');
  narrow.addEventListener('change', fitOverview);
  fitOverview(narrow);
  addEventListener('popstate', readHistory);
  addEventListener('keydown', globalKey);
  addEventListener('online', () => retryFeed());
  addEventListener('offline', () => lost());
  addEventListener('scroll', releaseIfFree, { passive: true });
  document.addEventListener('visibilitychange', becameVisible);
  byId('token-form').addEventListener('submit', takeToken);
  byId('sign-out').addEventListener('click', signOut);
}

function whileVisible(work, milliseconds) {
  setInterval(() => {
    if (!document.hidden) work();
  }, milliseconds);
}

listenToFilters();
listenToList();
listenToOverview();
listenToDetail();
listenToWindow();
showZone();
showOrder();
keepUnread();
byId('sign-out').hidden = !stored('signedIn');
adoptFilters(readAddress());
checkHealth();
whileVisible(checkHealth, HEALTH_MS);
whileVisible(refreshStats, STATS_MS);
whileVisible(() => {
  showTimes();
  showLastStored();
}, MINUTE_MS);
follow();
openFromAddress();
