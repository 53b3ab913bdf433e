"""Publishes one event over AMQP and waits for RabbitMQ's confirm. Needs `pip install pika`."""

import json
import os
import sys
import time
import uuid

import pika

amqp_url = os.environ["AMQP_URL"]
tenant = os.environ["TENANT"]

event_type = "invoice.paid"
event_id = f"invoice-2026-0042-{uuid.uuid4()}"  # the same in every try
data = {"invoice": "2026-0042", "total": 99.5}


def publish():
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        # Returns after the confirm. Raises NackError or UnroutableError otherwise.
        channel.basic_publish(
            exchange="posthorn.events",
            routing_key=f"{tenant}.{event_type}",
            body=json.dumps(data).encode(),
            properties=pika.BasicProperties(
                message_id=event_id,
                content_type="application/json",
                delivery_mode=pika.DeliveryMode.Persistent,
            ),
            mandatory=True,
        )
    finally:
        if connection.is_open:
            connection.close()


for attempt in range(5):
    try:
        publish()
        print(event_id)
        sys.exit(0)
    except pika.exceptions.AMQPError as error:
        # The event may have arrived all the same. Its id makes the repetition harmless.
        print(f"not confirmed, trying again: {error!r}", file=sys.stderr)
        time.sleep(2**attempt)
sys.exit("RabbitMQ did not confirm the event")
