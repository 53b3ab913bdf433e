// Publishes one event over HTTP. Needs nothing but the standard library.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	id := fmt.Sprintf("invoice-2026-0042-%d", time.Now().UnixNano()) // the same in every try
	event := fmt.Sprintf(`{"id": %q, "type": "invoice.paid", "data": {"invoice": "2026-0042", "total": 99.5}}`, id)
	client := &http.Client{Timeout: 30 * time.Second}
	for attempt := 0; attempt < 5; attempt++ {
		pause := time.Second << attempt
		request, err := http.NewRequest("POST", os.Getenv("POSTHORN_URL")+"/api/v1/events", strings.NewReader(event))
		if err != nil {
			fail(err)
		}
		request.Header.Set("Authorization", "Bearer "+os.Getenv("POSTHORN_TOKEN"))
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		if err != nil {
			fmt.Fprintln(os.Stderr, "no answer, trying again:", err)
			time.Sleep(pause)
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		answer.Body.Close()
		switch answer.StatusCode {
		case http.StatusAccepted: // the event is safe
			fmt.Println(id)
			return
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
				pause = time.Duration(seconds) * time.Second
			}
		default:
			fail(fmt.Sprintf("refused with %d: %s", answer.StatusCode, body))
		}
		time.Sleep(pause)
	}
	fail("the event was not accepted")
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
