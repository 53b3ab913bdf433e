// Publishes one event over HTTP. Needs nothing but Java 17: `java PublishHttp.java`.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.UUID;

public class PublishHttp {
    public static void main(String[] arguments) throws InterruptedException {
        String id = "invoice-2026-0042-" + UUID.randomUUID(); // the same in every try
        String event = """
            {"id": "%s", "type": "invoice.paid", "data": {"invoice": "2026-0042", "total": 99.5}}""".formatted(id);
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("POSTHORN_URL") + "/api/v1/events"))
            .header("Authorization", "Bearer " + System.getenv("POSTHORN_TOKEN"))
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(30))
            .POST(HttpRequest.BodyPublishers.ofString(event))
            .build();
        HttpClient client = HttpClient.newHttpClient();

        for (int attempt = 0; attempt < 5; attempt++) {
            long pause = 1L << attempt;
            try {
                HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() == 202) { // the event is safe
                    System.out.println(id);
                    return;
                }
                if (answer.statusCode() != 429 && answer.statusCode() != 503) {
                    System.err.println("refused with " + answer.statusCode() + ": " + answer.body());
                    System.exit(1);
                }
                pause = answer.headers().firstValueAsLong("Retry-After").orElse(pause);
            } catch (java.io.IOException error) {
                System.err.println("no answer, trying again: " + error);
            }
            Thread.sleep(Duration.ofSeconds(pause).toMillis());
        }
        System.err.println("the event was not accepted");
        System.exit(1);
    }
}
