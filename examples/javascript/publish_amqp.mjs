// Publishes one event over AMQP and waits for RabbitMQ's confirm. Needs `npm install amqplib`.

import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';

const { AMQP_URL, TENANT } = process.env;
const type = 'invoice.paid';
const id = `invoice-2026-0042-${randomUUID()}`; // the same in every try
const data = { invoice: '2026-0042', total: 99.5 };

async function publish() {
  const connection = await amqp.connect(AMQP_URL);
  connection.on('error', () => {}); // the publishing fails with the same error
  try {
    const channel = await connection.createConfirmChannel();
    const returned = new Promise((_, reject) =>
      channel.on('return', message => reject(new Error(`unroutable: ${message.fields.replyText}`))));
    channel.publish('posthorn.events', `${TENANT}.${type}`, Buffer.from(JSON.stringify(data)), {
      messageId: id,
      contentType: 'application/json',
      persistent: true,
      mandatory: true,
    });
    // A message that can't be routed is returned before it is confirmed.
    await Promise.race([channel.waitForConfirms(), returned]);
  } finally {
    await connection.close().catch(() => {});
  }
}

for (let attempt = 0; attempt < 5; attempt++) {
  try {
    await publish();
    console.log(id);
    process.exit(0);
  } catch (error) {
    // The event may have arrived all the same. Its id makes the repetition harmless.
    console.error(`not confirmed, trying again: ${error.message}`);
    await new Promise(resolve => setTimeout(resolve, 1000 * 2 ** attempt));
  }
}
console.error('RabbitMQ did not confirm the event');
process.exit(1);
