// Posthorn's whole way with a client that is generated from its description:
// `openapi-generator` makes the package `posthorn` of the served document.
//
//	walk http://localhost:8080 TOKEN https://example.com/hook
//
// `make clients-test` builds it and runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"posthorn"
)

func check(holds bool, what string, about ...interface{}) {
	if !holds {
		fmt.Fprintln(os.Stderr, append([]interface{}{what}, about...)...)
		os.Exit(1)
	}
}

// The problem's code and field are in the error.
func succeeded(what string, err error) {
	var answered *posthorn.GenericOpenAPIError
	if errors.As(err, &answered) {
		check(false, what, err, string(answered.Body()))
	}
	check(err == nil, what, err)
}

func problem(err error) posthorn.Problem {
	var answered *posthorn.GenericOpenAPIError
	check(errors.As(err, &answered), "a problem, not", err)
	problem, ok := answered.Model().(posthorn.Problem)
	check(ok, "a problem, not", err, string(answered.Body()))
	return problem
}

func until(what string, ask func() bool) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ask() {
			return
		}
	}
	check(false, "not within a minute:", what)
}

func list(items ...string) posthorn.OneOrMany {
	// No items are an empty list, not null.
	items = append([]string{}, items...)
	return posthorn.ArrayOfStringAsOneOrMany(&items)
}

func main() {
	address, token, url := os.Args[1], os.Args[2], os.Args[3]
	configuration := posthorn.NewConfiguration()
	configuration.Servers = posthorn.ServerConfigurations{{URL: address}}
	api := posthorn.NewAPIClient(configuration)
	ctx := context.WithValue(context.Background(), posthorn.ContextAccessToken, token)

	delivered := func(webhook, event string, attempts int32) (found posthorn.Delivery) {
		until(event+" is delivered", func() bool {
			page, _, err := api.DeliveriesAPI.ListWebhookDeliveries(ctx, webhook).EventId(event).Limit(10).Execute()
			succeeded("list", err)
			for _, found = range page.Deliveries {
				if found.Status == posthorn.DELIVERYSTATUS_DELIVERED && found.Attempts == attempts {
					return true
				}
			}
			return false
		})
		return found
	}

	me, _, err := api.TokensAPI.ShowMe(ctx).Execute()
	succeeded("me", err)
	check(me.Role == posthorn.ROLE_MANAGER && me.Tenant.Get() != nil && me.Limits.Get().Webhooks > 0, "who is asking", me)

	// Everything that is wrong, at once.
	wrong := posthorn.NewWebhookInput(list(), "nonsense")
	wrong.SetTimeout(1)
	_, answer, err := api.WebhooksAPI.CreateWebhook(ctx).WebhookInput(*wrong).Execute()
	refused := problem(err)
	check(answer.StatusCode == http.StatusUnprocessableEntity && len(refused.Errors) == 3, "all errors", refused)
	for at, field := range []string{"url", "events", "timeout"} {
		check(refused.Errors[at].Field == field && refused.Errors[at].Code == "invalid_value", "the error of", field)
	}

	// Create: free objects, alternatives and closed lists are typed.
	pattern, rate := "order.*", int32(100)
	input := posthorn.NewWebhookInput(posthorn.StringAsOneOrMany(&pattern), url)
	input.Filters = map[string]interface{}{"total": map[string]interface{}{"$gte": 10}}
	input.Metadata = map[string]interface{}{"shop": 7}
	input.SetRateLimit(posthorn.Int32AsRateLimitForm(&rate))
	webhook, answer, err := api.WebhooksAPI.CreateWebhook(ctx).WebhookInput(*input).Execute()
	succeeded("create", err)
	check(answer.Header.Get("Location") == "/api/v1/webhooks/"+webhook.Id, "Location", answer.Header)
	check(webhook.Filters["total"] != nil && webhook.Metadata["shop"] == 7.0, "free objects", webhook)
	limit := webhook.RateLimit.Get()
	check(limit.Limit == 100 && limit.Per == posthorn.PERIOD_SECOND, "the rate limit", limit)

	// Publish, deliver, look.
	event := posthorn.NewEventInput(map[string]interface{}{"total": 25}, "order.created")
	event.SetId("go-1")
	published, _, err := api.EventsAPI.PublishEvent(ctx).EventInput(*event).Execute()
	succeeded("publish", err)
	// Not a dry run, which has another type.
	check(published.PublishedEvent != nil && published.PublishedEvent.Id == "go-1", "the event", published)
	first := delivered(webhook.Id, "go-1", 1)
	detail, _, err := api.DeliveriesAPI.ShowDelivery(ctx, first.Id).Execute()
	succeeded("show", err)
	check(len(detail.AttemptLog) == 1, "attempts", detail.AttemptLog)
	attempt := detail.AttemptLog[0]
	check(attempt.Outcome == posthorn.ATTEMPTOUTCOME_SUCCESS && *attempt.ResponseCode.Get() == 200, "the attempt", attempt)

	// Tagged unions have a type for each variant.
	other := posthorn.NewEventInput(0, "order")
	other.SetId("ä")
	batch := posthorn.NewEventBatchInput([]posthorn.EventInput{
		*posthorn.NewEventInput(map[string]interface{}{"total": 1}, "order.created"), *other,
	})
	result, _, err := api.EventsAPI.PublishEvents(ctx).EventBatchInput(*batch).Execute()
	succeeded("publish a batch", err)
	check(result.Results[0].EventResultAccepted != nil, "the first event", result)
	check(*result.Results[1].EventResultRefused.Field.Get() == "id", "the second event", result)
	shown, _, err := api.EventsAPI.ShowEvent(ctx, "go-1").Execute()
	succeeded("show the event", err)
	matched := false
	for _, one := range shown.Matching {
		matched = matched || one.MatchingMatched != nil && one.MatchingMatched.WebhookId == webhook.Id
	}
	check(matched, "it matched", shown.Matching)

	// Rotate without a body, then replay.
	rotated, _, err := api.WebhooksAPI.RotateSecret(ctx, webhook.Id).Execute()
	succeeded("rotate", err)
	check(rotated.Secret != webhook.Secret, "another secret")
	again := posthorn.NewReplayInput(first.QueuedAt)
	states := posthorn.ArrayOfFinishedStateAsFinishedStates(&[]posthorn.FinishedState{posthorn.FINISHEDSTATE_DELIVERED})
	created := "order.created"
	types := posthorn.StringAsOneOrMany(&created)
	again.Status, again.EventTypes = &states, &types
	begun, _, err := api.DeliveriesAPI.ReplayDeliveries(ctx, webhook.Id).ReplayInput(*again).Execute()
	succeeded("replay", err)
	check(begun.Replay != nil, "a replay", begun)
	until("the replay is finished", func() bool {
		now, _, err := api.DeliveriesAPI.ShowReplay(ctx, webhook.Id, begun.Replay.Id).Execute()
		succeeded("show the replay", err)
		return now.Status == posthorn.REPLAYSTATUS_FINISHED
	})
	delivered(webhook.Id, "go-1", 2)

	// A client that has the state gets 304.
	_, answer, err = api.WebhooksAPI.ShowWebhook(ctx, webhook.Id).Execute()
	succeeded("show", err)
	etag := answer.Header.Get("ETag")
	_, answer, _ = api.WebhooksAPI.ShowWebhook(ctx, webhook.Id).IfNoneMatch(etag).Execute()
	check(answer.StatusCode == http.StatusNotModified, "304", answer.Status)

	answer, err = api.WebhooksAPI.DeleteWebhook(ctx, webhook.Id).IfMatch(etag).Execute()
	succeeded("delete", err)
	check(answer.StatusCode == http.StatusNoContent, "204", answer.Status)
	_, _, err = api.WebhooksAPI.ShowWebhook(ctx, webhook.Id).Execute()
	check(problem(err).Code == "not_found", "404", err)
	fmt.Println("Go: created, published, delivered, looked, rotated, replayed, deleted")
}
