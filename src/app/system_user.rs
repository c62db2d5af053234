//! The system's user who runs the program.

use rustix::process::{Uid, getuid};

const USERS: &str = "/etc/passwd";
/// Longest name that is recorded.
const MAX_NAME_LEN: usize = 64;

/// The user's name: of one who uses sudo, their own. The number where the system has no name for it.
pub fn name() -> String {
    let uid = getuid();
    let sudo = std::env::var("SUDO_UID").ok().filter(|_| uid.is_root()).and_then(|own| own.parse().ok());
    let users = std::fs::read_to_string(USERS).unwrap_or_default();
    name_of(sudo.map_or(uid, Uid::from_raw).as_raw(), &users)
}

/// The name of a user in a file such as `/etc/passwd`.
fn name_of(uid: u32, users: &str) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, own) = (fields.next()?, fields.nth(1)?);
        (own.parse() == Ok(uid)).then_some(name)
    });
    let good = |name: &&str| {
        (1..=MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'$'))
    };
    named.filter(good).map_or_else(|| uid.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_name_or_else_its_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbad name:x:1001:1:::\n";
        assert_eq!(name_of(0, users), "root");
        assert_eq!(name_of(1_000, users), "ann");
        assert_eq!(name_of(1_001, users), "1001");
        assert_eq!(name_of(7, users), "7");
    }
}
