// Receives webhooks of the dialect `standard` and verifies their signatures.
// Needs nothing but Java 17: `java Receive.java`.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Base64;
import java.util.Optional;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receive {
    /** Seconds that a signed timestamp may differ from our clock. */
    private static final long TOLERANCE = 300;
    private static final int LARGEST = 2 * 1024 * 1024;

    private final byte[] key;

    private Receive(String secret) {
        // The key is the part after `whsec_`, decoded from base64.
        key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
    }

    public static void main(String[] arguments) throws IOException {
        Receive receiver = new Receive(System.getenv("WEBHOOK_SECRET"));
        int port = Integer.parseInt(Optional.ofNullable(System.getenv("PORT")).orElse("3000"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", receiver::handle);
        server.start();
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            byte[] body = exchange.getRequestBody().readNBytes(LARGEST);
            if (!isVerified(exchange, body)) {
                exchange.sendResponseHeaders(401, -1);
                return;
            }
            // Queue the work here, and skip an event whose id you know.
            System.out.println(new String(body, StandardCharsets.UTF_8));
            exchange.sendResponseHeaders(204, -1);
        }
    }

    private boolean isVerified(HttpExchange exchange, byte[] body) {
        String id = exchange.getRequestHeaders().getFirst("webhook-id");
        String timestamp = exchange.getRequestHeaders().getFirst("webhook-timestamp");
        String signatures = exchange.getRequestHeaders().getFirst("webhook-signature");
        if (id == null || timestamp == null || signatures == null) {
            return false;
        }
        try {
            if (Math.abs(Instant.now().getEpochSecond() - Long.parseLong(timestamp)) > TOLERANCE) {
                return false;
            }
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            mac.update((id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8));
            byte[] ours = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.UTF_8);
            // While a secret is being rotated there are two signatures, separated by a space.
            for (String theirs : signatures.split(" ")) {
                if (MessageDigest.isEqual(ours, theirs.getBytes(StandardCharsets.UTF_8))) {
                    return true;
                }
            }
            return false;
        } catch (NumberFormatException | GeneralSecurityException error) {
            return false;
        }
    }
}
