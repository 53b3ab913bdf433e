use tokio::task::JoinHandle;

use super::super::bulkhead::MAX_DEFERRAL;
use super::*;

const QUICK: Duration = Duration::from_millis(1);

fn limiter_of(jobs: usize) -> Arc<Limiter> {
    of_new_tenant(&SharedCapacity::new(jobs))
}

fn of_new_tenant(capacity: &Arc<SharedCapacity>) -> Arc<Limiter> {
    Limiter::new(TenantShare::new(capacity.clone()))
}

fn limiter() -> Arc<Limiter> {
    limiter_of(1_000)
}

/// As if the requests of this endpoint had taken this long.
fn set_duration(limiter: &Limiter, duration: Duration) {
    limiter.state().mean_duration = duration;
}

async fn acquire(limiter: &Arc<Limiter>) -> Result<Permit, Refused> {
    limiter.acquire(clock::now()).await
}

/// Acquires all permits that are free. Afterwards requests seem to take an hour, so that
/// nobody waits for one to end.
async fn acquire_all(limiter: &Arc<Limiter>) -> Vec<Permit> {
    set_duration(limiter, Duration::from_secs(3600));
    let mut permits = Vec::new();
    while let Ok(permit) = acquire(limiter).await {
        permits.push(permit);
    }
    permits
}

fn answer_all(permits: Vec<Permit>) {
    for permit in permits {
        permit.release(false, QUICK, clock::now());
    }
}

/// A job that waits for a permit. Answers whether it got one.
async fn waiting_job(limiter: &Arc<Limiter>) -> JoinHandle<Result<(), Refused>> {
    let limiter = limiter.clone();
    let job = tokio::spawn(async move { acquire(&limiter).await.map(drop) });
    // It runs until it waits.
    tokio::task::yield_now().await;
    job
}

/// How far into the future this many refused jobs are deferred, in their order.
async fn deferrals(
    limiter: &Arc<Limiter>,
    jobs: usize,
    now: OffsetDateTime,
) -> Vec<time::Duration> {
    let mut deferrals = Vec::new();
    for _ in 0..jobs {
        match limiter.acquire(now).await {
            Err(Refused::Full(at) | Refused::Down(at)) => deferrals.push(at - now),
            Ok(_) => panic!("there is a free permit"),
        }
    }
    deferrals
}

fn seconds_between_first_and_last(deferrals: &[time::Duration]) -> i64 {
    (deferrals[deferrals.len() - 1] - deferrals[0]).whole_seconds()
}

/// As after many failures.
fn open_circuit(limiter: &Limiter, now: OffsetDateTime) {
    for _ in 0..20 {
        limiter.state().circuit.failed(now);
    }
}

#[tokio::test]
async fn refused_jobs_come_back_at_the_speed_of_a_struggling_endpoint() {
    let limiter = limiter();
    let _first = acquire_all(&limiter).await;
    limiter.state().limit = 8.0;
    let _rest = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_secs(16));
    limiter.state().health = Health::Struggling;
    let now = clock::now();
    limiter.state().horizon = now;
    // Eight requests in 16 s: one every two seconds.
    let spread = seconds_between_first_and_last(&deferrals(&limiter, 100, now).await);
    assert!((190..=200).contains(&spread), "{spread}");
}

#[tokio::test]
async fn a_backlog_is_planned_with_the_limit_that_is_expected_by_then() {
    let limiter = limiter();
    let _permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_secs(10));
    limiter.state().health = Health::Answering;
    let now = clock::now();
    let latest = async |jobs| {
        limiter.state().horizon = now;
        let deferrals = deferrals(&limiter, jobs, now).await;
        deferrals.iter().max().map(|latest| latest.whole_seconds())
    };
    // The limit grows from 2 to 64 in five rounds of 10 s, with 89 requests. After that
    // there are 6.4 requests a second.
    let seconds = latest(2_000).await.unwrap();
    assert!((335..=360).contains(&seconds), "{seconds}");
    // The limit of an endpoint that has struggled may not grow: two requests in 10 s.
    limiter.state().has_struggled = true;
    let seconds = latest(100).await.unwrap();
    assert!((495..=502).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_job_of_a_quick_endpoint_waits_for_a_permit_and_gets_it() {
    let limiter = limiter();
    let permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_millis(10));
    let job = waiting_job(&limiter).await;
    drop(permits);
    assert!(job.await.unwrap().is_ok());
    assert_eq!(limiter.state().in_flight, 0, "its permit was returned");
    assert_eq!(limiter.capacity().free(), 1_000);
}

#[tokio::test]
async fn no_job_waits_longer_than_the_longest_wait_and_the_next_jobs_dont_wait_at_all() {
    let limiter = limiter_of(8);
    let _permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_millis(10));
    assert!(
        matches!(acquire(&limiter).await, Err(Refused::Full(_))),
        "it waited in vain"
    );
    assert_eq!(limiter.state().health, Health::Struggling);
    assert_eq!(limiter.capacity().waiting(), 0);
    // A quarter of eight jobs may wait for endpoints that struggle.
    let _waiting = [waiting_job(&limiter).await, waiting_job(&limiter).await];
    let at_once = tokio::time::timeout(Duration::ZERO, acquire(&limiter)).await;
    assert!(matches!(at_once, Ok(Err(Refused::Full(_)))));
}

#[tokio::test]
async fn the_limit_grows_while_the_endpoint_answers_and_is_halved_when_it_struggles() {
    let limiter = limiter();
    for _ in 0..4 {
        answer_all(acquire_all(&limiter).await);
    }
    let grown = limiter.state().limit;
    assert!(grown > 4.0 * INITIAL_LIMIT, "{grown}");
    let permits = acquire_all(&limiter).await;
    set_duration(&limiter, QUICK);
    let now = clock::now();
    for permit in permits.into_iter().take(8) {
        permit.release(true, QUICK, now);
    }
    let halved = limiter.state().limit;
    assert_eq!(
        halved,
        grown / 2.0,
        "failures at the same time halve it once"
    );
}

#[tokio::test]
async fn an_endpoint_that_is_down_gets_no_requests_and_begins_with_one_when_it_is_back() {
    let limiter = limiter();
    let now = clock::now();
    let down_until = loop {
        match limiter.acquire(now).await {
            Ok(permit) => permit.release(true, QUICK, now),
            Err(Refused::Down(at)) => break at,
            Err(full) => panic!("{full:?}"),
        }
    };
    assert!(down_until > now + Duration::from_secs(4));
    let later = now + Duration::from_secs(60);
    let probe = limiter.acquire(later).await.ok().unwrap();
    assert!(matches!(
        limiter.acquire(later).await,
        Err(Refused::Down(_))
    ));
    // If the probe isn't sent, the next job is the probe.
    drop(probe);
    let later = later + Duration::from_secs(60);
    let probe = limiter.acquire(later).await.ok().unwrap();
    probe.release(false, QUICK, later);
    assert_eq!(limiter.state().limit, 1.0);
    assert!(limiter.acquire(later).await.is_ok());
    // The limit then grows by one a round at most.
    for _ in 0..10 {
        answer_all(acquire_all(&limiter).await);
    }
    let limit = limiter.state().limit;
    assert!((4.0..=12.0).contains(&limit), "{limit}");
}

#[tokio::test]
async fn waiting_jobs_are_refused_when_the_endpoint_goes_down() {
    let limiter = limiter();
    let permits = acquire_all(&limiter).await;
    set_duration(&limiter, QUICK);
    let job = waiting_job(&limiter).await;
    open_circuit(&limiter, clock::now());
    drop(permits);
    assert!(matches!(job.await.unwrap(), Err(Refused::Down(_))));
}

#[tokio::test]
async fn jobs_of_an_endpoint_that_is_down_dont_all_come_back_at_once() {
    let limiter = limiter();
    let now = clock::now();
    open_circuit(&limiter, now);
    set_duration(&limiter, Duration::from_micros(10));
    // 10,000 jobs, 5 ms apart.
    let spread = seconds_between_first_and_last(&deferrals(&limiter, 10_000, now).await);
    assert!((49..=51).contains(&spread), "{spread}");
}

/// `limiter`: makes a limiter of an endpoint that is not known yet.
async fn hang_many(capacity: &SharedCapacity, limiter: impl Fn() -> Arc<Limiter>) {
    let good = limiter();
    answer_all(vec![acquire(&good).await.ok().unwrap()]);
    let mut held = Vec::new();
    for _ in 0..1_000 {
        held.extend(acquire_all(&limiter()).await);
    }
    assert!(capacity.free() >= 60, "{}", capacity.free());
    for _ in 0..100 {
        answer_all(vec![acquire(&good).await.ok().unwrap()]);
    }
    // An endpoint that has answered and hangs now doesn't take all the rest.
    good.state().limit = MAX_LIMIT;
    held.extend(acquire_all(&good).await);
    assert!(capacity.free() >= 30, "{}", capacity.free());
}

#[tokio::test]
async fn however_many_endpoints_hang_there_is_capacity_for_those_that_answer() {
    let capacity = SharedCapacity::new(512);
    hang_many(&capacity, || of_new_tenant(&capacity)).await;
}

#[tokio::test]
async fn however_many_endpoints_of_a_tenant_hang_there_is_capacity_for_its_others_that_answer() {
    let capacity = SharedCapacity::new(512);
    let share = TenantShare::new(capacity.clone());
    hang_many(&capacity, || Limiter::new(share.clone())).await;
}

#[tokio::test]
async fn no_job_waits_for_a_permit_while_no_request_is_in_flight() {
    let capacity = SharedCapacity::new(8);
    let idle = of_new_tenant(&capacity);
    let answering = of_new_tenant(&capacity);
    answering.state().health = Health::Answering;
    let others: Vec<_> = (0..7).map(|_| TenantShare::new(capacity.clone())).collect();
    for other in &others {
        assert!(other.begin(Pace::Slow, clock::now()).is_some());
    }
    let at_once = tokio::time::timeout(Duration::ZERO, acquire(&idle)).await;
    assert!(matches!(at_once, Ok(Err(Refused::Full(_)))));
    assert_eq!(idle.state().health, Health::Unknown, "it had no request");
    // The reserve is for endpoints that answer.
    let last = acquire(&answering).await.ok().unwrap();
    // Nobody gets more than there is.
    let another = of_new_tenant(&capacity);
    another.state().health = Health::Answering;
    assert!(matches!(acquire(&another).await, Err(Refused::Full(_))));
    drop(last);
    assert!(acquire(&another).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_that_answered_others_isnt_blamed_for_a_job_that_waited_in_vain() {
    let limiter = limiter();
    let _permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_millis(10));
    limiter.state().health = Health::Answering;
    let job = waiting_job(&limiter).await;
    limiter.state().progress_at = clock::now();
    assert!(job.await.unwrap().is_err(), "it waited in vain");
    assert_eq!(limiter.state().health, Health::Answering);
}

#[tokio::test]
async fn no_job_is_deferred_by_more_than_a_quarter_of_an_hour() {
    let limiter = limiter();
    let _permits = acquire_all(&limiter).await;
    let deferrals = deferrals(&limiter, 5_000, clock::now()).await;
    assert!(deferrals.iter().all(|deferral| *deferral <= MAX_DEFERRAL));
}

#[tokio::test]
async fn a_job_of_an_endpoint_that_hangs_waits_for_as_long_again_as_it_has_hung() {
    let limiter = limiter();
    let permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_millis(2));
    let begun = limiter.state().progress_at;
    for hung in [4, 8] {
        // A thousand jobs, 5 ms apart.
        let now = begun + Duration::from_secs(hung);
        limiter.state().horizon = now;
        let deferrals = deferrals(&limiter, 1_000, now).await;
        assert_eq!(deferrals[0].whole_seconds(), hung as i64);
        let spread = seconds_between_first_and_last(&deferrals);
        assert!((4..=5).contains(&spread), "{spread}");
    }

    // When it is back, new jobs don't wait behind those.
    let now = begun + Duration::from_secs(10);
    for permit in permits {
        permit.release(false, Duration::from_millis(10), now);
    }
    assert!(limiter.state().horizon <= now);
}

#[tokio::test]
async fn an_endpoint_that_takes_as_long_as_usual_does_not_count_as_hanging() {
    let limiter = limiter();
    let _permits = acquire_all(&limiter).await;
    set_duration(&limiter, Duration::from_secs(10));
    // Two requests in 10 s: one every five seconds.
    let now = limiter.state().progress_at + Duration::from_secs(10);
    limiter.state().horizon = now;
    limiter.state().has_struggled = true;
    let spread = seconds_between_first_and_last(&deferrals(&limiter, 11, now).await);
    assert!((48..=51).contains(&spread), "{spread}");
}

#[tokio::test]
async fn slow_endpoints_of_one_tenant_leave_half_of_the_capacity_although_they_answer() {
    let capacity = SharedCapacity::new(512);
    let share = TenantShare::new(capacity.clone());
    let mut held = Vec::new();
    for _ in 0..1_000 {
        let limiter = Limiter::new(share.clone());
        limiter.state().health = Health::Answering;
        held.extend(acquire_all(&limiter).await);
    }
    assert_eq!(held.len(), 256);
    // Its jobs are deferred at once, and hold no place.
    let another = Limiter::new(share.clone());
    another.state().health = Health::Answering;
    set_duration(&another, Duration::from_secs(50));
    let at_once = tokio::time::timeout(Duration::ZERO, acquire(&another)).await;
    assert!(matches!(at_once, Ok(Err(Refused::Full(_)))));
    assert_eq!(capacity.waiting(), 0);
    assert!(another.trouble(clock::now()).is_none());
    // Other tenants' endpoints get what they need.
    let others = of_new_tenant(&capacity);
    for _ in 0..20 {
        answer_all(acquire_all(&others).await);
    }
    assert_eq!(others.state().limit, MAX_LIMIT);
    let most = acquire_all(&others).await;
    assert_eq!(most.len(), MAX_LIMIT as usize);
}

#[tokio::test]
async fn probes_of_a_tenant_with_many_endpoints_that_are_down_leave_capacity_to_its_others() {
    let capacity = SharedCapacity::new(64);
    let share = TenantShare::new(capacity.clone());
    let now = clock::now();
    let mut probes = Vec::new();
    for _ in 0..100 {
        let limiter = Limiter::new(share.clone());
        open_circuit(&limiter, now);
        probes.extend(limiter.acquire(now + Duration::from_secs(600)).await);
    }
    // Half, and half of the eighth that is for endpoints that answer.
    assert_eq!(probes.len(), 36);
    let good = Limiter::new(share.clone());
    good.state().health = Health::Answering;
    assert!(acquire(&good).await.is_ok());
}

#[tokio::test]
async fn the_probe_of_an_endpoint_passes_although_others_of_its_tenant_hang() {
    let capacity = SharedCapacity::new(64);
    let share = TenantShare::new(capacity.clone());
    let mut held = Vec::new();
    for _ in 0..100 {
        held.extend(acquire_all(&Limiter::new(share.clone())).await);
    }
    assert_eq!(held.len(), 32);
    let down = Limiter::new(share);
    let now = clock::now();
    open_circuit(&down, now);
    assert!(down.acquire(now + Duration::from_secs(600)).await.is_ok());
}
