"""Posthorn's whole way with a client that is generated from its description.

`openapi-python-client` makes the package `posthorn_client` of the served document.

    python walk.py http://localhost:8080 TOKEN https://example.com/hook

`make clients-test` runs it.
"""

import sys
import time

from posthorn_client import AuthenticatedClient
from posthorn_client.api.deliveries import (
    list_webhook_deliveries,
    replay_deliveries,
    show_delivery,
    show_replay,
)
from posthorn_client.api.events import publish_event, publish_events, show_event
from posthorn_client.api.tokens import show_me
from posthorn_client.api.webhooks import create_webhook, delete_webhook, rotate_secret, show_webhook
from posthorn_client.models import (
    AttemptOutcome,
    DeliveryState,
    EventBatchInput,
    EventInput,
    EventResultAccepted,
    EventResultRefused,
    FinishedState,
    MatchingMatched,
    Period,
    Problem,
    PublishedEvent,
    Replay,
    ReplayInput,
    ReplayStatus,
    Role,
    WebhookInput,
    WebhookInputFiltersType0,
    WebhookInputMetadataType0,
)

address, token, url = sys.argv[1:]
client = AuthenticatedClient(base_url=address, token=token)


def until(what, ask):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = ask()
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within a minute: {what}")


def delivered(webhook, event, attempts):
    def ask():
        page = list_webhook_deliveries.sync(webhook.id, client=client, event_id=event, limit=10)
        ended = [d for d in page.deliveries if d.status == DeliveryState.DELIVERED and d.attempts == attempts]
        return ended[0] if ended else None

    return until(f"{event} is delivered", ask)


me = show_me.sync(client=client)
assert me.role == Role.MANAGER and me.tenant, me
assert me.limits.webhooks > 0, me

# Everything that is wrong, at once.
refused = create_webhook.sync(client=client, body=WebhookInput(url="nonsense", events=[], timeout=1))
assert isinstance(refused, Problem), refused
assert [(e.field, e.code) for e in refused.errors] == [
    ("url", "invalid_value"),
    ("events", "invalid_value"),
    ("timeout", "invalid_value"),
], refused

# Create: free objects, alternatives and closed lists are typed.
created = create_webhook.sync_detailed(
    client=client,
    body=WebhookInput(
        url=url,
        events="order.*",
        filters=WebhookInputFiltersType0.from_dict({"total": {"$gte": 10}}),
        metadata=WebhookInputMetadataType0.from_dict({"shop": 7}),
        rate_limit=100,
    ),
)
webhook = created.parsed
assert created.status_code == 201, webhook
assert created.headers["location"] == f"/api/v1/webhooks/{webhook.id}", created.headers
assert webhook.filters["total"] == {"$gte": 10} and webhook.metadata["shop"] == 7, webhook
assert (webhook.rate_limit.limit, webhook.rate_limit.per) == (100, Period.SECOND), webhook

# Publish, deliver, look.
new = EventInput(id="python-1", type_="order.created", data={"total": 25})
event = publish_event.sync(client=client, body=new)
# Not a dry run, which has another type.
assert isinstance(event, PublishedEvent) and event.id == "python-1", event
first = delivered(webhook, event.id, 1)
detail = show_delivery.sync(first.id, client=client)
assert [(a.n, a.outcome, a.response_code) for a in detail.attempt_log] == [(1, AttemptOutcome.SUCCESS, 200)], detail

# Tagged unions have a class for each variant.
batch = EventBatchInput(
    events=[
        EventInput(type_="order.created", data={"total": 1}),
        EventInput(type_="order", id="ä", data=0),
    ]
)
taken, wrong = publish_events.sync(client=client, body=batch).results
assert isinstance(taken, EventResultAccepted), taken
assert isinstance(wrong, EventResultRefused) and wrong.field == "id", wrong
matching = [m for m in show_event.sync(event.id, client=client).matching if m.webhook_id == webhook.id]
assert isinstance(matching[0], MatchingMatched), matching

# Rotate without a body, then replay.
rotated = rotate_secret.sync(webhook.id, client=client)
assert rotated.secret.startswith("whsec_") and rotated.secret != webhook.secret
replay = replay_deliveries.sync(
    webhook.id,
    client=client,
    body=ReplayInput(since=first.queued_at, status=[FinishedState.DELIVERED], event_types="order.created"),
)
assert isinstance(replay, Replay), replay


def finished():
    now = show_replay.sync(webhook.id, replay.id, client=client)
    return now if now.status == ReplayStatus.FINISHED else None


until("the replay is finished", finished)
delivered(webhook, event.id, 2)

# A client that has the state gets 304.
shown = show_webhook.sync_detailed(webhook.id, client=client)
again = show_webhook.sync_detailed(webhook.id, client=client, if_none_match=shown.headers["etag"])
assert again.status_code == 304, again

gone = delete_webhook.sync_detailed(webhook.id, client=client, if_match=shown.headers["etag"])
assert gone.status_code == 204, gone
missing = show_webhook.sync(webhook.id, client=client)
assert isinstance(missing, Problem) and missing.code == "not_found", missing
print("Python: created, published, delivered, looked, rotated, replayed, deleted")
