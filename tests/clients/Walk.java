// Posthorn's whole way with a client that is generated from its description:
// `openapi-generator` makes the package `posthorn` of the served document.
//
//     java Walk http://localhost:8080 TOKEN https://example.com/hook
//
// `make clients-test` compiles it and runs it.

import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.ClassicHttpResponse;
import org.apache.hc.core5.http.EntityDetails;
import org.apache.hc.core5.http.HttpResponse;
import org.apache.hc.core5.http.io.entity.StringEntity;
import org.apache.hc.core5.http.protocol.HttpContext;
import posthorn.ApiClient;
import posthorn.ApiException;
import posthorn.api.DeliveriesApi;
import posthorn.api.EventsApi;
import posthorn.api.TokensApi;
import posthorn.api.WebhooksApi;
import posthorn.model.Attempt;
import posthorn.model.AttemptOutcome;
import posthorn.model.Delivery;
import posthorn.model.DeliveryPage;
import posthorn.model.DeliveryStatus;
import posthorn.model.EventBatchInput;
import posthorn.model.EventInput;
import posthorn.model.EventResult;
import posthorn.model.EventResultAccepted;
import posthorn.model.EventResultRefused;
import posthorn.model.FinishedState;
import posthorn.model.MatchingMatched;
import posthorn.model.Me;
import posthorn.model.Period;
import posthorn.model.Problem;
import posthorn.model.ProblemError;
import posthorn.model.PublishedEvent;
import posthorn.model.RateLimit;
import posthorn.model.Replay;
import posthorn.model.ReplayInput;
import posthorn.model.ReplayStatus;
import posthorn.model.Role;
import posthorn.model.Webhook;
import posthorn.model.WebhookInput;

public class Walk {
    /** A global token names a tenant. This one is a tenant's. */
    private static final String NO_TENANT = null;

    /** The last answer, for its status and headers: the client doesn't return them. Only one thread may use this. */
    private HttpResponse answer;
    private final ApiClient api = new ApiClient(HttpClients.custom().addResponseInterceptorLast(this::keep).build());
    private final WebhooksApi webhooks = new WebhooksApi(api);
    private final EventsApi events = new EventsApi(api);
    private final DeliveriesApi deliveries = new DeliveriesApi(api);

    private Walk(String address, String token) {
        api.setBasePath(address);
        api.setBearerToken(token);
    }

    public static void main(String[] arguments) throws Exception {
        new Walk(arguments[0], arguments[1]).go(arguments[2]);
    }

    private void go(String url) throws Exception {
        Me me = new TokensApi(api).showMe(NO_TENANT);
        check(me.getRole() == Role.MANAGER && me.getTenant() != null, "who is asking", me);
        check(me.getLimits().getWebhooks() > 0, "a tenant's token has the tenant's limits", me);

        // Everything that is wrong, at once.
        WebhookInput wrong = new WebhookInput().url("nonsense").events(List.of()).timeout(1L);
        Problem refused = problem(422, () -> webhooks.createWebhook(wrong, NO_TENANT));
        List<String> fields = refused.getErrors().stream().map(ProblemError::getField).toList();
        check(fields.equals(List.of("url", "events", "timeout")), "all errors", refused);
        boolean invalid = refused.getErrors().stream().allMatch(error -> error.getCode().equals("invalid_value"));
        check(invalid, "their codes", refused);

        // Create: free objects and closed lists are typed. A list or one string is an `Object`.
        Webhook webhook = webhooks.createWebhook(new WebhookInput()
            .url(url)
            .events("order.*")
            .filters(Map.of("total", Map.of("$gte", 10)))
            .metadata(Map.of("shop", 7))
            .rateLimit(100), NO_TENANT);
        check(header("Location").equals("/api/v1/webhooks/" + webhook.getId()), "Location", header("Location"));
        check(webhook.getFilters().equals(Map.of("total", Map.of("$gte", 10))), "free objects", webhook);
        check(webhook.getMetadata().get("shop").equals(7), "free objects", webhook);
        RateLimit limit = webhook.getRateLimit();
        check(limit.getLimit() == 100 && limit.getPer() == Period.SECOND, "the rate limit", limit);

        // Publish, deliver, look.
        EventInput event = new EventInput().id("java-1").type("order.created").data(Map.of("total", 25));
        // A dry run would have another type.
        PublishedEvent published = (PublishedEvent) events.publishEvent(event, null, null, null, NO_TENANT);
        check(published.getId().equals("java-1"), "the event", published);
        Delivery first = delivered(webhook, "java-1", 1);
        List<Attempt> log = deliveries.showDelivery(first.getId(), NO_TENANT).getAttemptLog();
        check(log.size() == 1, "attempts", log);
        Attempt attempt = log.get(0);
        check(attempt.getOutcome() == AttemptOutcome.SUCCESS, "the attempt", attempt);
        check(attempt.getResponseCode() == 200, "its status", attempt);

        // Tagged unions have a class for each variant.
        EventBatchInput batch = new EventBatchInput()
            .addEventsItem(new EventInput().type("order.created").data(Map.of("total", 1)))
            .addEventsItem(new EventInput().type("order").id("ä").data(0));
        List<EventResult> results = events.publishEvents(batch, null, NO_TENANT).getResults();
        check(results.get(0) instanceof EventResultAccepted, "the first event", results);
        check(results.get(1) instanceof EventResultRefused, "the second event", results);
        check(((EventResultRefused) results.get(1)).getField().equals("id"), "its field", results);
        boolean matched = events.showEvent("java-1", null, null, null, NO_TENANT).getMatching().stream()
            .anyMatch(one -> one instanceof MatchingMatched match && match.getWebhookId().equals(webhook.getId()));
        check(matched, "it matched", webhook);

        // Rotate without a body, then replay.
        Webhook rotated = webhooks.rotateSecret(webhook.getId(), NO_TENANT, null);
        check(!rotated.getSecret().equals(webhook.getSecret()), "another secret", rotated);
        ReplayInput again = new ReplayInput()
            .since(first.getQueuedAt())
            .status(List.of(FinishedState.DELIVERED))
            .eventTypes("order.created");
        Replay begun = (Replay) deliveries.replayDeliveries(webhook.getId(), again, NO_TENANT);
        until("the replay is finished", () -> {
            Replay now = deliveries.showReplay(webhook.getId(), begun.getId(), NO_TENANT);
            return Optional.of(now).filter(replay -> replay.getStatus() == ReplayStatus.FINISHED);
        });
        delivered(webhook, "java-1", 2);

        // A client that has the state gets 304.
        webhooks.showWebhook(webhook.getId(), NO_TENANT, null);
        String etag = header("ETag");
        ApiException same = failed(() -> webhooks.showWebhook(webhook.getId(), NO_TENANT, etag));
        check(same.getCode() == 304, "304", same);

        webhooks.deleteWebhook(webhook.getId(), etag, NO_TENANT);
        check(answer.getCode() == 204, "204", answer);
        Problem missing = problem(404, () -> webhooks.showWebhook(webhook.getId(), NO_TENANT, null));
        check(missing.getCode().equals("not_found"), "404", missing);
        System.out.println("Java: created, published, delivered, looked, rotated, replayed, deleted");
    }

    private Delivery delivered(Webhook webhook, String event, int attempts) throws Exception {
        return until(event + " is delivered", () -> {
            DeliveryPage page = deliveries.listWebhookDeliveries(
                webhook.getId(), null, null, null, null, null, null, null, event, 10L, null, NO_TENANT);
            return page.getDeliveries().stream()
                .filter(one -> one.getStatus() == DeliveryStatus.DELIVERED && one.getAttempts() == attempts)
                .findFirst();
        });
    }

    private void keep(HttpResponse answer, EntityDetails body, HttpContext context) {
        this.answer = answer;
        if (body == null) {
            // An answer 304 has no body. The client expects one in every refusal.
            ((ClassicHttpResponse) answer).setEntity(new StringEntity(""));
        }
    }

    private String header(String name) {
        return answer.getFirstHeader(name).getValue();
    }

    /** The problem that a request is answered with. */
    private Problem problem(int status, Request<?> request) throws Exception {
        ApiException refused = failed(request);
        check(refused.getCode() == status, "a problem " + status, refused);
        return api.getObjectMapper().readValue(refused.getResponseBody(), Problem.class);
    }

    private static ApiException failed(Request<?> request) {
        try {
            throw new AssertionError("not refused: " + request.send());
        } catch (ApiException refused) {
            return refused;
        }
    }

    private static <T> T until(String what, Request<Optional<T>> ask) throws Exception {
        for (long end = System.nanoTime() + 60_000_000_000L; System.nanoTime() < end; Thread.sleep(50)) {
            Optional<T> found = ask.send();
            if (found.isPresent()) {
                return found.get();
            }
        }
        throw new AssertionError("not within a minute: " + what);
    }

    private static void check(boolean holds, String what, Object about) {
        if (!holds) {
            throw new AssertionError(what + ": " + about);
        }
    }

    private interface Request<T> {
        T send() throws ApiException;
    }
}
