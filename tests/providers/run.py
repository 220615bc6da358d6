#!/usr/bin/env python3
"""Delivers to the running binary what the providers' own libraries sign, and has the libraries check what
`mailslot sign` signs.

`make test-providers` calls this. The libraries are installed into target/providers, where later runs find
them.
"""
import datetime
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
VENV = TARGET / "providers" / "venv"
PROGRAM = TARGET / "debug" / "mailslot"
AUTH_TOKEN = "fedcba9876543210fedcba9876543210"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECOND_SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
PUBLIC_URL = "https://hooks.example.com"
TEXTS = ["Hello", "", "Größe 42 & more = fine+", "100% \u4f60\u597d \U0001f600", " \t\r\n\"'<>\\/;,"]


def install():
    """Runs this file again in a Python that has the libraries."""
    python = VENV / "bin" / "python"
    if Path(sys.executable) == python:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        "-r", HERE / "requirements.txt"], check=True)
    os.execv(python, [python, __file__])


def post(address, target, body, headers):
    request = urllib.request.Request(f"http://{address}{target}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")


def command(folder, *arguments, body=b""):
    done = subprocess.run([PROGRAM, *arguments], input=body, env=settings(folder), check=True,
                          stdout=subprocess.PIPE)
    lines = done.stdout.decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def settings(folder):
    return {"WEBHOOK_SECRET": "testsecret", "LISTEN": "127.0.0.1:0", "LOG_LEVEL": "ERROR",
            "DATABASE_URL": f"sqlite:///{folder}/providers.db", "PUBLIC_URL": PUBLIC_URL,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN, "STANDARD_WEBHOOKS_SECRET_FILE": f"{folder}/secrets"}


def twilio(address, folder):
    from twilio.request_validator import RequestValidator
    validator = RequestValidator(AUTH_TOKEN)
    sent = 0
    for number, text in enumerate(TEXTS):
        for query in ["", "?a=b&c=", "?x=%C3%A9%2B+"]:
            target = f"/webhook/twilio{query}"
            parameters = {"MessageSid": f"SM{number}{len(query)}", "From": "whatsapp:+14158675309", "To": "12345",
                          "Body": text, "NumMedia": "0", "Empty": "", "a_b": "1", "aB": "2", "Z": "3"}
            body = urllib.parse.urlencode(parameters).encode()
            signature = validator.compute_signature(PUBLIC_URL + target, parameters)
            with_port = PUBLIC_URL + ":443" + target
            for signature in [signature, validator.compute_signature(with_port, parameters)]:
                expect(post(address, target, body, {"X-Twilio-Signature": signature}), 200, target)
            expect(post(address, target + "#", body, {"X-Twilio-Signature": signature[::-1]}), 401, target)
            made = command(folder, "sign", "--scheme", "twilio", "--url", PUBLIC_URL + target, "-", body=body)
            expect(validator.validate(PUBLIC_URL + target, parameters, made["X-Twilio-Signature"]), True, target)
            sent += 1
    return sent


def standard(address, folder):
    import standardwebhooks
    import svix
    sent = 0
    for library in [svix, standardwebhooks]:
        for secret in [STANDARD_SECRET, SECOND_SECRET]:
            webhook = library.Webhook(secret)
            for number, text in enumerate(TEXTS):
                message_id = f"msg_{library.__name__}{secret[6:9]}{number}"
                now = datetime.datetime.now(tz=datetime.timezone.utc)
                message = {"message_id": message_id, "from": "+1", "to": "+2", "ts": "2025-01-15T10:00:00Z",
                           "text": text}
                body = json.dumps(message, ensure_ascii=number % 2 == 0)
                headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp())),
                           "webhook-signature": webhook.sign(message_id, now, body)}
                expect(post(address, "/webhook/standard", body.encode(), headers), 200, message_id)
                other = dict(headers, **{"webhook-id": message_id + "x"})
                expect(post(address, "/webhook/standard", body.encode(), other), 401, message_id)
                sent += 1
                if secret == STANDARD_SECRET:
                    made = command(folder, "sign", "--scheme", "standard", "-", body=body.encode())
                    webhook.verify(body.encode(), made)  # raises what is wrong
    return sent


def check():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "secrets").write_text(f"{STANDARD_SECRET}\n{SECOND_SECRET}\n")
        server = subprocess.Popen([PROGRAM], env=settings(folder), text=True, stdout=subprocess.PIPE)
        try:
            address = json.loads(server.stdout.readline())["address"]
            sent = twilio(address, folder) + standard(address, folder)
            with urllib.request.urlopen(f"http://{address}/stats") as response:
                stored = json.load(response)["total_messages"]
            expect(stored, sent, "messages")
            print(f"{sent} messages that the libraries of Twilio, Svix and Standard Webhooks signed are stored")
        finally:
            server.kill()


if __name__ == "__main__":
    install()
    check()
