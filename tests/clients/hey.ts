// Posthorn's whole way with the client that `@hey-api/openapi-ts` generates from its description.
//
//     node hey.js http://localhost:8080 TOKEN https://example.com/hook
//
// `make clients-test` compiles it with `strict` and runs it. A line of this file that doesn't
// compile is a mistake in the description.

import { client } from "./client/client.gen";
import {
    createWebhook,
    deleteWebhook,
    listWebhookDeliveries,
    publishEvent,
    replayDeliveries,
    rotateSecret,
    showDelivery,
    showReplay,
    showWebhook,
} from "./client/sdk.gen";
import type { Delivery, Problem, StandardDelivery, Webhook } from "./client/types.gen";

const [address = "", token = "", url = ""] = process.argv.slice(2);
client.setConfig({ baseUrl: address, auth: token });

function check(holds: unknown, what: string): asserts holds {
    if (!holds) {
        throw new Error(what);
    }
}

/** The answer's data; an error says the problem's code and field. */
function taken<T>(answer: { data?: T | undefined; error?: Problem | undefined }): T {
    const { data, error } = answer;
    check(data !== undefined, `${error?.code} ${error?.field}: ${error?.detail}`);
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
        const query = { event_id: event, limit: 10 };
        const page = taken(await listWebhookDeliveries({ path: { id: webhook.id }, query }));
        return page.deliveries.find((it) => it.status === "delivered" && it.attempts === attempts);
    });
}

async function walk() {
    // Everything that is wrong, at once.
    const refused = await createWebhook({ body: { url: "nonsense", events: [], timeout: 1 } });
    const fields = refused.error?.errors?.map((it) => it.field);
    check(JSON.stringify(fields) === '["url","events","timeout"]', `all that is wrong: ${JSON.stringify(refused.error)}`);

    // Create, publish, deliver, look.
    const body = { url, events: "order.*", filters: { total: { $gte: 10 } }, metadata: { shop: 7 } };
    const webhook = taken(await createWebhook({ body }));
    check(webhook.status === "active" && webhook.metadata["shop"] === 7, "free objects");
    const data = { total: 25, items: [] };
    const event = taken(await publishEvent({ body: { id: "hey-1", type: "order.created", data } }));
    check("id" in event, "an event, not a dry run");
    const first = await delivered(webhook, event.id, 1);
    const detail = taken(await showDelivery({ path: { id: first.id } }));
    check(detail.attempt_log[0]?.outcome === "success", `an attempt: ${JSON.stringify(detail.attempt_log)}`);

    // Rotate without a body, then replay.
    const rotated = taken(await rotateSecret({ path: { id: webhook.id } }));
    check(rotated.secret !== webhook.secret && rotated.secret.startsWith("whsec_"), "a new secret");
    const answer = taken(
        await replayDeliveries({
            path: { id: webhook.id },
            body: { since: first.queued_at, status: ["delivered"], event_types: "order.created" },
        }),
    );
    check("replayed" in answer, "a replay, not a dry run");
    await until("the replay is finished", async () => {
        const replay = taken(await showReplay({ path: { id: webhook.id, replay_id: answer.id } }));
        return replay.status === "finished" ? replay : undefined;
    });
    await delivered(webhook, event.id, 2);

    // Delete.
    const gone = await deleteWebhook({ path: { id: webhook.id } });
    check(gone.response?.status === 204, `deleted: ${gone.response?.status}`);
    const missing = await showWebhook({ path: { id: webhook.id } });
    check(missing.error?.code === "not_found", `it is gone: ${JSON.stringify(missing.error)}`);

    // Types of what is received, for a receiver.
    const received: StandardDelivery = { type: "order.created", timestamp: "2026-01-31T10:00:00.000Z", data };
    check(received.type === "order.created", "what is received has types");
    console.log("@hey-api: created, published, delivered, looked, rotated, replayed, deleted");
}

walk().catch((error: unknown) => {
    console.error(error);
    process.exit(1);
});
