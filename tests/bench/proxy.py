#!/usr/bin/env python3
"""mailslot behind nginx, with packaging/nginx.conf.example as it is but for ports and paths.

Called by itself it shows that no kept connection between nginx and mailslot is left waiting and that
no delivery fails on a connection that is just being closed. It posts bursts of messages with pauses
between them, some just as long as nginx keeps an idle connection, and prints how long the slowest
answer of each burst took.

Usage: proxy.py [SECONDS]      600 by default. Exit status: 1 if a delivery was not answered with 200
"""
import contextlib
import http.client
import itertools
import os
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

import servers
from messages import signed_lines
from servers import BenchError

EXAMPLE = servers.HERE.parents[1] / "packaging" / "nginx.conf.example"
MAIN = """\
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/mailslot.conf;
}}
"""
BURSTS = (1, 8, 64, 200)
# Seconds: no pause to speak of, and around the time for which nginx keeps an idle connection.
PAUSES = (0, 0.01, 0.3, 2, 19.9, 19.99, 20, 20.01, 20.1)
TIMEOUT_SECONDS = 15
ANY_CERTIFICATE = ssl.create_default_context()
ANY_CERTIFICATE.check_hostname = False
ANY_CERTIFICATE.verify_mode = ssl.CERT_NONE


def is_installed():
    return all(shutil.which(tool) for tool in ("nginx", "openssl"))


@contextlib.contextmanager
def nginx(folder, mailslot_port):
    """nginx in front of that port, as a child process; gives the port of its TLS."""
    folder = Path(folder) / "nginx"
    folder.mkdir()
    # nginx's processes have a user of their own, who must get through to this folder.
    os.chmod(folder.parent, 0o711)
    port = servers.free_port()
    certificate(folder)
    replacements = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{mailslot_port};",
        "/etc/ssl/mailslot/": f"{folder}/",
        "/var/log/nginx/mailslot.log": f"{folder}/access.log",
    }
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in replacements.items():
        if old not in text:
            raise BenchError(f"{EXAMPLE} has no {old!r}")
        text = text.replace(old, new)
    (folder / "mailslot.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
    process = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"],
                               stderr=subprocess.DEVNULL)
    try:
        wait_until_answered(process, port, folder)
        yield port
    finally:
        servers.stop(process)


def certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"],
                   check=True, stderr=subprocess.DEVNULL)


def wait_until_answered(process, port, folder):
    deadline = time.monotonic() + servers.START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(connect(port)) as connection:
            connection.request("GET", "/health/live")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.02)
    raise BenchError(f"nginx did not start: {(folder / 'error.log').read_text()[-2000:]}")


def connect(port):
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS,
                                       context=ANY_CERTIFICATE)


@contextlib.contextmanager
def mailslot_behind_nginx(folder, **settings):
    with servers.mailslot(folder, **settings) as server, nginx(folder, server.port) as port:
        server.url = f"https://127.0.0.1:{port}"
        yield server


def burst(url, lines):
    """Posts all lines at once, each on a connection of its own to nginx that is open already.

    Returns the seconds after which each was answered, and what failed.
    """
    port, lines = int(url.rpartition(":")[2]), list(lines)
    took, failed = [], []
    start = threading.Barrier(len(lines))

    def post(connection, line):
        signature, body = line.rstrip().split("\t")
        start.wait()
        begin = time.perf_counter()
        try:
            connection.request("POST", "/webhook", body.encode(), {"X-Signature": signature})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed.append(str(response.status))
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
        took.append(time.perf_counter() - begin)

    with contextlib.ExitStack() as opened:
        threads = []
        for line in lines:
            connection = opened.enter_context(contextlib.closing(connect(port)))
            connection.connect()
            threads.append(threading.Thread(target=post, args=(connection, line)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return took, failed


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    failures = posted = slowest = 0
    with tempfile.TemporaryDirectory(prefix="mailslot-proxy-") as folder, \
            mailslot_behind_nginx(folder) as server:
        lines = signed_lines(10**9, servers.SECRET, prefix="burst")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            count, pause = random.choice(BURSTS), random.choice(PAUSES)
            time.sleep(pause)
            took, failed = burst(server.url, itertools.islice(lines, count))
            posted += count
            failures += len(failed)
            slowest = max(slowest, *took)
            print(f"after {pause:5} s: {count:3} posted, the slowest took "
                  f"{max(took) * 1000:6.1f} ms {failed or ''}", flush=True)
        stored = server.stored_messages()
    print(f"{posted} posted, {failures} failed, {stored} stored, the slowest took "
          f"{slowest * 1000:.0f} ms")
    return 1 if failures or stored != posted else 0


if __name__ == "__main__":
    sys.exit(main())
