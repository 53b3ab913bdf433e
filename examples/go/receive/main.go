// Receives webhooks of the dialect `standard` and verifies their signatures.
// Needs nothing but the standard library.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// How far a signed timestamp may be from our clock.
const tolerance = 5 * time.Minute

func verified(key []byte, header http.Header, body []byte) bool {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	ours := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	// While a secret rotates there are two signatures, with a space between them.
	for _, theirs := range strings.Split(header.Get("webhook-signature"), " ") {
		if hmac.Equal(ours, []byte(theirs)) {
			return true
		}
	}
	return false
}

func main() {
	// The key is what follows `whsec_`, decoded from base64.
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"))
	if err != nil {
		log.Fatal("WEBHOOK_SECRET is not a secret of the form whsec_…")
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2<<20))
		if err != nil || !verified(key, r.Header, body) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		// Queue the work here, and skip an event whose id you know.
		fmt.Println(string(body))
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Addr: "127.0.0.1:" + port, ReadTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
