// ---- Time: shown in UTC or in the reader's zone, written in many ways

const SECOND_MS = 1000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const TIME_HINT = 'Use YYYY-MM-DD or YYYY-MM-DD HH:MM';

let isLocal = stored('zone') === 'local';

// All of one length, so that instants compare as texts: .5 is .500000000.
const instant = (ts) => `${ts.slice(0, 19)}.${ts.slice(20, -1).padEnd(9, '0')}`;

const milliseconds = (ts) => Date.parse(`${ts.slice(0, 19)}Z`);

/** Of a moment in milliseconds, what a clock and a calendar of the chosen zone show. */
function parts(moment) {
  const date = new Date(isLocal ? moment - new Date(moment).getTimezoneOffset() * 60_000 : moment);
  const text = date.toISOString();
  const at = text.indexOf('T');
  return { day: text.slice(0, at), time: text.slice(at + 1, at + 9) };
}

const clock = (moment) => parts(moment).time.slice(0, 5);

function dayName(day) {
  const today = parts(Date.now()).day;
  if (day === today) return 'Today';
  if (day === parts(Date.now() - DAY_MS).day) return 'Yesterday';
  const weekday = new Date(`${day}T00:00:00Z`);
  const name = weekday.toLocaleDateString('en', { weekday: 'long', timeZone: 'UTC' });
  return `${name}, ${day}${day > today ? ' (in the future)' : ''}`;
}

const zoneName = () => (isLocal ? 'local time' : 'UTC');

function exactTime(ts) {
  const { day, time } = parts(milliseconds(ts));
  return `${day} ${time} (${zoneName()})`;
}

/** @type {[number, string, number][]} */
const AGES = [
  [60_000, 'second', SECOND_MS],
  [HOUR_MS, 'minute', 60_000],
  [DAY_MS, 'hour', HOUR_MS],
  [60 * DAY_MS, 'day', DAY_MS],
  [Number.POSITIVE_INFINITY, 'year', 365.25 * DAY_MS],
];
const ages = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

function age(moment) {
  const elapsed = Date.now() - moment;
  const [, unit, size] = AGES.find(([limit]) => Math.abs(elapsed) < limit);
  if (unit === 'second') return elapsed < 0 ? 'soon' : 'just now';
  return ages.format(-Math.trunc(elapsed / size), /** @type {any} */ (unit));
}

/** What a row shows: minutes in the first hour, then the time of day. */
function rowTime(moment) {
  const minutes = Math.floor((Date.now() - moment) / 60_000);
  if (minutes < 0 || minutes >= 60) return parts(moment).time;
  return minutes === 0 ? 'now' : `${minutes} min`;
}

const UNITS = { m: 60_000, h: HOUR_MS, d: DAY_MS, w: 7 * DAY_MS };
const SPAN = /^(?:last\s+)?(\d{1,4})?\s*(m|min|mins|minutes?|h|hours?|d|days?|w|weeks?)(\s+ago)?$/i;
const MOMENT =
  /^(\d{4}-\d\d-\d\d)?(?:[T ]?(\d\d:\d\d)(?::(\d\d)(\.\d{1,9})?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?$/i;

const isRelative = (written) =>
  /^(now|today|yesterday)$/i.test(written.trim()) || SPAN.test(written.trim());

/** What people write as a time, as the API takes it; '' for nothing, null for no time. */
function readTime(written) {
  const text = written.trim();
  if (!text) return '';
  const now = Date.now();
  if (/^now$/i.test(text)) return isoSeconds(now);
  if (/^today$/i.test(text)) return startOfDay(now);
  if (/^yesterday$/i.test(text)) return startOfDay(now - DAY_MS);
  const span = SPAN.exec(text);
  if (span && (span[1] || /^last/i.test(text))) {
    return isoSeconds(now - Number(span[1] ?? 1) * UNITS[span[2][0].toLowerCase()]);
  }
  return readMoment(text);
}

const startOfDay = (moment) => readMoment(parts(moment).day);

function readMoment(text) {
  const found = MOMENT.exec(text);
  if (!found?.[1] && !found?.[2]) return null;
  const [, day = parts(Date.now()).day, time = '00:00', seconds = '00', fraction = '', zone] =
    found;
  const whole = `${day}T${time}:${seconds}`;
  const asUtc = Date.parse(`${whole}Z`);
  // February 30 is read as March 2.
  if (Number.isNaN(asUtc) || isoSeconds(asUtc) !== `${whole}Z` || whole < '0001') return null;
  const moment = asUtc - offsetMs(asUtc, zone);
  if (Number.isNaN(moment)) return null;
  const iso = isoSeconds(moment);
  return /^\d{4}-/.test(iso) && iso > '0001' ? `${iso.slice(0, 19)}${fraction}Z` : null;
}

function offsetMs(asUtc, zone) {
  if (zone && /^[+-]/.test(zone)) {
    const [hours, minutes] = [Number(zone.slice(1, 3)), Number(zone.slice(-2))];
    if (hours > 14 || minutes > 59) return Number.NaN;
    return (zone[0] === '-' ? -1 : 1) * (hours * HOUR_MS + minutes * 60_000);
  }
  if (zone || !isLocal) return 0;
  const local = new Date(asUtc);
  const guess = asUtc + local.getTimezoneOffset() * 60_000;
  return -new Date(guess).getTimezoneOffset() * 60_000;
}

function justAfter(ts) {
  const nanoseconds = Number(instant(ts).slice(20)) + 1;
  if (nanoseconds < 1e9) return `${ts.slice(0, 19)}.${String(nanoseconds).padStart(9, '0')}Z`;
  return isoSeconds(milliseconds(ts) + SECOND_MS);
}
