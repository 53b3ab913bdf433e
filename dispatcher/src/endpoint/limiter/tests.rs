use super::*;
use shared::clock;

fn gate_of(capacity: usize) -> Arc<Gate> {
    Gate::new(Crowd::new(capacity))
}

fn gate() -> Arc<Gate> {
    gate_of(1_000)
}

/// As one that takes so long.
fn observed(gate: &Arc<Gate>, took: Duration) {
    gate.state().mean = took;
}

async fn enter(gate: &Arc<Gate>) -> Result<Place, Closed> {
    gate.enter(clock::now()).await
}

/// Takes what places there are.
async fn fill(gate: &Arc<Gate>) -> Vec<Place> {
    observed(gate, Duration::from_secs(3600));
    let mut taken = Vec::new();
    while let Ok(place) = enter(gate).await {
        taken.push(place);
    }
    taken
}

fn answer_all(places: Vec<Place>) {
    for place in places {
        place.leave(false, Duration::from_millis(1), clock::now());
    }
}

#[tokio::test]
async fn a_struggling_endpoints_surplus_is_spread_over_its_own_pace() {
    let gate = gate();
    let _all = fill(&gate).await;
    gate.state().places = 8.0;
    let _all = fill(&gate).await;
    observed(&gate, Duration::from_secs(16));
    gate.state().standing = Standing::Struggles;
    let now = clock::now();
    gate.state().horizon = now;
    // Eight places for 16 s each: one in two seconds.
    let mut moments = Vec::new();
    for _ in 0..100 {
        match gate.enter(now).await {
            Err(Closed::Full(at)) => moments.push(at - now),
            _ => panic!("there is a place"),
        }
    }
    let spread = (moments[99] - moments[0]).whole_seconds();
    assert!((190..=200).contains(&spread), "{spread}");
}

#[tokio::test]
async fn a_backlog_is_planned_with_the_places_there_will_be() {
    let gate = gate();
    let _all = fill(&gate).await;
    observed(&gate, Duration::from_secs(10));
    gate.state().standing = Standing::Answers;
    let now = clock::now();
    let last_of = async |jobs: usize| {
        gate.state().horizon = now;
        let mut last = now;
        for _ in 0..jobs {
            match gate.enter(now).await {
                Err(Closed::Full(at)) => last = last.max(at),
                _ => panic!("there is a place"),
            }
        }
        (last - now).whole_seconds()
    };
    // Two places become 64 in five rounds of 10 s, in which 89 are served; then
    // 6.4 are in a second.
    let all = last_of(2_000).await;
    assert!((335..=360).contains(&all), "{all}");
    // One that has struggled may have no more than it has: one in 5 s.
    gate.state().cautious = true;
    let all = last_of(100).await;
    assert!((495..=502).contains(&all), "{all}");
}

#[tokio::test]
async fn a_quick_endpoints_surplus_waits_for_its_turn() {
    let gate = gate();
    let held = fill(&gate).await;
    observed(&gate, Duration::from_millis(10));
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { enter(&gate).await.is_ok() }
    });
    tokio::task::yield_now().await;
    drop(held);
    assert!(waiting.await.unwrap());
    assert_eq!(gate.state().taken, 0, "its place is free again");
    assert_eq!(gate.crowd.free(), 1_000);
}

#[tokio::test]
async fn nobody_waits_longer_than_patience_and_the_next_dont_wait_at_all() {
    let gate = gate_of(8);
    let _held = fill(&gate).await;
    observed(&gate, Duration::from_millis(10));
    assert!(
        matches!(enter(&gate).await, Err(Closed::Full(_))),
        "it waited in vain"
    );
    assert_eq!(gate.state().standing, Standing::Struggles);
    assert_eq!(gate.crowd.waiting.load(Ordering::Relaxed), 0);
    // The room for those that struggle is small: two of eight.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let gate = gate.clone();
        waiting.push(tokio::spawn(async move { enter(&gate).await.is_ok() }));
        tokio::task::yield_now().await;
    }
    let at_once = tokio::time::timeout(Duration::ZERO, enter(&gate)).await;
    assert!(matches!(at_once, Ok(Err(Closed::Full(_)))));
}

#[tokio::test]
async fn places_grow_while_it_answers_and_halve_when_it_struggles() {
    let gate = gate();
    for _ in 0..4 {
        answer_all(fill(&gate).await);
    }
    let grown = gate.state().places;
    assert!(grown > 4.0 * FIRST_PLACES, "{grown}");
    let all = fill(&gate).await;
    observed(&gate, Duration::from_millis(1));
    let now = clock::now();
    for place in all.into_iter().take(8) {
        place.leave(true, Duration::from_millis(1), now);
    }
    assert_eq!(gate.state().places, grown / 2.0, "once for a volley");
}

#[tokio::test]
async fn one_that_is_down_is_not_asked_and_begins_with_one() {
    let gate = gate();
    let now = clock::now();
    let took = Duration::from_millis(1);
    let at = loop {
        match gate.enter(now).await {
            Ok(place) => place.leave(true, took, now),
            Err(Closed::Down(at)) => break at,
            Err(full) => panic!("{full:?}"),
        }
    };
    assert!(at > now + Duration::from_secs(4));
    let later = now + Duration::from_secs(60);
    let probe = gate.enter(later).await.ok().unwrap();
    assert!(matches!(gate.enter(later).await, Err(Closed::Down(_))));
    // A probe that is never made is left to the next.
    drop(probe);
    let later = later + Duration::from_secs(60);
    let probe = gate.enter(later).await.ok().unwrap();
    probe.leave(false, took, later);
    assert_eq!(gate.state().places, 1.0);
    assert!(gate.enter(later).await.is_ok());
    // What waited for it comes in slowly: at most one more with every round.
    for _ in 0..10 {
        answer_all(fill(&gate).await);
    }
    let places = gate.state().places;
    assert!((4.0..=12.0).contains(&places), "{places}");
}

#[tokio::test]
async fn those_that_wait_are_sent_away_when_it_goes_down() {
    let gate = gate();
    let held = fill(&gate).await;
    observed(&gate, Duration::from_millis(1));
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { enter(&gate).await }
    });
    tokio::task::yield_now().await;
    let now = clock::now();
    for _ in 0..20 {
        gate.state().circuit.failed(now);
    }
    drop(held);
    assert!(matches!(waiting.await.unwrap(), Err(Closed::Down(_))));
}

#[tokio::test]
async fn jobs_of_one_that_is_down_dont_all_come_back_at_once() {
    let gate = gate();
    let now = clock::now();
    for _ in 0..20 {
        gate.state().circuit.failed(now);
    }
    observed(&gate, Duration::from_micros(10));
    let mut moments = Vec::new();
    for _ in 0..10_000 {
        match gate.enter(now).await {
            Err(Closed::Down(at)) => moments.push(at - now),
            _ => panic!("it is down"),
        }
    }
    let spread = (moments[9_999] - moments[0]).whole_seconds();
    assert!((49..=51).contains(&spread), "{spread}");
}

#[tokio::test]
async fn however_many_hang_there_is_room_for_those_that_answer() {
    let crowd = Crowd::new(512);
    let good = Gate::new(crowd.clone());
    answer_all(vec![enter(&good).await.ok().unwrap()]);
    let mut held = Vec::new();
    let mut gates = Vec::new();
    for _ in 0..1_000 {
        let gate = Gate::new(crowd.clone());
        held.extend(fill(&gate).await);
        gates.push(gate);
    }
    assert!(crowd.free() >= 60, "{}", crowd.free());
    for _ in 0..100 {
        answer_all(vec![enter(&good).await.ok().unwrap()]);
    }
    // One that answered and hangs now doesn't take the rest.
    gates.push(good.clone());
    good.state().places = MOST_PLACES;
    held.extend(fill(&good).await);
    assert!(crowd.free() >= 30, "{}", crowd.free());
}

#[tokio::test]
async fn where_none_is_under_way_nobody_waits_for_one_to_end() {
    let crowd = Crowd::new(8);
    let (full, idle) = (Gate::new(crowd.clone()), Gate::new(crowd.clone()));
    full.state().places = MOST_PLACES;
    full.state().standing = Standing::Answers;
    crowd.under_way.fetch_add(7, Ordering::Relaxed);
    let at_once = tokio::time::timeout(Duration::ZERO, enter(&idle)).await;
    assert!(matches!(at_once, Ok(Err(Closed::Full(_)))));
    assert_eq!(idle.state().standing, Standing::New, "it wasn't asked");
    // One that answers gets in.
    assert!(enter(&full).await.is_ok());
}

#[tokio::test]
async fn who_waited_in_vain_while_others_were_let_in_thinks_no_worse_of_it() {
    let gate = gate();
    let _held = fill(&gate).await;
    observed(&gate, Duration::from_millis(10));
    gate.state().standing = Standing::Answers;
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { enter(&gate).await.is_ok() }
    });
    tokio::task::yield_now().await;
    gate.state().moved_at = clock::now();
    assert!(!waiting.await.unwrap(), "it waited in vain");
    assert_eq!(gate.state().standing, Standing::Answers);
}

#[tokio::test]
async fn nothing_is_put_off_farther_than_a_quarter_of_an_hour() {
    let gate = gate();
    let _all = fill(&gate).await;
    let now = clock::now();
    for _ in 0..5_000 {
        match gate.enter(now).await {
            Err(Closed::Full(at)) => assert!(at <= now + FARTHEST),
            _ => panic!("there is a place"),
        }
    }
}

#[tokio::test]
async fn one_that_hangs_shows_it_before_its_first_timeout() {
    let gate = gate();
    let held = fill(&gate).await;
    observed(&gate, Duration::from_millis(10));
    // Ten seconds for two places: one in five seconds.
    let now = clock::now() + Duration::from_secs(10);
    gate.state().horizon = now;
    let mut moments = Vec::new();
    for _ in 0..11 {
        match gate.enter(now).await {
            Err(Closed::Full(at)) => moments.push(at - now),
            _ => panic!("there is a place"),
        }
    }
    let spread = (moments[10] - moments[0]).whole_seconds();
    assert!((48..=51).contains(&spread), "{spread}");

    // When it is back, the next ones aren't behind those.
    for place in held {
        place.leave(false, Duration::from_millis(10), now);
    }
    assert!(gate.state().horizon <= now);
}
