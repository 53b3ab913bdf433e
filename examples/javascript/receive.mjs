// Receives webhooks and verifies their signatures, in every dialect. Needs nothing but Node.js.
//
// A production receiver for the dialect `standard` can use the package `standardwebhooks` instead.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const { WEBHOOK_SECRET: secret, DIALECT: dialect = 'standard', PORT: port = '3000' } = process.env;

const TOLERANCE = 300; // seconds that a signed timestamp may differ from our clock
const LARGEST = 2 * 1024 * 1024;

const hex = signed => createHmac('sha256', secret).update(signed).digest('hex');

function equal(ours, theirs) {
  const [a, b] = [Buffer.from(ours), Buffer.from(theirs ?? '')];
  return a.length === b.length && timingSafeEqual(a, b);
}

// Standard Webhooks: the key is the part after `whsec_`, decoded from base64.
function standard(headers, body) {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const { 'webhook-id': id, 'webhook-timestamp': timestamp } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= TOLERANCE)) return false;
  const ours = 'v1,' + createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest('base64');
  // While a secret is being rotated there are two signatures, separated by a space.
  return headers['webhook-signature'].split(' ').some(theirs => equal(ours, theirs));
}

const verifiers = {
  standard,
  cloudevents: standard,
  rishi: (headers, body) => equal('sha256=' + hex(body), headers['x-rishi-signature']),
  brainsait: (headers, body) => equal(hex(body), headers['x-brainsait-signature']),
  auraconnect: (headers, body) => equal('sha256=' + hex(body), headers['x-auraconnect-signature']),
  // Jossiedb signs only the text of `data`, as JavaScript writes it.
  jossiedb: (headers, body) => equal(hex(JSON.stringify(JSON.parse(body).data)), headers['x-webhook-signature']),
  'corp-astro': (headers, body) => equal(hex(body), headers['x-corp-astro-signature']),
};

async function read(request) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > LARGEST) throw new RangeError('the body is too large');
    parts.push(part);
  }
  return Buffer.concat(parts); // the raw bytes: don't let a framework parse them first
}

createServer(async (request, response) => {
  let status = 401;
  try {
    const body = await read(request);
    if (verifiers[dialect](request.headers, body)) {
      // Queue the work here, and skip an event whose id you know.
      console.log(JSON.stringify(JSON.parse(body)));
      status = 204;
    }
  } catch {
    // A header or a member is missing.
  }
  response.writeHead(status).end();
}).listen(Number(port), '127.0.0.1');
