//! The rows of sessions of the dashboard.

use crate::{
    domain::{
        dashboard::{DashboardSession, Person, SessionId, SessionOwner},
        key::Digest,
        session::{OrgMembership, Role},
    },
    store::error::{Result, StoreError},
};

/// A row of `session_columns!`.
pub(crate) type SessionRow =
    (Vec<u8>, String, Vec<u8>, String, String, String, Option<i64>, Vec<u8>, i64, i64, i64, i64);

/// Converts a row.
pub(crate) fn read_session(row: SessionRow) -> Result<DashboardSession> {
    let (id, actor, digest, issuer, client, organizations, token_expires_at, refresh_token, ..) = row;
    let (.., created_at, last_seen_at, idle_at, ends_at) = row;
    let unreadable = |column: &str| StoreError::Row(format!("the {column} of a session cannot be read"));
    let id = SessionId(id.try_into().map_err(|_| unreadable("id"))?);
    let owner = if digest.is_empty() {
        let organizations = read_organizations(&organizations).ok_or_else(|| unreadable("organizations"))?;
        let token_expires_at = token_expires_at.unwrap_or_default();
        SessionOwner::Person(Person { issuer, client, organizations, token_expires_at, refresh_token })
    } else {
        SessionOwner::Credential(Digest(digest.try_into().map_err(|_| unreadable("digest"))?))
    };
    Ok(DashboardSession { id, actor, owner, created_at, last_seen_at, idle_at, ends_at })
}

/// Organizations as the database keeps them: `{"acme": "owner"}`.
pub(crate) fn write_organizations(organizations: &[OrgMembership]) -> String {
    let pairs = organizations.iter().map(|own| (own.organization.clone(), own.role.name().into()));
    serde_json::Value::Object(pairs.collect()).to_string()
}

fn read_organizations(text: &str) -> Option<Vec<OrgMembership>> {
    let pairs: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let read = |(organization, role): (String, serde_json::Value)| {
        Some(OrgMembership { organization, role: Role::named(role.as_str()?)? })
    };
    pairs.into_iter().map(read).collect()
}
