#!/usr/bin/env python3
"""Holds the running binary against its own document, /openapi.json, by schemathesis: no 5xx, no answer
that the document does not know. Once for everybody, once with a read token.

`make test-api` calls this. schemathesis is installed into target/api, where later runs find it.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
VENV = TARGET / "api" / "venv"
SECRET, TOKEN = "testsecret", "sometoken0123456789"
# Of the providers, which sign.py signs as.
PROVIDERS = {"WHATSAPP_APP_SECRET": SECRET, "WHATSAPP_VERIFY_TOKEN": "a token", "TWILIO_AUTH_TOKEN": SECRET,
             "PUBLIC_URL": "https://hooks.example.com",
             "STANDARD_WEBHOOKS_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}


def install():
    if not (VENV / "bin" / "schemathesis").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
                        "-r", HERE / "requirements.txt"], check=True)


def check(token):
    with tempfile.TemporaryDirectory() as folder:
        settings = {"WEBHOOK_SECRET": SECRET, "READ_TOKEN": token, "LISTEN": "127.0.0.1:0",
                    "DATABASE_URL": f"sqlite:///{folder}/api.db", "LOG_LEVEL": "ERROR",
                    **PROVIDERS}
        server = subprocess.Popen([TARGET / "debug" / "mailslot"], env=settings, text=True,
                                  stdout=subprocess.PIPE)
        try:
            address = json.loads(server.stdout.readline())["address"]
            header = ["-H", f"Authorization: Bearer {token}"] if token else []
            command = [VENV / "bin" / "schemathesis", "run", f"http://{address}/openapi.json",
                       "-c", "all", "--continue-on-failure", "-n", "60", *header]
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": "sign", "WEBHOOK_SECRET": SECRET,
                           "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
            return subprocess.run(command, cwd=folder_with_settings(folder), env=environment,
                                  check=False).returncode
        finally:
            server.kill()


def folder_with_settings(folder):
    """schemathesis leaves files where it runs, and reads its settings there."""
    (Path(folder) / "schemathesis.toml").write_text((HERE / "schemathesis.toml").read_text())
    return folder


if __name__ == "__main__":
    install()
    sys.exit(max(check(""), check(TOKEN)))
