#!/usr/bin/env python3
"""Write signed webhook requests, one a line: SIGNATURE<TAB>BODY.

Usage: messages.py N [--secret testsecret] [--prefix m] [--senders 10000] [--text 80] [--live]

The same arguments give the same lines. A message_id is PREFIX-<n>-<random>, unique in the file.
Its ts is anywhere in a year, the worst that can be sent; --live: in order, as a provider sends them.
"""
import argparse
import hashlib
import hmac
import json
import random
from datetime import datetime, timedelta, timezone

WORDS = ("order parcel delivery thanks hello when where invoice paid balance code confirm cancel "
         "tomorrow today please call back support agent refund the a is my of to and for").split()
YEAR_START = datetime(2025, 1, 1, tzinfo=timezone.utc)
YEAR_SECONDS = 365 * 86400
LIVE_PER_SECOND = 10_000


def signed_lines(count, secret="testsecret", prefix="m", senders=10_000, text_length=80,
                 live=False):
    """Yield `count` lines. Few senders write much and many write little, as people do."""
    random_source = random.Random(prefix)
    key = secret.encode()
    for number in range(count):
        second = number // LIVE_PER_SECOND if live else random_source.randrange(YEAR_SECONDS)
        made = message(random_source, f"{prefix}-{number}", senders, second, text_length)
        body = json.dumps(made, separators=(",", ":"))
        yield hmac.new(key, body.encode(), hashlib.sha256).hexdigest() + "\t" + body + "\n"


def message(random_source, name, senders, second, text_length):
    text = ""
    while len(text) < text_length:
        text += random_source.choice(WORDS) + " "
    sender = int(random_source.paretovariate(1.1)) % senders
    return {
        "message_id": f"{name}-{random_source.getrandbits(48):012x}",
        "from": f"+9198{sender:08d}",
        "to": "+14155550100",
        "ts": moment(second),
        "text": text.strip(),
    }


def moment(second):
    return (YEAR_START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def main():
    parser = argparse.ArgumentParser(description="Write signed webhook requests, one a line.")
    parser.add_argument("count", type=int)
    parser.add_argument("--secret", default="testsecret")
    parser.add_argument("--prefix", default="m")
    parser.add_argument("--senders", type=int, default=10_000)
    parser.add_argument("--text", type=int, default=80, help="about how many characters of text")
    parser.add_argument("--live", action="store_true", help="ts in order, not anywhere in a year")
    given = parser.parse_args()
    for line in signed_lines(given.count, given.secret, given.prefix, given.senders, given.text,
                             given.live):
        print(line, end="")


if __name__ == "__main__":
    main()
