"""Receives webhooks and verifies their signatures, in every dialect. Needs nothing but Python.

A production receiver for the dialect `standard` can use the package `standardwebhooks` instead.
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

secret = os.environ["WEBHOOK_SECRET"]
dialect = os.environ.get("DIALECT", "standard")
host = os.environ.get("HOST", "127.0.0.1")
port = int(os.environ.get("PORT", "3000"))

TOLERANCE = 300  # seconds that a signed timestamp may differ from our clock


def hex_hmac(signed):
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def equal(ours, theirs):
    return hmac.compare_digest(ours.encode(), (theirs or "").encode())


def standard(headers, body):
    """Standard Webhooks: the key is what follows `whsec_`, decoded from base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    ours = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # While a secret is being rotated there are two signatures, separated by a space.
    return any(equal(ours, theirs) for theirs in headers["webhook-signature"].split(" "))


def jossiedb(headers, body):
    """Jossiedb signs `JSON.stringify(body.data)`, which is in the body as it stands: cut it out, don't write it again."""
    text = body.decode()
    start = text.index('"data":') + len('"data":')
    _, end = json.JSONDecoder().raw_decode(text, start)
    return equal(hex_hmac(text[start:end].encode()), headers["x-webhook-signature"])


VERIFIERS = {
    "standard": standard,
    "cloudevents": standard,
    "rishi": lambda headers, body: equal("sha256=" + hex_hmac(body), headers["x-rishi-signature"]),
    "brainsait": lambda headers, body: equal(hex_hmac(body), headers["x-brainsait-signature"]),
    "auraconnect": lambda headers, body: equal("sha256=" + hex_hmac(body), headers["x-auraconnect-signature"]),
    "jossiedb": jossiedb,
    "corp-astro": lambda headers, body: equal(hex_hmac(body), headers["x-corp-astro-signature"]),
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > 2 * 1024 * 1024:
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            verified = VERIFIERS[dialect](self.headers, body)
        except (AttributeError, KeyError, TypeError, ValueError):  # a header or a member is missing
            verified = False
        if not verified:
            return self.answer(401)
        # Queue the work here, and skip an event whose id you know.
        print(json.dumps(json.loads(body)), flush=True)
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer((host, port), Handler).serve_forever()
