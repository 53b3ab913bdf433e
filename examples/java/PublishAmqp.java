// Publishes one event over AMQP and waits for RabbitMQ's confirm.
// Needs com.rabbitmq:amqp-client 5 on the class path.

import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.AMQP.BasicProperties;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicBoolean;

public class PublishAmqp {
    public static void main(String[] arguments) throws Exception {
        String id = "invoice-2026-0042-" + UUID.randomUUID(); // the same in every try
        for (int attempt = 0; attempt < 5; attempt++) {
            try {
                publish(id);
                System.out.println(id);
                return;
            } catch (Exception error) {
                // The event may have arrived all the same. Its id makes the repetition harmless.
                System.err.println("not confirmed, trying again: " + error);
                Thread.sleep(Duration.ofSeconds(1L << attempt).toMillis());
            }
        }
        System.err.println("RabbitMQ did not confirm the event");
        System.exit(1);
    }

    private static void publish(String id) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            AtomicBoolean returned = new AtomicBoolean();
            channel.addReturnListener(message -> returned.set(true));
            channel.confirmSelect();
            BasicProperties properties = new BasicProperties.Builder()
                .messageId(id)
                .contentType("application/json")
                .deliveryMode(2) // persistent
                .build();
            byte[] data = "{\"invoice\": \"2026-0042\", \"total\": 99.5}".getBytes(StandardCharsets.UTF_8);
            boolean mandatory = true;
            channel.basicPublish("posthorn.events", System.getenv("TENANT") + ".invoice.paid", mandatory, properties, data);
            channel.waitForConfirmsOrDie(Duration.ofSeconds(30).toMillis());
            // A message that can't be routed is returned before it is confirmed.
            if (returned.get()) {
                throw new IllegalStateException("no queue is bound for the event");
            }
        }
    }
}
