"""Publishes one event over HTTP. Needs nothing but Python."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

url = os.environ["POSTHORN_URL"].rstrip("/") + "/api/v1/events"
token = os.environ["POSTHORN_TOKEN"]

event = {
    "id": f"invoice-2026-0042-{uuid.uuid4()}",  # the same in every try
    "type": "invoice.paid",
    "data": {"invoice": "2026-0042", "total": 99.5},
}
request = urllib.request.Request(
    url,
    data=json.dumps(event).encode(),
    headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    method="POST",
)

for attempt in range(5):
    pause = 2**attempt
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # 202: the event is safe
            print(json.load(answer)["id"])
            sys.exit(0)
    except urllib.error.HTTPError as error:
        if error.code not in (429, 503):
            sys.exit(f"refused with {error.code}: {error.read().decode()}")
        pause = int(error.headers.get("Retry-After", pause))
    except OSError as error:
        print(f"no answer, trying again: {error}", file=sys.stderr)
    time.sleep(pause)
sys.exit("the event was not accepted")
