// Publishes one event over AMQP and waits for RabbitMQ's confirm.
// Needs github.com/rabbitmq/amqp091-go, 1.5 or later.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func publish(id string) error {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	mandatory := true
	err = channel.PublishWithContext(ctx,
		"posthorn.events", os.Getenv("TENANT")+".invoice.paid", mandatory, false,
		amqp.Publishing{
			MessageId:    id,
			ContentType:  "application/json",
			DeliveryMode: amqp.Persistent,
			Body:         []byte(`{"invoice": "2026-0042", "total": 99.5}`),
		})
	if err != nil {
		return err
	}
	select {
	case confirm, open := <-confirms:
		if !open {
			return errors.New("the connection was lost before the confirm")
		}
		if !confirm.Ack {
			return errors.New("RabbitMQ refused the event")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	// A message that can't be routed is returned before it is confirmed.
	select {
	case message := <-returned:
		return fmt.Errorf("no queue is bound for the event: %s", message.ReplyText)
	default:
		return nil
	}
}

func main() {
	id := fmt.Sprintf("invoice-2026-0042-%d", time.Now().UnixNano()) // the same in every try
	for attempt := 0; attempt < 5; attempt++ {
		err := publish(id)
		if err == nil {
			fmt.Println(id)
			return
		}
		// The event may have arrived all the same. Its id makes the repetition harmless.
		fmt.Fprintln(os.Stderr, "not confirmed, trying again:", err)
		time.Sleep(time.Second << attempt)
	}
	fmt.Fprintln(os.Stderr, "RabbitMQ did not confirm the event")
	os.Exit(1)
}
