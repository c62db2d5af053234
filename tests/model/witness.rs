//! States that must be reachable. A model in which nothing happens would keep every promise.

use stateright::Property;

use crate::protocol::Protocol;
use crate::rules::{Hazard, Setting};
use crate::state::{Load, Program, Revoke, State, Stray};

/// The reachability properties of an instance. Each one describes a state in which the named event can happen next.
pub fn properties(setting: &Setting) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::sometimes("the cache answers VALID", |protocol: &Protocol, state: &State| {
            let valid = |verify| protocol.answers_valid(state, verify);
            state.verify.is_some_and(valid)
        }),
        Property::sometimes("a Verify finds a lease after the Revoke", |_, state: &State| {
            let late = |verify: crate::state::Verify| verify.breaks.is_some();
            state.verify.is_some_and(late)
        }),
        Property::sometimes("a Revoke returns because all replicas reported", |_, state: &State| {
            returns(state, |left, rows, silent| left > 0 && rows != 0 && rows & !state.rows() == 0 && silent == 0)
        }),
        Property::sometimes("a Revoke returns because the lease of a silent replica expired", |_, state: &State| {
            returns(state, |left, _, silent| left == 0 && silent != 0)
        }),
        Property::sometimes("a fill is fenced", |_, state: &State| {
            let fenced = |replica: &crate::state::Replica| replica.loads.contains(&Load::Fenced);
            state.replicas.iter().any(fenced)
        }),
    ];
    if setting.has(Hazard::CleanUp) {
        properties.push(Property::sometimes(
            "a replica with a cached key finds its row removed",
            |_, state: &State| {
                (0..state.replicas.len()).any(|r| {
                    let replica = &state.replicas[r];
                    replica.follower.program == Program::Renewal
                        && state.row_of(r).is_none()
                        && replica.cached.contains(&true)
                })
            },
        ));
    }
    if setting.has(Hazard::Strays) {
        properties.push(Property::sometimes("an abandoned renewal is executed in the end", |_, state: &State| {
            matches!(state.stray, Some(Stray::Renew { .. }))
        }));
    }
    if setting.has(Hazard::LostHistory) {
        properties.push(Property::sometimes("a replica has applied a change that was lost", |_, state: &State| {
            state.replicas.iter().any(|replica| replica.lost)
        }));
    }
    properties
}

/// Whether some waiting Revoke satisfies a condition on its remaining wait, its rows, and the silent ones among them.
fn returns(state: &State, condition: impl Fn(u8, u8, u8) -> bool) -> bool {
    let waits = |(revoke, revision): (&Revoke, u8)| match *revoke {
        Revoke::Waiting { left, rows } => condition(left, rows, state.silent(rows, revision)),
        _ => false,
    };
    state.revokes.iter().zip(state.db.revoked).any(waits)
}
