// Publishes one event over HTTP. Needs nothing but Node.js 18 or later.

import { randomUUID } from 'node:crypto';

const { POSTHORN_URL, POSTHORN_TOKEN } = process.env;
const event = {
  id: `invoice-2026-0042-${randomUUID()}`, // the same in every try
  type: 'invoice.paid',
  data: { invoice: '2026-0042', total: 99.5 },
};

for (let attempt = 0; attempt < 5; attempt++) {
  let pause = 2 ** attempt;
  try {
    const answer = await fetch(new URL('/api/v1/events', POSTHORN_URL), {
      method: 'POST',
      headers: { authorization: `Bearer ${POSTHORN_TOKEN}`, 'content-type': 'application/json' },
      body: JSON.stringify(event),
      signal: AbortSignal.timeout(30_000),
    });
    if (answer.status === 202) { // the event is safe
      console.log((await answer.json()).id);
      process.exit(0);
    }
    if (answer.status !== 429 && answer.status !== 503) {
      console.error(`refused with ${answer.status}: ${await answer.text()}`);
      process.exit(1);
    }
    pause = Number(answer.headers.get('retry-after') ?? pause);
  } catch (error) {
    console.error(`no answer, trying again: ${error.message}`);
  }
  await new Promise(resolve => setTimeout(resolve, 1000 * pause));
}
console.error('the event was not accepted');
process.exit(1);
