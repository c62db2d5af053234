//! Cases on deliveries: who holds a claim, and how it ends.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use keyward::{
    domain::{
        clock::{Micros, SECOND},
        event::{EventId, EventType},
    },
    store::{
        Store,
        events::{Claim, ClaimedDelivery, Delivery, DeliveryState, Outbox, Redelivery, Settlement},
        keys::WebhookRemoval,
    },
};

use crate::{
    change::{revocation, webhook},
    events::once,
    fixture::{Fixture, Raw, event_id, key, key_with, now, write},
};

/// A settlement as when the receiver has accepted the delivery.
pub fn delivered(claimed: &ClaimedDelivery) -> Settlement {
    Settlement {
        event: claimed.event.id,
        claim: claimed.claim,
        at: now(),
        state: DeliveryState::Delivered,
        next_attempt_at: 0,
        status: Some(204),
        error: String::new(),
        response: String::new(),
    }
}

fn claim(now: Micros) -> Claim {
    Claim { now, until: now + 30 * SECOND, limit: 1_000, busy_hosts: Vec::new() }
}

async fn take(store: &Arc<dyn Store>, claim: Claim) -> Vec<ClaimedDelivery> {
    store.claim_deliveries(claim).await.unwrap()
}

pub async fn each_event_of_a_key_with_a_webhook_has_a_delivery(f: Fixture) {
    let made = key_with(|key| "https://Hooks.Example:8443/a/b?c".clone_into(&mut key.webhook_url));
    let bare = key_with(|key| (key.webhook_url, key.webhook_version) = (String::new(), 0));
    let start = now();
    write(&f.store, [made.clone(), bare.clone()]).await;
    let update = webhook("https://b.example", now());
    f.store.set_webhook(made.id, update.clone()).await.unwrap();
    f.store.add_events(EventType::KeyExpiring, vec![once(made.id, 60), once(bare.id, 60)], now()).await.unwrap();
    let revoke = revocation("");
    f.store.revoke_key(made.id, revoke.clone()).await.unwrap();
    f.store.revoke_key(bare.id, revocation("")).await.unwrap();

    let claimed = take(&f.store, claim(now())).await;
    let hosts: BTreeMap<_, _> = claimed.iter().map(|one| (one.event.id, one.host.as_str())).collect();
    assert_eq!(
        hosts.values().copied().collect::<Vec<_>>(),
        ["hooks.example:8443", "b.example", "b.example", "b.example"]
    );
    assert!([EventId(made.id.0), update.event, revoke.event].iter().all(|id| hosts.contains_key(id)));
    for one in &claimed {
        assert_eq!(one.key, made.id);
        assert_eq!(f.store.find_event(one.event.id).await.unwrap().as_ref(), Some(&one.event));
        // It goes to the key's current webhook.
        assert_eq!((one.url.as_str(), one.webhook_version), ("https://b.example", 1));
        assert_eq!((one.attempt, one.claim), (1, 1));
    }
    let kept = f.store.find_delivery(EventId(made.id.0)).await.unwrap().unwrap();
    assert!(kept.next_attempt_at > start + 29 * SECOND && kept.state == DeliveryState::Pending, "{kept:?}");
    assert_eq!(f.store.find_delivery(EventId(bare.id.0)).await.unwrap(), None);

    let listed = f.store.deliveries_of_key(made.id, None, 3).await.unwrap();
    let rest = f.store.deliveries_of_key(made.id, Some(listed[2].event), 3).await.unwrap();
    let ids: Vec<EventId> = listed.iter().chain(&rest).map(|one| one.event).collect();
    assert_eq!(ids, hosts.keys().rev().copied().collect::<Vec<_>>());
    assert_eq!(f.store.outbox().await.unwrap(), Outbox { pending: 4, first_due: Some(kept.next_attempt_at) });
}

pub async fn events_after_a_removed_webhook_have_no_delivery(f: Fixture) {
    let made = key();
    write(&f.store, [made.clone()]).await;
    let removal = WebhookRemoval { url: made.webhook_url.clone(), at: now(), event: event_id() };
    f.store.disable_webhook(made.id, removal.clone()).await.unwrap();
    f.store.revoke_key(made.id, revocation("")).await.unwrap();
    let claimed = take(&f.store, claim(now())).await;
    assert_eq!(
        claimed.iter().map(|one| (one.event.id, one.url.as_str())).collect::<Vec<_>>(),
        [(EventId(made.id.0), "")]
    );
    assert_eq!(f.store.redeliver(removal.event, redelivery()).await.unwrap(), None);
    assert_eq!(f.store.redeliver(event_id(), redelivery()).await.unwrap(), None);
}

pub async fn a_delivery_is_claimed_by_one(f: Fixture) {
    const KEYS: usize = 200;
    write(&f.store, (0..KEYS).map(|_| key())).await;
    let workers = (0..8).map(|_| async {
        let mut mine = Vec::new();
        loop {
            let some = take(&f.store, Claim { limit: 7, ..claim(now()) }).await;
            if some.is_empty() {
                return mine;
            }
            mine.extend(some.into_iter().map(|one| one.event.id));
        }
    });
    let mut all: Vec<EventId> = join_all(workers).await.into_iter().flatten().collect();
    assert_eq!(all.len(), KEYS);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), KEYS, "two workers held the same delivery");
}

pub async fn an_unsettled_claim_becomes_due_again(f: Fixture) {
    write(&f.store, [key()]).await;
    let start = now();
    let first = take(&f.store, claim(start)).await;
    assert_eq!(first.len(), 1);
    assert_eq!(take(&f.store, claim(start + 29 * SECOND)).await, []);
    let second = take(&f.store, claim(start + 30 * SECOND)).await;
    assert_eq!((second[0].event.id, second[0].attempt), (first[0].event.id, 2));
    let later = Settlement {
        state: DeliveryState::Pending,
        next_attempt_at: start + 90 * SECOND,
        status: Some(500),
        error: "the receiver answered 500".to_owned(),
        ..delivered(&second[0])
    };
    assert!(f.store.settle_delivery(later).await.unwrap());
    assert_eq!(take(&f.store, claim(start + 89 * SECOND)).await, []);
    assert_eq!(take(&f.store, claim(start + 90 * SECOND)).await[0].attempt, 3);
    // The delivery is not due before the claim ends.
    let future = key_with(|key| key.created_at = start + 3_600 * SECOND);
    write(&f.store, [future]).await;
    assert_eq!(take(&f.store, claim(start + 91 * SECOND)).await, []);
}

pub async fn busy_hosts_are_skipped(f: Fixture) {
    let at = |host: &str| key_with(|key| key.webhook_url = format!("https://{host}/x"));
    write(&f.store, (0..20).map(|_| at("dead.example")).chain([at("quick.example"), at("slow.example")])).await;
    let busy = vec!["dead.example".to_owned(), "slow.example".to_owned()];
    let taken = take(&f.store, Claim { limit: 5, busy_hosts: busy, ..claim(now()) }).await;
    assert_eq!(taken.iter().map(|one| one.host.as_str()).collect::<Vec<_>>(), ["quick.example"]);
    assert_eq!(take(&f.store, Claim { limit: 5, ..claim(now()) }).await.len(), 5);
    assert_eq!(take(&f.store, claim(now())).await.len(), 16);
}

pub async fn each_spelling_of_a_host_is_one_host(f: Fixture) {
    let spellings = [
        "https://dead.example",
        "https://dead.example?1",
        "https://dead.example/?2",
        "https://dead.example#3",
        "https://dead.example.",
        "https://dead.example:443/x",
        "https://DEAD.example./y?z",
        "https://dead。example",
        "http://dead.example:80?5",
    ];
    let at = |url: &str| key_with(|key| url.clone_into(&mut key.webhook_url));
    let created = write(&f.store, spellings.map(at)).await;
    let changed = write(&f.store, spellings.map(|_| key_with(|key| key.webhook_url = String::new()))).await;
    for (id, url) in changed.iter().zip(spellings) {
        f.store.set_webhook(*id, webhook(url, now())).await.unwrap();
    }
    f.store.redeliver(EventId(changed[0].0), redelivery()).await.unwrap().unwrap();
    let other = write(&f.store, [at("https://dead.example:8443/")]).await;
    let busy_hosts = vec!["dead.example".to_owned()];
    let claimed = take(&f.store, Claim { busy_hosts, ..claim(now()) }).await;
    let hosts: Vec<_> = claimed.iter().map(|one| (one.key, one.host.as_str())).collect();
    assert_eq!(hosts, [(other[0], "dead.example:8443")]);
    for id in created.into_iter().chain(changed) {
        for delivery in f.store.deliveries_of_key(id, None, 10).await.unwrap() {
            assert_eq!(delivery.host, "dead.example");
        }
    }
    assert_eq!(take(&f.store, claim(now())).await.len(), 2 * spellings.len() + 1);
}

/// As for a key of a version without the column, and for its events since.
pub async fn a_delivery_without_a_host_gets_it_with_its_first_claim(mut f: Fixture) {
    let made = key_with(|key| "https://Old.Example:443/x".clone_into(&mut key.webhook_url));
    write(&f.store, [made.clone()]).await;
    f.raw.execute("UPDATE keyward_keys SET webhook_host = ''").await.unwrap();
    f.raw.execute("UPDATE keyward_deliveries SET host = ''").await.unwrap();
    let revoked = revocation("");
    f.store.revoke_key(made.id, revoked.clone()).await.unwrap();
    let first = take(&f.store, claim(now())).await;
    assert_eq!(first.iter().map(|one| one.host.as_str()).collect::<Vec<_>>(), ["old.example", "old.example"]);
    for one in &first {
        assert!(f.store.release_delivery(one.event.id, one.claim, now()).await.unwrap());
        assert_eq!(f.store.find_delivery(one.event.id).await.unwrap().unwrap().host, "old.example");
    }
    let busy_hosts = vec!["old.example".to_owned()];
    assert_eq!(take(&f.store, Claim { busy_hosts, ..claim(now()) }).await, []);
}

pub async fn a_released_claim_counts_no_attempt(f: Fixture) {
    write(&f.store, [key()]).await;
    let start = now();
    let first = take(&f.store, claim(start)).await.remove(0);
    let before = f.store.find_delivery(first.event.id).await.unwrap().unwrap();
    assert!(f.store.release_delivery(first.event.id, first.claim, start + SECOND).await.unwrap());
    let after = f.store.find_delivery(first.event.id).await.unwrap().unwrap();
    assert_eq!(after, Delivery { attempts: 0, next_attempt_at: start + SECOND, ..before });
    assert!(take(&f.store, claim(start)).await.is_empty());
    let again = take(&f.store, claim(start + SECOND)).await.remove(0);
    assert!(again.claim > first.claim, "a claim that was released is over");
    assert_eq!(ClaimedDelivery { claim: first.claim, ..again }, first);
    // A lost claim releases nothing.
    let held = take(&f.store, claim(start + 60 * SECOND)).await.remove(0);
    assert!(!f.store.release_delivery(first.event.id, first.claim, start).await.unwrap());
    assert!(f.store.settle_delivery(delivered(&held)).await.unwrap());
    assert!(!f.store.release_delivery(first.event.id, held.claim, start).await.unwrap());
}

/// A claim that is released lowers the number of attempts to what it was for an earlier claim.
pub async fn a_late_settlement_is_not_taken_for_a_later_claim(f: Fixture) {
    write(&f.store, [key()]).await;
    let start = now();
    let first = take(&f.store, claim(start)).await.remove(0);
    let second = take(&f.store, claim(start + 30 * SECOND)).await.remove(0);
    assert!(f.store.release_delivery(second.event.id, second.claim, start + 60 * SECOND).await.unwrap());
    assert!(!f.store.release_delivery(second.event.id, second.claim, start).await.unwrap(), "released once");
    assert!(!f.store.settle_delivery(delivered(&first)).await.unwrap(), "nobody holds a claim");
    let third = take(&f.store, claim(start + 60 * SECOND)).await.remove(0);
    assert_eq!((second.attempt, third.attempt), (2, 2));
    for late in [&first, &second] {
        assert!(!f.store.settle_delivery(delivered(late)).await.unwrap(), "{late:?}");
        assert!(!f.store.release_delivery(late.event.id, late.claim, start).await.unwrap(), "{late:?}");
    }
    assert!(f.store.settle_delivery(delivered(&third)).await.unwrap());
}

/// Changes events without the trigger that refuses it.
pub async fn spoil_events(f: &mut Fixture, change: &'static str) {
    let allow = match &f.raw {
        Raw::Postgres(_) => "ALTER TABLE keyward_events DISABLE TRIGGER USER",
        Raw::Sqlite(_) => "DROP TRIGGER IF EXISTS keyward_events_no_update",
    };
    f.raw.execute(allow).await.unwrap();
    f.raw.execute(change).await.unwrap();
}

/// A good key, and one whose event is spoilt.
async fn good_and_bad(f: &Fixture) -> (EventId, EventId) {
    let ids = write(&f.store, [key(), key_with(|key| "bad".clone_into(&mut key.created_by))]).await;
    (EventId(ids[1].0), EventId(ids[0].0))
}

pub async fn a_delivery_that_cannot_be_read_is_ended_alone(mut f: Fixture) {
    let (good, bad) = good_and_bad(&f).await;
    spoil_events(&mut f, "UPDATE keyward_events SET record = 'none' WHERE actor = 'bad'").await;
    let start = now();
    let claimed = take(&f.store, claim(start)).await;
    assert_eq!(claimed.iter().map(|one| one.event.id).collect::<Vec<_>>(), [good]);
    let ended = f.store.find_delivery(bad).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.settled_at, ended.attempts), (DeliveryState::Failed, Some(start), 1));
    assert_eq!(ended.last_error, "the event cannot be read");
    assert_eq!(f.store.unreadable_rows(), 1);
    assert_eq!(take(&f.store, claim(start + 3_600 * SECOND)).await.len(), 1, "it is over");
}

/// As during a rolling upgrade.
pub async fn a_delivery_of_an_unknown_type_is_left_to_newer_versions(mut f: Fixture) {
    let (good, bad) = good_and_bad(&f).await;
    spoil_events(&mut f, "UPDATE keyward_events SET type = 'key.renamed' WHERE actor = 'bad'").await;
    let start = now();
    let claimed = take(&f.store, claim(start)).await;
    assert_eq!(claimed.iter().map(|one| one.event.id).collect::<Vec<_>>(), [good]);
    let left = f.store.find_delivery(bad).await.unwrap().unwrap();
    assert_eq!((left.state, left.attempts), (DeliveryState::Pending, 0));
    assert_eq!(left.next_attempt_at, start + 30 * SECOND);
    assert_eq!(f.store.unreadable_rows(), 1);
    // A newer version knows the type.
    spoil_events(&mut f, "UPDATE keyward_events SET type = 'key.created' WHERE actor = 'bad'").await;
    assert!(f.store.settle_delivery(delivered(&claimed[0])).await.unwrap());
    let claimed = take(&f.store, claim(start + 30 * SECOND)).await;
    assert_eq!(claimed.iter().map(|one| (one.event.id, one.attempt)).collect::<Vec<_>>(), [(bad, 1)]);
}

pub async fn a_lost_claim_settles_nothing(f: Fixture) {
    write(&f.store, [key()]).await;
    let start = now();
    let lost = take(&f.store, claim(start)).await.remove(0);
    let held = take(&f.store, claim(start + 30 * SECOND)).await.remove(0);
    assert!(!f.store.settle_delivery(delivered(&lost)).await.unwrap());
    assert_eq!(f.store.find_delivery(lost.event.id).await.unwrap().unwrap().state, DeliveryState::Pending);
    let long = format!("{}é\0", "x".repeat(1_023));
    let failed = Settlement {
        state: DeliveryState::Failed,
        status: None,
        error: "no route\0".to_owned(),
        response: long,
        ..delivered(&held)
    };
    assert!(f.store.settle_delivery(failed.clone()).await.unwrap());
    assert!(!f.store.settle_delivery(delivered(&held)).await.unwrap(), "a settled delivery is not settled again");
    let kept = f.store.find_delivery(lost.event.id).await.unwrap().unwrap();
    let expected = Delivery {
        event: lost.event.id,
        key: lost.key,
        host: "example.com".to_owned(),
        state: DeliveryState::Failed,
        attempts: 2,
        next_attempt_at: 0,
        attempted_at: Some(failed.at),
        settled_at: Some(failed.at),
        last_status: None,
        last_error: "no route ".to_owned(),
        last_response: "x".repeat(1_023),
    };
    assert_eq!(kept, expected);
    assert_eq!(take(&f.store, claim(start + 3_600 * SECOND)).await, []);
    assert_eq!(f.store.outbox().await.unwrap(), Outbox::default());
}

pub async fn a_redelivery_counts_attempts_anew(f: Fixture) {
    let quiet = key_with(|key| key.webhook_url = String::new());
    let ids = write(&f.store, [key(), quiet.clone()]).await;
    let first = take(&f.store, claim(now())).await.remove(0);
    f.store.settle_delivery(delivered(&first)).await.unwrap();
    for round in 1..3 {
        let again = f.store.redeliver(first.event.id, redelivery()).await.unwrap().unwrap();
        assert_eq!((again.state, again.settled_at, again.attempts), (DeliveryState::Pending, None, round));
        let taken = take(&f.store, claim(now())).await.remove(0);
        assert_eq!((taken.attempt, taken.claim, &taken.event), (1, round + 1, &first.event));
        f.store.settle_delivery(delivered(&taken)).await.unwrap();
    }
    // An event that was written before the key had a webhook.
    assert_eq!(f.store.redeliver(EventId(quiet.id.0), redelivery()).await.unwrap(), None);
    f.store.set_webhook(ids[0], webhook("https://new.example/", now())).await.unwrap();
    let late = f.store.redeliver(EventId(quiet.id.0), redelivery()).await.unwrap().unwrap();
    assert_eq!((late.host.as_str(), late.attempts), ("new.example", 0));
}

/// A request to deliver again.
pub fn redelivery() -> Redelivery {
    Redelivery { at: now(), by: "user:ann".to_owned(), event: event_id() }
}

/// Otherwise a redelivery would be delivered, too.
pub async fn a_redelivery_is_an_event_without_a_delivery(f: Fixture) {
    let made = key();
    f.store.create_key(made.clone()).await.unwrap();
    let created = EventId(made.id.0);
    let asked = redelivery();
    // A retry whose first reply was lost succeeds, and changes nothing more.
    for _ in 0..2 {
        assert_eq!(
            f.store.redeliver(created, asked.clone()).await.unwrap().map(|delivery| delivery.event),
            Some(created)
        );
    }
    let found = crate::events::events(&f.store).await;
    assert_eq!(found.len(), 2, "{found:?}");
    let event = found.iter().find(|event| event.id == asked.event).unwrap();
    assert_eq!((event.id, event.kind, event.actor.as_str()), (asked.event, EventType::EventRedelivered, "user:ann"));
    assert_eq!(crate::events::key_of(event).id, made.id);
    assert_eq!(event.details, [("event".to_owned(), created.to_string())].into());
    assert_eq!(f.store.find_delivery(event.id).await.unwrap(), None);
    // What cannot be delivered again is no event.
    assert_eq!(f.store.redeliver(event_id(), redelivery()).await.unwrap(), None);
    assert_eq!(crate::events::events(&f.store).await.len(), 2);
}
