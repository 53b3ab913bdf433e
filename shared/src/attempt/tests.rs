use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::dialect::{Dialects, Message};
use crate::ids::{DeliveryId, EventUid};
use crate::webhook::Webhook;

async fn attempt(sender: &Sender, url: String) -> Report {
    let webhook = Webhook::plain("acme".parse().unwrap(), url);
    attempt_to(sender, &webhook, Duration::from_secs(5)).await
}

/// An attempt to deliver an event without data.
pub(crate) async fn attempt_to(sender: &Sender, webhook: &Webhook, timeout: Duration) -> Report {
    let dialects = Dialects::embedded();
    let uid = EventUid::generate();
    let message = Message {
        event_id: &uid.into(),
        event_type: &"order.created".parse().unwrap(),
        occurred_at: OffsetDateTime::now_utc(),
        data: "{}",
        attributes: None,
        tenant: &webhook.tenant,
        webhook_id: webhook.id,
        external_id: None,
        delivery_id: DeliveryId::for_event(uid),
    };
    let attempt = Attempt {
        message: &message,
        webhook,
        dialect: dialects.default(),
        timeout,
        purpose: Purpose::Delivery,
        keep: Keep::Excerpt,
        egress: None,
        trace: None,
    };
    sender.attempt(attempt).await
}

/// Answers every request, and leaves its connections open. `open` counts them.
async fn serve(listener: TcpListener, open: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let open = open.clone();
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            while stream
                .read_buf(&mut request)
                .await
                .is_ok_and(|read| read > 0)
            {
                // The body is a JSON object.
                if request.ends_with(b"}") {
                    request.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                }
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[tokio::test]
async fn connections_that_stay_open_are_bounded_over_all_hosts_together() {
    let destinations = Arc::new(Destinations {
        allow_http: true,
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
    });
    let resolver = CheckedResolver::new(destinations.clone());
    let mut sender = Sender::resolving(destinations, resolver, Egress::default()).unwrap();
    // A tenant that is alone gets half of them.
    Arc::get_mut(&mut sender.route).unwrap().idle = Idle::new(6);
    let open = Arc::<AtomicUsize>::default();
    let mut urls = Vec::new();
    for _ in 0..5 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}/", listener.local_addr().unwrap()));
        tokio::spawn(serve(listener, open.clone()));
    }
    // Each host is asked twice, one request after the other.
    for url in urls.iter().chain(&urls) {
        let report = attempt(&sender, url.clone()).await;
        assert!(report.result.is_ok(), "{report:?}");
    }
    for _ in 0..500 {
        if open.load(Ordering::Relaxed) == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(open.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_written_without_holding_up_other_requests() {
    assert!(is_work_for_a_thread(LARGE + 1));
    assert!(!is_work_for_a_thread(LARGE));
}

#[tokio::test]
async fn a_runtime_with_one_thread_writes_large_bodies_itself() {
    assert!(!is_work_for_a_thread(LARGE + 1));
}
