import java.util.List;
import java.util.Map;
import posthorn.ApiClient;
import posthorn.ApiException;
import posthorn.api.DeliveriesApi;
import posthorn.api.EventsApi;
import posthorn.api.TokensApi;
import posthorn.api.WebhooksApi;
import posthorn.model.*;

/**
 * Posthorn's whole way with a client that is generated from its description: `openapi-generator`
 * makes the package `posthorn` of the served document, for Java's own HTTP client and Jackson.
 *
 * <pre>java Walk http://localhost:8080 TOKEN https://example.com/hook</pre>
 *
 * `make clients-test` compiles it and runs it.
 */
public final class Walk {
    private final DeliveriesApi deliveries;
    private final EventsApi events;
    private final TokensApi tokens;
    private final WebhooksApi webhooks;

    private Walk(String address, String token) {
        var client = new ApiClient();
        client.updateBaseUri(address);
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token));
        deliveries = new DeliveriesApi(client);
        events = new EventsApi(client);
        tokens = new TokensApi(client);
        webhooks = new WebhooksApi(client);
    }

    private static void check(boolean holds, Object what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private interface Asked<T> {
        T ask() throws ApiException;
    }

    /** Asks until there is an answer, for a minute. */
    private static <T> T until(String what, Asked<T> asked) throws Exception {
        for (long end = System.nanoTime() + 60_000_000_000L; System.nanoTime() < end; Thread.sleep(50)) {
            T found = asked.ask();
            if (found != null) {
                return found;
            }
        }
        throw new AssertionError("not within a minute: " + what);
    }

    /** What a request is refused with. */
    private static ApiException refused(Asked<?> asked) {
        try {
            throw new AssertionError("not refused: " + asked.ask());
        } catch (ApiException refused) {
            return refused;
        }
    }

    private static Problem problem(ApiException refused) throws Exception {
        return ApiClient.createDefaultObjectMapper().readValue(refused.getResponseBody(), Problem.class);
    }

    private Delivery delivered(String webhook, String event, int attempts) throws Exception {
        return until(event + " is delivered", () -> {
            var page = deliveries.listWebhookDeliveries(
                    webhook, null, null, null, null, null, null, null, event, 10L, null, null);
            var ended = page.getDeliveries().stream()
                    .filter(it -> it.getStatus() == DeliveryStatus.DELIVERED && it.getAttempts() == attempts);
            return ended.findFirst().orElse(null);
        });
    }

    private void walk(String url) throws Exception {
        var me = tokens.showMe(null);
        check(me.getRole() == Role.MANAGER && me.getTenant() != null && me.getLimits().getWebhooks() > 0, me);

        // Everything that is wrong, at once.
        var wrong = new WebhookInput().url("nonsense").events(List.of()).timeout(1L);
        var errors = problem(refused(() -> webhooks.createWebhook(wrong, null))).getErrors();
        check(errors.stream().map(ProblemError::getField).toList().equals(List.of("url", "events", "timeout")), errors);
        check(errors.stream().allMatch(it -> it.getCode().equals("invalid_value")), errors);

        // Create: free objects, alternatives and closed lists are typed.
        var input = new WebhookInput()
                .url(url)
                .events("order.*")
                .filters(Map.of("total", Map.of("$gte", 10)))
                .metadata(Map.of("shop", 7))
                .rateLimit(new RateLimitForm(100));
        var created = webhooks.createWebhookWithHttpInfo(input, null);
        var webhook = created.getData();
        var location = created.getHeaders().get("location");
        check(location.equals(List.of("/api/v1/webhooks/" + webhook.getId())), location);
        check(webhook.getFilters().containsKey("total") && webhook.getMetadata().get("shop").equals(7), webhook);
        var limit = webhook.getRateLimit();
        check(limit.getLimit() == 100 && limit.getPer() == Period.SECOND, limit);

        // Publish, deliver, look.
        var event = new EventInput().id("java-1").type("order.created").data(Map.of("total", 25));
        var published = events.publishEvent(event, null, null, null, null);
        // Not a dry run, which has another type.
        check(published.getPublishedEvent().getId().equals("java-1"), published);
        var first = delivered(webhook.getId(), "java-1", 1);
        var attempts = deliveries.showDelivery(first.getId(), null).getAttemptLog();
        check(attempts.size() == 1 && attempts.get(0).getOutcome() == AttemptOutcome.SUCCESS, attempts);
        check(attempts.get(0).getResponseCode() == 200, attempts);

        // Tagged unions have a class for each variant.
        var batch = new EventBatchInput()
                .addEventsItem(new EventInput().type("order.created").data(Map.of("total", 1)))
                .addEventsItem(new EventInput().type("order").id("ä").data(0));
        var results = events.publishEvents(batch, null, null).getResults();
        check(results.get(0).getActualInstance() instanceof EventResultAccepted, results);
        check(results.get(1).getEventResultRefused().getField().equals("id"), results);
        var matching = events.showEvent("java-1", null, null, null, null).getMatching();
        check(matching.stream().anyMatch(it -> it.getActualInstance() instanceof MatchingMatched matched
                && matched.getWebhookId().equals(webhook.getId())), matching);

        // Rotate without a body, then replay.
        var rotated = webhooks.rotateSecret(webhook.getId(), null, null);
        check(!rotated.getSecret().equals(webhook.getSecret()), rotated);
        var again = new ReplayInput()
                .since(first.getQueuedAt())
                .status(List.of(FinishedState.DELIVERED))
                .eventTypes("order.created");
        var replay = deliveries.replayDeliveries(webhook.getId(), again, null).getReplay();
        until("the replay is finished", () -> {
            var now = deliveries.showReplay(webhook.getId(), replay.getId(), null);
            return now.getStatus() == ReplayStatus.FINISHED ? now : null;
        });
        delivered(webhook.getId(), "java-1", 2);

        // A client that has the state gets 304.
        var shown = webhooks.showWebhookWithHttpInfo(webhook.getId(), null, null);
        var etag = shown.getHeaders().get("etag").get(0);
        check(refused(() -> webhooks.showWebhook(webhook.getId(), null, etag)).getCode() == 304, "304");

        var gone = webhooks.deleteWebhookWithHttpInfo(webhook.getId(), etag, null);
        check(gone.getStatusCode() == 204, gone.getStatusCode());
        var missing = refused(() -> webhooks.showWebhook(webhook.getId(), null, null));
        check(problem(missing).getCode().equals("not_found"), missing);
    }

    public static void main(String[] arguments) throws Exception {
        new Walk(arguments[0], arguments[1]).walk(arguments[2]);
        System.out.println("Java: created, published, delivered, looked, rotated, replayed, deleted");
    }
}
