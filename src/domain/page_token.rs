//! Page tokens: a position in a list, authenticated together with the query that it belongs to.

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{key::KeyId, master_keys::MasterKeys};

/// Length of the truncated HMAC.
const MAC_BYTES: usize = 16;

/// The token that continues a query after `last`. `filters` are the query's filters, in a fixed order.
pub fn encode(master_keys: &MasterKeys, filters: &[&[u8]], last: KeyId) -> String {
    let mut bytes = last.0.as_bytes().to_vec();
    bytes.extend_from_slice(&master_keys.page_mac(&parts(filters, &last))[..MAC_BYTES]);
    BASE64URL_NOPAD.encode(&bytes)
}

/// The position of a token; `None` if this installation did not issue it for this query.
pub fn decode(master_keys: &MasterKeys, filters: &[&[u8]], token: &str) -> Option<KeyId> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (id, tag) = bytes.split_at_checked(16)?;
    let last = KeyId(Uuid::from_slice(id).ok()?);
    master_keys.verify_page_mac(&parts(filters, &last), |mac| mac[..MAC_BYTES].ct_eq(tag).into()).then_some(last)
}

fn parts<'a>(filters: &[&'a [u8]], last: &'a KeyId) -> Vec<&'a [u8]> {
    std::iter::once(&last.0.as_bytes()[..]).chain(filters.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::master_keys::MasterKey;

    proptest! {
        #[test]
        fn a_token_is_valid_for_its_own_query_only(id: u128, a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            let master_keys = MasterKeys::derive(&MasterKey::new([7; 32]));
            let last = KeyId(Uuid::from_u128(id));
            let token = encode(&master_keys, &[&a, &b], last);
            prop_assert_eq!(decode(&master_keys, &[&a, &b], &token), Some(last));
            prop_assert_eq!(decode(&master_keys, &[&a, &b, &c], &token), None);
            if a != c {
                prop_assert_eq!(decode(&master_keys, &[&c, &b], &token), None);
            }
            // The same bytes divided differently between two filters are another query.
            let joined = [a.as_slice(), b.as_slice()].concat();
            if !b.is_empty() {
                prop_assert_eq!(decode(&master_keys, &[&joined, &[]], &token), None);
            }
            let other = MasterKeys::derive(&MasterKey::new([8; 32]));
            prop_assert_eq!(decode(&other, &[&a, &b], &token), None);
            let both = MasterKeys::new(&MasterKey::new([8; 32]), &[MasterKey::new([7; 32])], &[]);
            prop_assert_eq!(decode(&both, &[&a, &b], &token), Some(last));
        }

        #[test]
        fn a_forged_token_is_refused_without_a_panic(token: String, bytes: Vec<u8>) {
            let master_keys = MasterKeys::derive(&MasterKey::new([7; 32]));
            prop_assert_eq!(decode(&master_keys, &[], &token), None);
            prop_assert_eq!(decode(&master_keys, &[], &BASE64URL_NOPAD.encode(&bytes)), None);
        }
    }
}
