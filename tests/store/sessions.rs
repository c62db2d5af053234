//! Cases on sessions of the dashboard.

use std::sync::Arc;

use futures::future::join_all;
use keyward::{
    domain::{
        clock::{Entropy as _, Micros, SECOND, SystemEntropy},
        dashboard::{DashboardSession, Person, SessionId, SessionOwner},
        key::Digest,
        session::{OrgMembership, Role},
    },
    store::{Store, sessions::RefreshedPerson},
};

use crate::fixture::{Fixture, now};

/// A session of a key's holder that begins at a time and lasts for an hour.
pub fn session(actor: &str, at: Micros) -> DashboardSession {
    let mut id = [0; 32];
    SystemEntropy.fill(&mut id);
    DashboardSession {
        id: SessionId(id),
        actor: actor.to_owned(),
        owner: SessionOwner::Credential(Digest([7; 32])),
        created_at: at,
        last_seen_at: at,
        idle_at: at + 3_600 * SECOND,
        ends_at: at + 7_200 * SECOND,
    }
}

fn person(expires: Micros) -> Person {
    Person {
        issuer: "https://login.example".to_owned(),
        client: "keyward".to_owned(),
        organizations: vec![
            OrgMembership { organization: "acme \"é\"".to_owned(), role: Role::Owner },
            OrgMembership { organization: "globex".to_owned(), role: Role::Member },
        ],
        token_expires_at: expires,
        refresh_token: vec![0, 255, 1],
    }
}

fn of_person(at: Micros) -> DashboardSession {
    DashboardSession { owner: SessionOwner::Person(person(at + SECOND)), ..session("user:olga", at) }
}

async fn find(store: &Arc<dyn Store>, id: SessionId) -> Option<DashboardSession> {
    store.find_session(id).await.unwrap()
}

pub async fn a_session_reads_back_whole(f: Fixture) {
    for session in [session("root", now()), of_person(now())] {
        f.store.create_session(session.clone()).await.unwrap();
        assert_eq!(find(&f.store, session.id).await, Some(session.clone()));
        let own = f.store.sessions_of(session.actor.clone(), now(), 10).await.unwrap();
        assert_eq!(own, std::slice::from_ref(&session));
        assert_eq!(f.store.sessions_of(session.actor, now() + 7_200 * SECOND, 10).await.unwrap(), []);
    }
    assert_eq!(find(&f.store, SessionId([9; 32])).await, None);
}

pub async fn ended_sessions_are_deleted_in_batches(f: Fixture) {
    let at = now();
    let live = session("root", at);
    // One that was used until its absolute end, and ones that nobody used.
    let over = DashboardSession { idle_at: at - 1, ends_at: at - 1, ..session("root", at - 7_200 * SECOND) };
    let idle: Vec<_> = (0..4).map(|n| session("root", at - (4_000 + n) * SECOND)).collect();
    for session in idle.iter().chain([&live, &over]) {
        f.store.create_session(session.clone()).await.unwrap();
    }
    assert_eq!(f.store.delete_ended_sessions(at, 2).await.unwrap(), 2);
    assert_eq!(find(&f.store, idle[3].id).await, None, "the one that ended first goes first");
    assert_eq!(f.store.delete_ended_sessions(at, 10).await.unwrap(), 3);
    assert_eq!(f.store.delete_ended_sessions(at, 10).await.unwrap(), 0);
    assert_eq!(find(&f.store, over.id).await, None);
    assert_eq!(find(&f.store, live.id).await, Some(live));
}

pub async fn a_use_of_a_session_only_moves_forward(f: Fixture) {
    let session = session("root", now());
    f.store.create_session(session.clone()).await.unwrap();
    let (seen, idle) = (session.last_seen_at + 60 * SECOND, session.idle_at + 60 * SECOND);
    f.store.touch_session(session.id, seen, idle).await.unwrap();
    f.store.touch_session(session.id, seen - SECOND, idle - SECOND).await.unwrap();
    let found = find(&f.store, session.id).await.unwrap();
    assert_eq!((found.last_seen_at, found.idle_at), (seen, idle));
}

pub async fn only_the_actors_own_session_is_ended(f: Fixture) {
    let session = session("root", now());
    f.store.create_session(session.clone()).await.unwrap();
    assert!(!f.store.end_session(session.id, "user:root".to_owned()).await.unwrap());
    assert!(find(&f.store, session.id).await.is_some());
    assert!(f.store.end_session(session.id, "root".to_owned()).await.unwrap());
    assert!(!f.store.end_session(session.id, "root".to_owned()).await.unwrap());
    assert_eq!(find(&f.store, session.id).await, None);
}

pub async fn a_refresh_is_claimed_by_one(f: Fixture) {
    let session = of_person(now());
    f.store.create_session(session.clone()).await.unwrap();
    let at = now();
    let claims = join_all((0..8).map(|n| f.store.claim_refresh(session.id, at, at + SECOND + n))).await;
    assert_eq!(claims.into_iter().filter(|claimed| *claimed.as_ref().unwrap()).count(), 1);
    assert!(!f.store.claim_refresh(session.id, at + SECOND - 1, at + 9 * SECOND).await.unwrap());
    assert!(f.store.claim_refresh(session.id, at + 2 * SECOND, at + 9 * SECOND).await.unwrap(), "a claim ends");
}

pub async fn a_lost_refresh_changes_nothing(f: Fixture) {
    let session = of_person(now());
    f.store.create_session(session.clone()).await.unwrap();
    let at = now();
    assert!(f.store.claim_refresh(session.id, at, at + 1).await.unwrap());
    assert!(f.store.claim_refresh(session.id, at + 2, at + SECOND).await.unwrap());
    let refreshed = |claim| RefreshedPerson {
        person: Person { organizations: Vec::new(), refresh_token: vec![4], ..person(at + 99 * SECOND) },
        claim,
    };
    assert!(!f.store.finish_refresh(session.id, refreshed(at + 1)).await.unwrap());
    assert_eq!(find(&f.store, session.id).await, Some(session.clone()));
    assert!(f.store.finish_refresh(session.id, refreshed(at + SECOND)).await.unwrap());
    let expected = SessionOwner::Person(refreshed(0).person);
    assert_eq!(find(&f.store, session.id).await.unwrap().owner, expected);
    assert!(f.store.claim_refresh(session.id, at, at + 1).await.unwrap(), "the claim is given back");
}

pub async fn a_form_is_spent_once(f: Fixture) {
    let session = session("root", now());
    f.store.create_session(session.clone()).await.unwrap();
    let form = |n: u32| format!("abcdefghijklm{n:03}");
    let spent = join_all((0..8).map(|_| f.store.spend_form(session.id, form(0)))).await;
    assert_eq!(spent.into_iter().filter(|first| *first.as_ref().unwrap()).count(), 1);
    for n in 1..20 {
        assert!(f.store.spend_form(session.id, form(n)).await.unwrap());
        assert!(!f.store.spend_form(session.id, form(0)).await.unwrap(), "remembered after {n} others");
    }
    assert!(!f.store.spend_form(SessionId([9; 32]), form(0)).await.unwrap(), "there is no such session");
}
