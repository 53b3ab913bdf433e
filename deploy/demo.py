"""The demo of docker-compose.yml: a tenant, a webhook to the service `receiver`, an event a second.

Needs nothing but Python. Run again, it goes on with what is there.
"""

import itertools
import json
import os
import time
import urllib.error
import urllib.request

API, TENANT = os.environ["API"], "demo"


def ask(method, path, body):
    request = urllib.request.Request(API + path, json.dumps(body).encode(), method=method)
    request.add_header("Authorization", f"Bearer {os.environ['ADMIN_TOKEN']}")
    request.add_header("X-Tenant-ID", TENANT)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def begin():
    try:
        ask("POST", "/api/v1/admin/tenants", {"id": TENANT, "name": "Demo"})
    except urllib.error.HTTPError as error:
        # It exists, and so does its webhook.
        if error.code == 409:
            return
        raise
    ask("POST", "/api/v1/webhooks", {
        "url": os.environ["RECEIVER"],
        "events": ["*"],
        "secret": os.environ["WEBHOOK_SECRET"],
    })


def patiently(what):
    while True:
        try:
            return what()
        except OSError as error:  # URLError and HTTPError are OSErrors.
            print(f"{error}; trying again", flush=True)
            time.sleep(1)


patiently(begin)
print(f"Look at http://127.0.0.1:{os.environ.get('GRAFANA_PORT', '3000')}/d/posthorn-overview", flush=True)
run = os.urandom(3).hex()
for n in itertools.count():
    order = f"{run}-{n}"
    event = {"id": f"order-{order}", "type": "order.created", "data": {"order": order, "total": 19.90}}
    # With the same id as long as it takes, so that it is delivered once.
    patiently(lambda: ask("POST", "/api/v1/events", event))
    print(f"published {order}", flush=True)
    time.sleep(float(os.environ.get("EVERY", "1")))
