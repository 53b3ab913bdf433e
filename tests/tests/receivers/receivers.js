// The verification code of receivers of five systems, in JavaScript.
//
// Reads a list of {system, secret, headers, body (base64)} and prints, for
// each, which checks accept it.

const crypto = require('crypto');

const hex = (secret, text) => crypto.createHmac('sha256', secret).update(text).digest('hex');

function equal(a, b) {
  const [left, right] = [Buffer.from(String(a)), Buffer.from(String(b))];
  return left.length === right.length && crypto.timingSafeEqual(left, right);
}

const again = raw => JSON.stringify(JSON.parse(raw.toString('utf8')));
const isoSeconds = text => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(text);
const keys = (body, ...names) => Object.keys(body).join() === names.join();

const systems = {
  rishi: (secret, headers, raw, body) => ({
    raw: () => equal(headers['x-rishi-signature'], 'sha256=' + hex(secret, raw)),
    own: () => {
      const rest = raw.toString('utf8').replace(/,"signature":"[^"]*"}$/, '}');
      return equal(body().signature, 'sha256=' + hex(secret, rest));
    },
    fields: () => keys(body(), 'event', 'data', 'timestamp', 'signature') && isoSeconds(body().timestamp),
  }),
  brainsait: (secret, headers, raw, body) => ({
    raw: () => equal(headers['x-brainsait-signature'], hex(secret, raw)),
    again: () => equal(headers['x-brainsait-signature'], hex(secret, again(raw))),
    fields: () => keys(body(), 'id', 'event', 'created', 'data', 'tenant_id', 'api_version')
      && keys(body().data, 'object') && isoSeconds(body().created),
  }),
  auraconnect: (secret, headers, raw, body) => ({
    raw: () => equal(headers['x-auraconnect-signature'], 'sha256=' + hex(secret, raw)),
    fields: () => keys(body(), 'id', 'type', 'created', 'data') && keys(body().data, 'object')
      && headers['x-auraconnect-event'] === body().type
      && headers['x-auraconnect-event-id'] === body().id
      && headers['x-auraconnect-webhook-id'].startsWith('wh_')
      && Math.abs(Date.now() / 1000 - Number(headers['x-auraconnect-timestamp'])) < 300,
  }),
  jossiedb: (secret, headers, raw, body) => ({
    data: () => equal(headers['x-webhook-signature'], hex(secret, JSON.stringify(body().data))),
    fields: () => headers['x-event-type'] === body().event
      && headers['x-webhook-id'].startsWith('wh_') && again(raw) === raw.toString('utf8'),
  }),
  'corp-astro': (secret, headers, raw, body) => ({
    raw: () => equal(headers['x-corp-astro-signature'], hex(secret, raw)),
    again: () => equal(headers['x-corp-astro-signature'], hex(secret, again(raw))),
    fields: () => keys(body(), 'id', 'timestamp', 'event_type', 'data')
      && headers['x-corp-astro-webhook-id'] === body().id && body().id.startsWith('whd_')
      && headers['x-corp-astro-event'] === body().event_type
      && headers['x-corp-astro-timestamp'] === body().timestamp && isoSeconds(body().timestamp),
  }),
};

const arrivals = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const verdicts = arrivals.map(({ system, secret, headers, body }) => {
  const raw = Buffer.from(body, 'base64');
  const checks = systems[system](secret, headers, raw, () => JSON.parse(raw.toString('utf8')));
  const accepts = ([name, check]) => {
    try {
      return [name, check()];
    } catch {
      return [name, false];
    }
  };
  return Object.fromEntries(Object.entries(checks).map(accepts));
});
process.stdout.write(JSON.stringify(verdicts));
