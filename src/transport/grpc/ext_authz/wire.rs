//! Reads a `CheckRequest` where it lies, without a copy: Envoy sends all of a request's headers, and three of them matter.
//! What this cannot read is left to prost, which says what is wrong. Numbers are those of the proto; a test compares both.

use super::request::CheckedRequest;
use crate::transport::grpc::protobuf::{Fields, Malformed, utf8};

/// Headers that are read here. Each is compared with all before it, and their number is the client's choice where Envoy's
/// configuration does not bound it. Envoy's own bound is 100.
const MAX_HEADERS: usize = 256;

/// Refuses what is no text. Nearly every header is ASCII, which is quicker to see.
fn check_text(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.is_ascii() { Ok(()) } else { utf8(bytes).map(drop) }
}

/// Names of headers that were read: a bit for each. A name whose bit is not set is new; any other may have been read.
#[derive(Default)]
struct NamesSeen(u64);

impl NamesSeen {
    /// Adds a name. Returns whether its bit was set.
    fn insert(&mut self, name: &[u8]) -> bool {
        let (first, last) = (name.first().copied().unwrap_or(0), name.last().copied().unwrap_or(0));
        let sum = name.len() + 7 * usize::from(first) + 31 * usize::from(last);
        let bit = 1 << (sum % 64);
        let seen = self.0 & bit != 0;
        self.0 |= bit;
        seen
    }
}

/// Reads a message; none if it is left to prost.
pub(crate) fn read(message: &[u8]) -> Option<CheckedRequest<'_>> {
    let mut checked = CheckedRequest::default();
    checked.headers.0.reserve(24);
    let mut fields = Fields::new(message, &[1]);
    let mut seen = false;
    while let Some((number, value)) = fields.next().ok()? {
        if number == 1 {
            // A field that is there twice is merged by prost.
            if std::mem::replace(&mut seen, true) {
                return None;
            }
            attributes(value, &mut checked).ok()?;
        }
    }
    Some(checked)
}

fn attributes<'a>(bytes: &'a [u8], checked: &mut CheckedRequest<'a>) -> Result<(), Malformed> {
    let (mut fields, mut request, mut peer) = (Fields::new(bytes, &[1, 4, 10]), false, false);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 if std::mem::replace(&mut peer, true) => return Err(Malformed),
            1 => checked.client = source(value)?,
            4 => {
                if std::mem::replace(&mut request, true) {
                    return Err(Malformed);
                }
                let (mut fields, mut http) = (Fields::new(value, &[2]), false);
                while let Some((number, value)) = fields.next()? {
                    if number == 2 {
                        if std::mem::replace(&mut http, true) {
                            return Err(Malformed);
                        }
                        http_request(value, checked)?;
                    }
                }
            }
            10 => {
                let (name, value) = pair(value)?;
                checked.extensions.set(utf8(name)?, utf8(value)?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The address in `Peer.address.socket_address.address`.
fn source(bytes: &[u8]) -> Result<&str, Malformed> {
    let mut found = bytes;
    for known in [&[1][..], &[1], &[2]] {
        let (mut fields, mut inner) = (Fields::new(found, known), None);
        while let Some((number, value)) = fields.next()? {
            if known.contains(&number) && inner.replace(value).is_some() {
                return Err(Malformed);
            }
        }
        found = inner.unwrap_or_default();
    }
    utf8(found)
}

fn http_request<'a>(bytes: &'a [u8], checked: &mut CheckedRequest<'a>) -> Result<(), Malformed> {
    let (mut fields, mut names) = (Fields::new(bytes, &[2, 3, 4, 5, 13]), NamesSeen::default());
    while let Some((number, value)) = fields.next()? {
        match number {
            2 => checked.method = utf8(value)?,
            3 => {
                let (name, value) = pair(value)?;
                // The last one of a name counts in a map. A client that sends two is not Envoy: prost decides.
                check_text(name)?;
                check_text(value)?;
                let headers = &mut checked.headers.0;
                let repeated = names.insert(name) && headers.iter().any(|(given, _)| *given == name);
                if headers.len() == MAX_HEADERS || repeated {
                    return Err(Malformed);
                }
                headers.push((name, value));
            }
            4 => checked.target = utf8(value)?,
            5 => checked.host = utf8(value)?,
            // Envoy is configured to send headers unjoined.
            13 => return Err(Malformed),
            _ => {}
        }
    }
    Ok(())
}

/// Key and value of an entry of a map.
fn pair(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    // Nearly every entry is these two fields, in this order, with lengths of one byte.
    if let [0x0a, key @ ..0x80, rest @ ..] = bytes
        && let Some((key, [0x12, length @ ..0x80, value @ ..])) = rest.split_at_checked(usize::from(*key))
        && usize::from(*length) == value.len()
    {
        return Ok((key, value));
    }
    let (mut fields, mut key, mut value) = (Fields::new(bytes, &[1, 2]), &[][..], &[][..]);
    while let Some((number, found)) = fields.next()? {
        match number {
            1 => key = found,
            2 => value = found,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::envoy::{
        config::core::v3::{Address, SocketAddress, address},
        service::auth::v3::{AttributeContext, CheckRequest, attribute_context},
    };

    fn request(
        texts: [String; 4],
        headers: HashMap<String, String>,
        extensions: HashMap<String, String>,
    ) -> CheckRequest {
        let [method, path, host, address] = texts;
        let http = attribute_context::HttpRequest { method, path, host, headers, header_map: None };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(attribute_context::Peer {
                    address: Some(Address {
                        address: Some(address::Address::SocketAddress(SocketAddress { address })),
                    }),
                }),
                request: Some(attribute_context::Request { http: Some(http) }),
                context_extensions: extensions,
            }),
        }
    }

    /// Both ways read the same. The order of a map's entries is theirs.
    fn same(bytes: &[u8]) -> bool {
        let sorted = |mut checked: CheckedRequest<'_>| {
            checked.headers.0.sort_unstable();
            format!("{checked:?}")
        };
        let message = CheckRequest::decode(bytes);
        match (read(bytes), &message) {
            (Some(own), Ok(message)) => sorted(own) == sorted(CheckedRequest::of(message)),
            (Some(_), Err(_)) => false,
            (None, _) => true,
        }
    }

    #[test]
    fn what_is_absent_is_empty() {
        assert_eq!(read(&[]), Some(CheckedRequest::default()));
        assert_eq!(read(&[0x0a, 0]), Some(CheckedRequest::default()));
        // An unknown field of each kind is skipped.
        assert_eq!(
            read(&[0x78, 1, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7a, 1, 0, 0x7d, 0, 0, 0, 0]),
            Some(CheckedRequest::default())
        );
        for malformed in [&[0x0a][..], &[0x0a, 2, 0], &[0x0b], &[0xff; 11], &[0x0a, 2, 0x22, 9]] {
            assert_eq!(read(malformed), None, "{malformed:x?}");
        }
    }

    #[test]
    fn many_headers_are_left_to_prost() {
        for (count, read_here) in [(MAX_HEADERS, true), (MAX_HEADERS + 1, false)] {
            let headers = (0..count).map(|at| (format!("x-{at}"), String::new())).collect();
            let bytes = request(["", "", "", ""].map(str::to_owned), headers, HashMap::new()).encode_to_vec();
            assert_eq!(read(&bytes).is_some(), read_here, "{count}");
        }
    }

    #[test]
    fn a_header_that_is_there_twice_is_left_to_prost_and_names_that_are_alike_are_not() {
        let field = |key: u8, content: &[u8]| [&[key, u8::try_from(content.len()).unwrap()], content].concat();
        let header = |name: &str| field(0x1a, &[field(0x0a, name.as_bytes()), field(0x12, b"1")].concat());
        let both = |one, other| field(0x0a, &field(0x22, &field(0x12, &[header(one), header(other)].concat())));
        assert_eq!(read(&both("x-a-b", "x-a-b")), None);
        let alike = both("x-a-b", "x-c-b");
        assert_eq!(read(&alike).unwrap().headers.0.len(), 2);
        assert!(same(&alike));
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_prost_reads_it(
            texts in prop::array::uniform4(".{0,20}"),
            headers in prop::collection::hash_map("[a-z-]{0,8}", ".{0,20}", 0..6),
            extensions in prop::collection::hash_map("keyspace|environment|other", ".{0,8}", 0..3),
        ) {
            let bytes = request(texts, headers, extensions).encode_to_vec();
            prop_assert!(read(&bytes).is_some());
            prop_assert!(same(&bytes));
        }

        #[test]
        fn a_damaged_message_is_never_read_in_another_way_than_prost_reads_it(
            headers in prop::collection::hash_map("[a-z-]{0,8}", "[ -~]{0,20}", 0..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let texts = ["GET", "/api/build", "api.example", "203.0.113.7"].map(str::to_owned);
            let extensions = HashMap::from([("keyspace".to_owned(), "norrix".to_owned())]);
            let mut bytes = request(texts, headers, extensions).encode_to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            prop_assert!(same(&bytes), "{:x?}", bytes);
        }
    }
}
