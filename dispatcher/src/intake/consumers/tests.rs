use super::*;

/// A replica for 512 jobs whose first consumer is full.
const FULL: Seen = Seen {
    most: MostMessages {
        share: 512,
        stuck: 512,
    },
    base: 32,
    prefetch: 32,
    held: 32,
    held_by_cancelled: 0,
    are_full: true,
    is_first_full: true,
    room: 0,
    has_room: false,
    idle: Duration::ZERO,
    is_exceeded: false,
    calm: Duration::ZERO,
};

#[test]
fn messages_with_one_job_each_are_taken_up_to_the_replicas_concurrency() {
    let mut prefetch = 32;
    // Each step doubles what is held, so that the average follows.
    for more in [32, 64, 128, 256] {
        let seen = Seen {
            prefetch,
            held: prefetch,
            room: 512 - prefetch,
            ..FULL
        };
        assert_eq!(seen.wish(), Wish::Grow(more));
        prefetch += more;
    }
    let seen = Seen {
        prefetch,
        held: prefetch,
        room: 100,
        ..FULL
    };
    assert_eq!(seen.wish(), Wish::Keep);
    // What cancelled consumers hold counts.
    let seen = Seen {
        held_by_cancelled: 470,
        room: 480,
        ..FULL
    };
    assert_eq!(seen.wish(), Wish::Grow(10));
}

#[test]
fn a_replica_for_few_jobs_takes_as_many_messages() {
    for most in 2..=4 {
        let seen = Seen {
            most: MostMessages {
                share: most,
                stuck: most,
            },
            base: 1,
            prefetch: 1,
            held: 1,
            room: most - 1,
            ..FULL
        };
        assert_eq!(seen.wish(), Wish::Grow(most - 1));
    }
}

#[test]
fn slow_jobs_in_every_message_leave_no_room_unused() {
    // 60 of 64 jobs may be taken, and an average message has 16.
    let seen = Seen {
        room: 3,
        has_room: true,
        ..FULL
    };
    assert_eq!(seen.wish(), Wish::Keep);
    let seen = Seen {
        idle: STUCK,
        ..seen
    };
    assert_eq!(seen.wish(), Wish::Grow(3));
    // A replica for few jobs has room for a part of an average message.
    assert_eq!(Seen { room: 0, ..seen }.wish(), Wish::Grow(1));
    let has_room = false;
    let full = Seen {
        room: 0,
        has_room,
        ..seen
    };
    assert_eq!(full.wish(), Wish::Keep);
}

#[test]
fn slow_jobs_that_hold_a_queues_whole_share_leave_room_for_its_other_jobs() {
    // One of four queues. A tenant's slow webhooks are all in its shard.
    let most = MostMessages {
        share: 128,
        stuck: 512,
    };
    let seen = Seen {
        most,
        prefetch: 128,
        held: 128,
        room: 384,
        has_room: true,
        ..FULL
    };
    assert_eq!(seen.wish(), Wish::Keep);
    let idle = STUCK;
    assert_eq!(Seen { idle, ..seen }.wish(), Wish::Grow(128));
    let all = Seen {
        prefetch: 512,
        held: 512,
        ..seen
    };
    assert_eq!(Seen { idle, ..all }.wish(), Wish::Keep);
}

#[test]
fn full_bundles_are_taken_as_jobs_are_done() {
    assert_eq!(FULL.wish(), Wish::Keep);
    // Half of the bundles' jobs are done, and their other halves are slow.
    let seen = Seen { room: 16, ..FULL };
    assert_eq!(seen.wish(), Wish::Grow(16));
}

#[test]
fn what_was_added_goes_when_it_brought_too_much_or_isnt_needed() {
    let grown = Seen {
        prefetch: 512,
        held: 512,
        ..FULL
    };
    let is_exceeded = true;
    let calm = CALM;
    let exceeded = Seen {
        is_exceeded,
        ..grown
    };
    assert_eq!(exceeded.wish(), Wish::Shrink);
    assert_eq!(Seen { calm, ..grown }.wish(), Wish::Shrink);
    assert!(grown.needs_added());
    // While slow jobs hold the first one, another one takes what comes.
    let slow = Seen { held: 32, ..grown };
    assert!(slow.needs_added());
    let is_first_full = false;
    assert!(
        !Seen {
            is_first_full,
            ..slow
        }
        .needs_added()
    );
    // The first consumer stays.
    let first = Seen {
        is_exceeded,
        ..FULL
    };
    assert_eq!(first.wish(), Wish::Keep);
}
