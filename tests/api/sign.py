"""Signs what schemathesis posts to /webhook: SCHEMATHESIS_HOOKS=sign WEBHOOK_SECRET=testsecret.

Signatures that are meant to be wrong or missing stay so.
"""

import hashlib
import hmac
import os
import re
from datetime import datetime

import schemathesis
from hypothesis import strategies as st


def sign(request):
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    secret = os.environ["WEBHOOK_SECRET"].encode()
    request.headers["X-Signature"] = hmac.new(secret, body, hashlib.sha256).hexdigest()
    return request


def sign_as_meta(request):
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    secret = os.environ["WEBHOOK_SECRET"].encode()
    digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
    request.headers["X-Hub-Signature-256"] = f"sha256={digest}"
    return request


@schemathesis.auth().apply_to(method="POST", path="/webhook")
class Signature:
    def get(self, case, context):
        return "the secret"

    def set(self, case, data, context):
        given = (case.headers or {}).get("X-Signature")
        if isinstance(given, str) and re.fullmatch("[0-9A-Fa-f]{64}", given):
            case._auth = sign


@schemathesis.auth().apply_to(method="POST", path="/webhook/whatsapp")
class WhatsappSignature(Signature):
    def set(self, case, data, context):
        given = (case.headers or {}).get("X-Hub-Signature-256")
        if isinstance(given, str) and re.fullmatch("sha256=[0-9A-Fa-f]{64}", given):
            case._auth = sign_as_meta


def is_real_date(ts):
    try:
        return datetime.strptime(ts[:19], "%Y-%m-%dT%H:%M:%S") is not None
    except ValueError:
        return False


@schemathesis.hook
def filter_body(context, body):
    """No pattern says that a date is real: a ts that only looks like one is tried by tests/it."""
    ts = body.get("ts") if isinstance(body, dict) else None
    looks_so = isinstance(ts, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", ts)
    return not looks_so or is_real_date(ts)


def cursor(side, seconds, nanoseconds, message_id):
    return f"{side} {seconds} {nanoseconds} {message_id}".encode().hex()


# Opaque to clients, so the document tells no more than the format's name; as src/api/messages.rs has it.
schemathesis.openapi.format(
    "cursor",
    st.builds(
        cursor,
        st.sampled_from("ab"),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**32 - 1),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)


@schemathesis.deserializer("application/x-ndjson")
def lines(ctx, response):
    return response.content.decode()
