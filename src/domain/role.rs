//! Roles of people in organizations.

/// What a person may do in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May not manage keys.
    Member,
    /// Lists all keys, creates keys, and changes the keys it created.
    Admin,
    /// Manages every key.
    Owner,
}

impl Role {
    /// The role with a name; `None` if there is no such role.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "owner" => Some(Self::Owner),
            "admin" => Some(Self::Admin),
            "member" => Some(Self::Member),
            _ => None,
        }
    }

    /// The name of the role.
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}
