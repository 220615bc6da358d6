"""Turns the figures into a table, ratios and verdicts."""
import statistics

FASTAPI_RATIO_MIN = 50
BARE_RATIO_MIN = 0.35
P99_MS_MAX = 20
FOLLOWED_RATIO_MIN = 0.9
# Of the answers that a reader has, the fewest to the most.
FAIR_RATIO_MIN = 0.5
# Of deliveries beside an import, to those alone.
IMPORT_RATE_RATIO_MIN = 0.7
IMPORT_P99_RATIO_MAX = 2
MEMORY_MB_MAX = 40
READY_MS_MAX = 50
STATIC_BYTES_MAX = 6_500_000

NOT_RUN = "not run (BASELINE=1 runs it)"

EXPLANATION = """\
How to read it. All servers ran in turn on this machine, and so did wrk. Each line is a new process
on a new database; the GETs read the database that 64 connections filled. An answered message is on
disk, and after each POST run of mailslot and fastapi the rows were counted. The milliseconds are
wrk's, which corrects them for coordinated omission. cpu us is the server's processor time for a
request, in microseconds: the steadiest column on a busy machine.
tiny_http can leave some of a burst of connections without a thread. Here eight connections occupied
its idle threads before wrk came, for all servers alike, so that none should be left. `stranded`
shows it: connections that went unread for half a second but were served later / never served.
What happens without that care is below, under bursts.
The ts of the messages lie anywhere in a year, the worst that can be sent: each is inserted on pages
of its own. `live` are messages in the order of their ts, as a provider sends them.
`nginx` is mailslot behind nginx, by TLS and packaging/nginx.conf.example; cpu us and peak MB are
mailslot's own, without nginx's. It is left out where nginx or openssl is not installed."""

COLUMNS = (
    ("server", "{server}"),
    ("request", "{method} {request}"),
    ("conns", "{connections}"),
    ("rps", "{rps:.0f}"),
    ("p50 ms", "{p50_ms:.2f}"),
    ("p99 ms", "{p99_ms:.2f}"),
    ("p99.9 ms", "{p999_ms:.2f}"),
    ("max ms", "{max_ms:.1f}"),
    ("cpu us", "{cpu_us:.0f}"),
    ("peak MB", "{peak_memory_mb:.1f}"),
    ("non-2xx", "{non_2xx}"),
    ("sock err", "{socket_errors}"),
    ("stranded", "{rescued}/{left}"),
)
BARE = {"bare": "bare tiny_http", "bare raw": "its raw form"}
SERVERS = ("mailslot", "nginx", "bare", "bare raw", "fastapi")
# What each load of the rounds in turn is called in the lines.
LOADS = {"mailslot": "", "mailslot live": ", live"}


def add_conclusions(result):
    """The ratios and the targets, from the rows."""
    rows = {(row["server"], row["request"], row["connections"]): row for row in result["rows"]}
    mailslot = rows["mailslot", "/webhook", 64]
    turns = result["in_turn"]
    result["ratios"] = {
        "p99_ms": {load: over_turns([each["p99_ms"] for each in turns[load]]) for load in LOADS}}
    for name in BARE:
        result["ratios"][name] = {
            load: over_turns([ours["rps"] / theirs["rps"]
                              for ours, theirs in zip(turns[load], turns[name])])
            for load in LOADS}
        result["ratios"][name]["cpu"] = mailslot["cpu_us"] / rows[name, "/webhook", 64]["cpu_us"]
    for connections in (16, 64):
        if fastapi := rows.get(("fastapi", "/webhook", connections)):
            ours = rows["mailslot", "/webhook", connections]
            result["ratios"][f"fastapi_{connections}"] = ours["rps"] / fastapi["rps"]
    beside, alone = (result["beside"][work] for work in ("import", "nothing"))
    result["ratios"]["import"] = {name: beside[name] / alone[name] for name in ("rps", "p99_ms")}
    result["targets"] = targets(result)


def over_turns(values):
    return {"turns": sorted(values), "median": statistics.median(values)}


def targets(result):
    ratios, size = result["ratios"], result["binary_bytes"]["static"]
    memory = max(row["peak_memory_mb"] for row in result["rows"] if row["server"] == "mailslot")
    ready = result["start_to_ready_ms"]["best"]
    fastapi = ratios.get("fastapi_64")
    return [
        target(f"at least {FASTAPI_RATIO_MIN} times FastAPI", fastapi, "{:.1f}",
               lambda ratio: ratio >= FASTAPI_RATIO_MIN, NOT_RUN),
        *(target(f"at least {BARE_RATIO_MIN} of {form}{also}", ratios[name][load]["median"], "{:.2f}",
                 lambda ratio: ratio >= BARE_RATIO_MIN)
          for load, also in LOADS.items() for name, form in BARE.items()),
        *(target(f"p99 at most {P99_MS_MAX} ms{also}", ratios["p99_ms"][load]["median"], "{:.1f} ms",
                 lambda milliseconds: milliseconds <= P99_MS_MAX) for load, also in LOADS.items()),
        target(f"at least {FOLLOWED_RATIO_MIN} with {result['followed']['readers']} readers",
               result["followed"]["ratio"], "{:.2f}", lambda ratio: ratio >= FOLLOWED_RATIO_MIN),
        target(f"a reader has at least {FAIR_RATIO_MIN} of the answers of another",
               result["followed"]["fair"]["fewest"] / max(result["followed"]["fair"]["most"], 1),
               "{:.2f}", lambda ratio: ratio >= FAIR_RATIO_MIN),
        target(f"at least {IMPORT_RATE_RATIO_MIN} beside an import", ratios["import"]["rps"], "{:.2f}",
               lambda ratio: ratio >= IMPORT_RATE_RATIO_MIN),
        target(f"p99 at most {IMPORT_P99_RATIO_MAX} times beside an import",
               ratios["import"]["p99_ms"], "{:.2f}", lambda ratio: ratio <= IMPORT_P99_RATIO_MAX),
        target(f"peak memory at most {MEMORY_MB_MAX} MB", memory, "{:.1f} MB",
               lambda megabytes: megabytes <= MEMORY_MB_MAX),
        target(f"start to ready at most {READY_MS_MAX} ms", ready, "{:.1f} ms",
               lambda milliseconds: milliseconds <= READY_MS_MAX),
        target(f"static binary at most {STATIC_BYTES_MAX / 1e6} MB", size and size / 1e6,
               "{:.2f} MB", lambda megabytes: megabytes * 1e6 <= STATIC_BYTES_MAX, "not built"),
    ]


def target(name, value, form, met, otherwise=None):
    if value is None:
        return {"target": name, "verdict": "-", "measured": otherwise}
    return {"target": name, "verdict": "PASS" if met(value) else "MISS",
            "measured": form.format(value)}


def text(result):
    parts = [EXPLANATION, machine_lines(result), table(result), ratio_lines(result),
             followed_lines(result), beside_lines(result), burst_lines(result), start_lines(result), target_lines(result)]
    if result["problems"]:
        parts.append("\n".join(f"PROBLEM {problem}" for problem in result["problems"]))
    return "\n\n".join(parts)


def machine_lines(result):
    machine, settings = result["machine"], result["settings"]
    return "\n".join((
        f"machine   {machine['cores']} x {machine['processor']}, Linux {machine['kernel']}, "
        f"load average {machine['load_average']:.1f}",
        f"database  in {machine['database_folder']} on {machine['file_system']}; writing and "
        f"syncing 4 KiB takes {machine['sync_ms']:.2f} ms there",
        f"settings  {settings['seconds_per_run']} s a run, {settings['repeat']} of each (medians), "
        f"wrk with {settings['wrk_threads']} thread(s), bare with {settings['bare_workers']} "
        "workers as mailslot",
        f"messages  {stored_messages(result)} in the database that the GETs read",
    ))


def stored_messages(result):
    """After each POST run at 64 connections; the least and the most, if there were several."""
    counts = sorted(run["stored"] for row in result["rows"] for run in row["runs"]
                    if "stored" in run and (row["server"], row["connections"]) == ("mailslot", 64))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def table(result):
    rows = sorted(result["rows"], key=lambda row: SERVERS.index(row["server"]))
    lines = [[title for title, _ in COLUMNS]]
    for row in rows:
        method = "POST" if row["request"] == "/webhook" else "GET"
        lines.append([form.format(method=method, **row) for _, form in COLUMNS])
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    aligned = [aligned_line(line, widths) for line in lines]
    if not result["settings"]["baseline"]:
        aligned.append(f"{'fastapi':{widths[0]}}  {NOT_RUN}")
    return "\n".join(aligned)


def aligned_line(cells, widths):
    """Names to the left, numbers to the right."""
    return "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                     for column, (cell, width) in enumerate(zip(cells, widths)))


def ratio_lines(result):
    ratios = result["ratios"]
    lines = ["ratios"]
    for name in BARE:
        lines += [entry(f"{load} / {name}, POST at 64", turns_text(ratios[name][load], "{:.2f}"))
                  for load in LOADS]
        lines.append(entry("the first in cpu us", f"{ratios[name]['cpu']:.2f}"))
    for connections in (64, 16):
        ratio = ratios.get(f"fastapi_{connections}")
        lines.append(entry(f"mailslot / fastapi, POST at {connections}",
                           f"{ratio:.1f}" if ratio else NOT_RUN))
    lines += [entry(f"{load} p99 in ms, POST at 64", turns_text(ratios["p99_ms"][load], "{:.1f}"))
              for load in LOADS]
    return "\n".join(lines)


def turns_text(found, form):
    turns = found["turns"]
    return (f"{form.format(found['median'])}  (median of {len(turns)} turns, "
            f"{form.format(turns[0])} to {form.format(turns[-1])})")


def followed_lines(result):
    followed = result["followed"]
    form = ("{answers} answers with {messages} messages, the newest of each "
            "{p50_ms} ms (p50) and {p99_ms} ms (p99) old")
    rates = {readers: ", ".join(f"{rate:.0f}" for rate in found)
             for readers, found in followed["rates"].items()}
    return "\n".join([
        f"{followed['readers']} waiting readers, POST at 64",
        entry("requests/s with / without", f"{followed['ratio']:.2f}  "
              f"({rates[followed['readers']]} / {rates[0]})"),
        entry("delivered under this load", form.format(**followed["loaded"][-1])),
        entry("delivered at a low rate", form.format(**followed["quiet"])),
        entry("delivered of 150 messages/s", form.format(**followed["fair"]) +
              "; a reader had {fewest} to {most} answers".format(**followed["fair"]))])


def beside_lines(result):
    beside = dict(result["beside"])
    lines = ["an operator's work beside deliveries, POST at 64",
             entry("import alone", f"{beside.pop('import_rate'):.0f} messages/s")]
    more = {"seconds": ", it took {:.1f} s", "gone": ", {:.0f} messages expired",
            "imported_rate": ", {:.0f} messages/s imported"}
    for work, figures in beside.items():
        also = "".join(form.format(figures[name]) for name, form in more.items() if name in figures)
        lines.append(entry(f"beside {work}", f"{figures['rps']:.0f} requests/s, "
                           f"p99 {figures['p99_ms']:.1f} ms{also}"))
    return "\n".join(lines)


def burst_lines(result):
    form = ("{answered} of {connections} answered within {seconds} s, "
            "the slowest after {slowest_ms:.0f} ms")
    return "\n".join(["bursts of connections on a server just started"] + [
        entry(burst["server"], form.format(**burst)) for burst in result["bursts"]])


def start_lines(result):
    times, sizes = result["start_to_ready_ms"], result["binary_bytes"]
    return "\n".join([
        "start and size",
        entry(f"start to ready, best of {len(times['all'])}",
              f"{times['best']:.1f} ms  (worst {max(times['all']):.1f})"),
        entry("binary", f"{sizes['mailslot'] / 1e6:.2f} MB"),
    ])


def target_lines(result):
    return "\n".join(["targets"] + [
        f"  {each['verdict']:4}  {each['target']:40}  {each['measured']}"
        for each in result["targets"]])


def entry(name, value):
    return f"  {name:38}  {value}"
