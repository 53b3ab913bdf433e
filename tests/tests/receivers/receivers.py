# The verification code of receivers of five systems, in Python.
#
# Reads a list of {system, secret, headers, body (base64)} and prints, for each,
# which checks accept it.

import base64
import hashlib
import hmac
import json
import re
import sys
import time


def hexadecimal(secret, body):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def equal(a, b):
    return hmac.compare_digest(str(a).encode(), str(b).encode())


def again(value):
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def parse(raw):
    return json.loads(raw)


def is_time(text):
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text) is not None


def rishi(secret, headers, raw):
    def own():
        rest = re.sub(rb',"signature":"[^"]*"}$', b"}", raw)
        return equal(parse(raw)["signature"], "sha256=" + hexadecimal(secret, rest))

    return {
        "raw": lambda: equal(headers["x-rishi-signature"], "sha256=" + hexadecimal(secret, raw)),
        "own": own,
        "fields": lambda: list(parse(raw)) == ["event", "data", "timestamp", "signature"]
        and is_time(parse(raw)["timestamp"]),
    }


def brainsait(secret, headers, raw):
    signature = headers["x-brainsait-signature"]
    return {
        "raw": lambda: equal(signature, hexadecimal(secret, raw)),
        "again": lambda: equal(signature, hexadecimal(secret, again(parse(raw)))),
        "fields": lambda: list(parse(raw))
        == ["id", "event", "created", "data", "tenant_id", "api_version"],
    }


def auraconnect(secret, headers, raw):
    signature = headers["x-auraconnect-signature"]
    return {
        "raw": lambda: equal(signature, "sha256=" + hexadecimal(secret, raw)),
        "fields": lambda: list(parse(raw)) == ["id", "type", "created", "data"]
        and headers["x-auraconnect-event"] == parse(raw)["type"]
        and headers["x-auraconnect-event-id"] == parse(raw)["id"]
        and abs(time.time() - int(headers["x-auraconnect-timestamp"])) < 300,
    }


def jossiedb(secret, headers, raw):
    signature = headers["x-webhook-signature"]
    return {
        "data": lambda: equal(signature, hexadecimal(secret, again(parse(raw)["data"]))),
        "fields": lambda: headers["x-event-type"] == parse(raw)["event"],
    }


def corp_astro(secret, headers, raw):
    signature = headers["x-corp-astro-signature"]
    return {
        "raw": lambda: equal(signature, hexadecimal(secret, raw)),
        "again": lambda: equal(signature, hexadecimal(secret, again(parse(raw)))),
        "fields": lambda: list(parse(raw)) == ["id", "timestamp", "event_type", "data"]
        and headers["x-corp-astro-webhook-id"] == parse(raw)["id"]
        and headers["x-corp-astro-timestamp"] == parse(raw)["timestamp"]
        and is_time(parse(raw)["timestamp"]),
    }


SYSTEMS = {
    "rishi": rishi,
    "brainsait": brainsait,
    "auraconnect": auraconnect,
    "jossiedb": jossiedb,
    "corp-astro": corp_astro,
}


def judge(arrival):
    raw = base64.b64decode(arrival["body"])
    checks = SYSTEMS[arrival["system"]](arrival["secret"], arrival["headers"], raw)
    verdict = {}
    for name, check in checks.items():
        try:
            verdict[name] = check()
        except ValueError:
            verdict[name] = False
    return verdict


json.dump([judge(arrival) for arrival in json.load(sys.stdin)], sys.stdout)
