// Posthorn's whole way with a client that is generated from its description:
// `openapi-typescript` makes `api.d.ts` of the served document, `openapi-fetch` uses it.
//
//     node walk.js http://localhost:8080 TOKEN https://example.com/hook
//
// `make clients-test` compiles it with `strict` and runs it. A line of this file that doesn't
// compile is a mistake in the description.

import createClient from "openapi-fetch";
import type { components, paths, webhooks } from "./api.js";

type Webhook = components["schemas"]["Webhook"];
type Delivery = components["schemas"]["Delivery"];
/** What a receiver gets in the dialect `standard`. */
type Received = webhooks["standard"]["post"]["requestBody"]["content"]["application/json"];

const [address = "", token = "", url = ""] = process.argv.slice(2);
const api = createClient<paths>({
    baseUrl: address,
    headers: { Authorization: `Bearer ${token}` },
});

function check(holds: unknown, what: string): asserts holds {
    if (!holds) {
        throw new Error(what);
    }
}

/** The answer's data; an error says the problem's code and field. */
function taken<T>(answer: { data?: T; error?: components["schemas"]["Problem"]; response: Response }): T {
    const { data, error, response } = answer;
    check(data !== undefined, `${response.url}: ${response.status} ${error?.code} ${error?.field}: ${error?.detail}`);
    return data;
}

async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
    for (const end = Date.now() + 60_000; Date.now() < end; ) {
        const found = await ask();
        if (found !== undefined) {
            return found;
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`not within a minute: ${what}`);
}

async function delivered(webhook: Webhook, event: string, attempts: number): Promise<Delivery> {
    return until(`${event} is delivered`, async () => {
        const page = taken(
            await api.GET("/api/v1/webhooks/{id}/deliveries", {
                params: { path: { id: webhook.id }, query: { event_id: event, limit: 10 } },
            }),
        );
        return page.deliveries.find((it) => it.status === "delivered" && it.attempts === attempts);
    });
}

const me = taken(await api.GET("/api/v1/me"));
check(me.tenant !== null && me.role === "manager", `who is asking: ${JSON.stringify(me)}`);
check(me.limits !== null && me.limits.webhooks > 0, "a tenant's token has the tenant's limits");

// Everything that is wrong, at once.
const refused = await api.POST("/api/v1/webhooks", {
    body: { url: "nonsense", events: [], timeout: 1 },
});
const fields = refused.error?.errors?.map((it) => `${it.field} ${it.code}`);
check(refused.response.status === 422, "an invalid webhook is refused");
check(
    JSON.stringify(fields) === '["url invalid_value","events invalid_value","timeout invalid_value"]',
    `all that is wrong: ${JSON.stringify(refused.error)}`,
);

// Create: free objects, alternatives and closed lists are typed.
const created = await api.POST("/api/v1/webhooks", {
    body: {
        url,
        events: "order.*",
        filters: { total: { $gte: 10 } },
        metadata: { shop: 7, tags: ["a"] },
        rate_limit: 100,
        status: "active",
    },
});
const webhook = taken(created);
const location = created.response.headers.get("location");
check(location === `/api/v1/webhooks/${webhook.id}`, `Location: ${location}`);
check(webhook.filters?.["total"] !== undefined && webhook.metadata["shop"] === 7, "free objects");
check(webhook.rate_limit?.limit === 100 && webhook.rate_limit.per === "second", "a rate limit");

// Publish, deliver, look.
const event = taken(
    await api.POST("/api/v1/events", {
        body: { id: "typescript-1", type: "order.created", data: { total: 25, items: [] } },
    }),
);
check("id" in event, "an event, not a dry run");
const first = await delivered(webhook, event.id, 1);
const detail = taken(await api.GET("/api/v1/deliveries/{id}", { params: { path: { id: first.id } } }));
check(detail.attempt_log[0]?.outcome === "success", `an attempt: ${JSON.stringify(detail.attempt_log)}`);
check(detail.attempt_log[0].response_code === 200, "its status");

// Tagged unions: the compiler knows each variant's members.
const { results } = taken(
    await api.POST("/api/v1/events/batch", {
        body: { events: [{ type: "order.created", data: { total: 1 } }, { type: "order", id: "ä", data: 0 }] },
    }),
);
for (const result of results) {
    switch (result.status) {
        case "accepted":
            check(result.type === "order.created", result.id);
            break;
        case "refused":
            check(result.field === "id" && result.code === "invalid_value", result.detail);
            break;
        case "unconfirmed":
            throw new Error(`publish ${result.id} again`);
    }
}
const explained = taken(await api.GET("/api/v1/events/{id}", { params: { path: { id: event.id } } }));
for (const match of explained.matching) {
    check(match.result === "matched" || (match.result === "refused" && match.clause), "an explanation");
}

// Rotate without a body, then replay.
const rotated = taken(
    await api.POST("/api/v1/webhooks/{id}/rotate-secret", { params: { path: { id: webhook.id } } }),
);
check(rotated.secret !== webhook.secret && rotated.secret.startsWith("whsec_"), "a new secret");
const answer = taken(
    await api.POST("/api/v1/webhooks/{id}/replay", {
        params: { path: { id: webhook.id } },
        body: { since: first.queued_at, status: ["delivered"], event_types: "order.created" },
    }),
);
check("replayed" in answer, "a replay, not a dry run");
await until("the replay is finished", async () => {
    const path = { id: webhook.id, replay_id: answer.id };
    const replay = taken(await api.GET("/api/v1/webhooks/{id}/replays/{replay_id}", { params: { path } }));
    return replay.status === "finished" ? replay : undefined;
});
await delivered(webhook, event.id, 2);

// A client that has the state gets 304.
const shown = await api.GET("/api/v1/webhooks/{id}", { params: { path: { id: webhook.id } } });
const etag = shown.response.headers.get("etag") ?? "";
const again = await api.GET("/api/v1/webhooks/{id}", {
    params: { path: { id: webhook.id }, header: { "If-None-Match": etag } },
});
check(again.response.status === 304, `If-None-Match: ${again.response.status}`);

const gone = await api.DELETE("/api/v1/webhooks/{id}", {
    params: { path: { id: webhook.id }, header: { "If-Match": etag } },
});
check(gone.response.status === 204, `deleted: ${gone.response.status}`);
const missing = await api.GET("/api/v1/webhooks/{id}", { params: { path: { id: webhook.id } } });
check(missing.error?.code === "not_found", `it is gone: ${JSON.stringify(missing.error)}`);

// Types of what is received, for a receiver.
const received: Received = { type: "order.created", timestamp: "2026-01-31T10:00:00.000Z", data: { total: 25 } };
check(received.type === "order.created", "what is received has types");
console.log("TypeScript: created, published, delivered, looked, rotated, replayed, deleted");
