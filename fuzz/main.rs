//! Fuzz targets: what strangers send, thrown at the parsers that read it. Each target checks what must hold of any
//! input, and not only that nothing panics.
//!
//! ```sh
//! cargo test -p keyward-fuzz                            # a moment for each target
//! KEYWARD_FUZZ_SECONDS=600 cargo test -p keyward-fuzz urls
//! KEYWARD_FUZZ_SEED=1 cargo test -p keyward-fuzz        # the same inputs again
//! ```

mod driver;

use std::{net::Ipv4Addr, str::from_utf8};

use data_encoding::BASE64URL_NOPAD;
use keyward::{
    fuzzing::{self, Fixture},
    proto::{VerifyRequest, VerifyStreamRequest},
};
use prost::Message as _;
use serde_json::Value;
use url::{Host, Url};

use driver::Fuzz;

/// A secret is accepted in one spelling only: a known prefix, then exactly as many characters of its alphabet as its
/// keyspace has.
#[test]
fn secrets() {
    let fixture = Fixture::default();
    let seeds = fixture.secrets();
    for secret in &seeds {
        assert_eq!(fixture.secret(secret), (true, false), "a good secret is accepted");
    }
    let words = ["kw_", "nrx_", "sk_live_", "sk_test_", "=", "\0", "é", "_", "-"];
    Fuzz { corpus: "secrets", seeds: &seeds, words: &words }.run(|input| {
        let Ok(text) = from_utf8(input) else { return };
        let (well_formed, orphaned) = fixture.secret(text);
        assert!(!(well_formed && orphaned), "a secret belongs to a keyspace or to none");
        if well_formed {
            let length = [("kw_", 40), ("nrx_", 48), ("sk_test_", 32), ("sk_live_", 32)]
                .iter()
                .find_map(|(prefix, chars)| text.starts_with(prefix).then_some(prefix.len() + chars));
            assert_eq!(Some(text.len()), length);
            assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')));
        }
    });
}

/// A page token serves the query that it was made for and no other; anything else has no position.
#[test]
fn page_tokens() {
    let fixture = Fixture::default();
    let words = ["=", "-", "_", "AAAA", "\0", ","];
    Fuzz { corpus: "page_tokens", seeds: &[], words: &words }.run(|input| {
        if let Ok(text) = from_utf8(input) {
            assert_eq!(fixture.position(&[], text), None);
        }
        assert_eq!(fixture.position(&[], &BASE64URL_NOPAD.encode(input)), None);
        let (id, rest) = input.split_at(input.len().min(16));
        let last = id.iter().fold(0_u128, |last, byte| last << 8 | u128::from(*byte));
        let filters = rest.split(|byte| *byte == b',').collect::<Vec<_>>();
        let token = fixture.page_token(&filters, last);
        assert_eq!(fixture.position(&filters, &token), Some(last));
        assert_eq!(fixture.position(&[&filters[..], &[b"x"]].concat(), &token), None);
        assert_eq!(fixture.position(&filters[1..], &token), None);
    });
}

/// A gateway is told to let a request pass only if the request has the secret of a live key, where its keyspace reads it,
/// and a path that a route names. The first two lines of an input are method and path, the others headers.
#[test]
fn gateway_requests() {
    let folder = tempfile::tempdir().unwrap();
    let decisions = fuzzing::gateway::Decisions::new(folder.path()).unwrap();
    let (live, revoked) = (decisions.live.as_str(), decisions.revoked.as_str());
    let seeds = [
        format!("GET\n/api/build/1?orgId=acme\nauthorization: Bearer {live}\nx-api-key: garbage"),
        format!("POST\n/api/build\nx-api-key: {live}"),
        format!("GET\n/api/build\nauthorization: Bearer {revoked}\ncookie: a=b"),
        format!("GET\n/api/env\nauthorization: Bearer {revoked},Bearer {live}"),
    ];
    let read = |input: &[u8]| {
        let mut lines = input.split(|byte| *byte == b'\n');
        let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (method, target) = (text(), text());
        let headers = lines.filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b':')?;
            let value = line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..]);
            Some((String::from_utf8_lossy(&line[..at]).into_owned(), value.to_vec()))
        });
        fuzzing::gateway::FuzzedRequest { method, target, headers: headers.collect() }
    };
    assert!(decisions.decide(&read(seeds[1].as_bytes())).is_some(), "a good request passes");
    let words = [
        "GET",
        "POST",
        "HEAD",
        "\n",
        "/api/build/",
        "/api/env",
        "/api/env/x",
        "..",
        "%2f",
        "%2e",
        "//",
        "\\",
        ";",
        "?orgId=",
        "&orgId=acme",
        "other",
        "authorization: ",
        "Authorization:",
        "Bearer ",
        "bearer ",
        "x-api-key: ",
        ",",
        live,
        revoked,
        "cookie: ",
        "x-keyward-key-id: key_",
        "\0",
        "é",
        "%00",
        "#",
    ];
    Fuzz { corpus: "gateway_requests", seeds: &seeds, words: &words }.run(|input| {
        let told = read(input);
        let Some(identity) = decisions.decide(&told) else { return };
        let secrets = told.headers.iter().filter_map(|(name, value)| {
            let value = from_utf8(value).ok()?;
            match name.to_ascii_lowercase().as_str() {
                "authorization" => {
                    let (scheme, secret) = value.split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim_matches(' '))
                }
                "x-api-key" => Some(value),
                _ => None,
            }
        });
        let secrets: Vec<&str> = secrets.filter(|secret| secret.starts_with("nrx_")).collect();
        assert_eq!(secrets, [live], "whoever passes has one live key: {told:?}");
        assert_eq!(
            (identity["x-keyward-organization"].as_str(), identity["x-keyward-scopes"].as_str()),
            ("acme", "build")
        );
        let path = told.target.split('?').next().unwrap();
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
        assert!(decoded == "/api/build" || decoded.starts_with("/api/build/"), "{told:?}");
        assert!(!decoded.split('/').any(|part| matches!(part, "." | "..")) && !decoded.contains("//"), "{told:?}");
        assert!(matches!(told.method.as_str(), "GET" | "POST"), "{told:?}");
    });
}

/// A session token is read as three parts that together are the text that came; an organization that it names can be one
/// of a key's.
#[test]
fn session_tokens() {
    let words = [
        "\"alg\"",
        "\"kid\"",
        "\"typ\"",
        "\"crit\"",
        "\"RS256\"",
        "\"none\"",
        "\"iss\"",
        "\"aud\"",
        "\"exp\"",
        "\"sub\"",
        "\"nbf\"",
        "null",
        "1e99",
        "-1",
        "[",
        "{",
        "}",
        "]",
        ".",
        "\\ud800",
        "\\u0000",
        "\"owner\"",
    ];
    let check = |text: &str| {
        if let Some((signed, organizations)) = fuzzing::session_token(text) {
            assert_eq!(signed, text);
            for organization in organizations {
                assert!((1..=128).contains(&organization.chars().count()) && !organization.contains(char::is_control));
            }
        }
    };
    Fuzz { corpus: "session_tokens", seeds: &[], words: &words }.run(|input| {
        if let Ok(text) = from_utf8(input) {
            check(text);
        }
        // Two lines of JSON are the header and the claims: changes that would not survive base64 reach their parsers so.
        let mut lines = input.splitn(2, |byte| *byte == b'\n').map(|line| BASE64URL_NOPAD.encode(line));
        if let (Some(header), Some(claims)) = (lines.next(), lines.next()) {
            check(&format!("{header}.{claims}.c2ln"));
        }
    });
}

/// A webhook's URL that is accepted means to a client what it means here, and no address that is not public.
#[test]
fn webhook_urls() {
    let words = [
        "https://",
        "http://",
        "@",
        ":",
        "/",
        "//",
        "?",
        "#",
        "\\",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "127.1",
        "0x7f.1",
        "localhost",
        "localhost.",
        "%2e",
        "xn--",
        "。",
        "１",
        "\u{ad}",
        "\t",
        ":0",
        ":22",
        ":65536",
        "64:ff9b::",
        "..",
    ];
    Fuzz { corpus: "webhook_urls", seeds: &[], words: &words }.run(|input| {
        let Ok(text) = from_utf8(input) else { return };
        for allow_http in [false, true] {
            let Ok(target) = fuzzing::webhook_url(text, allow_http) else { continue };
            assert!(target.tls || allow_http);
            let host = target.host.to_string();
            assert!(!host.is_empty() && !host.ends_with('.') && host != "localhost", "{host}");
            if let Host::Ipv4(ip) = target.host {
                assert!(is_public(ip), "{ip}");
            }
            if let Host::Ipv6(ip) = target.host {
                assert!(!ip.is_loopback() && !ip.is_unspecified() && !ip.is_unique_local(), "{ip}");
                assert!(ip.to_ipv4_mapped().is_none_or(is_public), "{ip}");
            }
            // Sent as it was read, it is read as the same.
            let scheme = if target.tls { "https" } else { "http" };
            let sent = format!("{scheme}://{}{}", target.authority, target.path);
            // Unless escapes made it too long: a client sends more bytes than an operator may write.
            if sent.len() <= 2_048 {
                assert_eq!(fuzzing::webhook_url(&sent, allow_http).as_ref(), Ok(&target), "{text:?} is {sent:?}");
            }
            // A reader that knows RFC 3986 alone, as a proxy may be, sees the same host.
            let after_scheme = &text[text.find("://").expect("an absolute URL") + 3..];
            let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
            if let Host::Domain(name) = &target.host
                && authority.is_ascii()
                && !authority.contains('%')
            {
                let written = authority.split(':').next().unwrap_or_default().trim_end_matches('.');
                assert!(written.eq_ignore_ascii_case(name), "{written} is not {name}");
            }
            // And a client that reads the URL by itself connects to the same host and port.
            let url = Url::parse(text).expect("an accepted URL is one");
            assert_eq!(url.host_str().map(|name| name.trim_end_matches('.')), Some(host.as_str()));
            assert_eq!(url.port_or_known_default(), Some(target.port));
        }
    });
}

fn is_public(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast())
}

/// Whatever is wrong with the URL of a database or of Redis, what is said of it never repeats its password.
#[test]
fn server_urls() {
    const PASSWORD: &str = "hunter2hunter2";
    let words = [
        "postgres://",
        "postgresql://",
        "sqlite://",
        "sqlite:",
        "redis://",
        "rediss://",
        "valkey://",
        "@",
        ":",
        "/",
        "?",
        "sslmode=",
        "&",
        "%",
        "%zz",
        "[",
        "]",
        ":99999",
        "/16",
        "\0",
        " ",
        "memory",
        PASSWORD,
    ];
    Fuzz { corpus: "server_urls", seeds: &[], words: &words }.run(|input| {
        let Ok(text) = from_utf8(input) else { return };
        for variable in ["DATABASE_URL", "DATABASE_MIGRATE_URL", "KEYWARD_RATE_LIMIT_STORE"] {
            for problem in fuzzing::setting(variable, text).err().unwrap_or_default() {
                assert!(!problem.contains(PASSWORD), "{problem}");
                assert!(problem.starts_with(variable), "{problem}");
            }
        }
    });
}

/// A body that is read is the JSON that any parser reads, and one with a name twice is refused for that reason.
#[test]
fn rest_bodies() {
    let words = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "null",
        "true",
        "1e999",
        "-0",
        "0.1",
        "\\u0000",
        "\\ud800",
        "\"name\"",
        "\"scopes\":",
        "\"webhook\":",
        "\"expiresAt\":",
        "\"metadata\":{",
        "9223372036854775808",
        "é",
        "\u{feff}",
        " ",
    ];
    Fuzz { corpus: "rest_bodies", seeds: &[], words: &words }.run(|input| {
        let read = fuzzing::json(input);
        let plain: Result<Value, _> = serde_json::from_slice(input);
        match (&read, &plain) {
            (Ok(read), Ok(plain)) => assert_eq!(read, plain),
            (Err(true), _) | (Err(false), Err(_)) => {}
            _ => panic!("{read:?} differs from {plain:?}"),
        }
        // A value of any kind is read beside itself under another name, and never under the same one.
        if read.is_ok() {
            let pair = |second: &str| [br#"{"a":"#, input, second.as_bytes(), input, b"}"].concat();
            assert!(fuzzing::json(&pair(r#","b":"#)).is_ok());
            assert_eq!(fuzzing::json(&pair(r#","\u0061":"#)), Err(true));
        }
    });
}

/// The fast path takes a body only if it holds one message and nothing else, and reads it as any other reader does. What
/// is wrong with a message is said in one of two sentences, of a field by its name.
#[test]
fn verify_frames() {
    let seed = VerifyRequest {
        secret: "ak_0123456789abcdefghijklmnopqrstuv".to_owned(),
        keyspace: "norrix".to_owned(),
        organization: "acme".to_owned(),
        environment: "production".to_owned(),
        required_scopes: vec!["build".to_owned(), "submit".to_owned()],
        cost: Some(1),
        ..VerifyRequest::default()
    };
    let message = seed.encode_to_vec();
    let frame = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("a short message")], &message[..]].concat();
    assert_eq!(fuzzing::verify_frame(&frame), Some(seed.clone()));
    let streamed = VerifyStreamRequest { id: 1, request: Some(seed) }.encode_to_vec();
    let seeds = [message, frame, streamed].map(|seed| String::from_utf8(seed).expect("short lengths are ASCII"));
    let words = ["\0", "\0\0\0\0\0", "\u{1}", "\n", "\u{12}", "\u{7f}", "\u{80}", "\u{7ff}"];
    Fuzz { corpus: "verify_frames", seeds: &seeds, words: &words }.run(|input| {
        if let Some(request) = fuzzing::verify_frame(input) {
            let (prefix, message) = input.split_at(5);
            assert_eq!(prefix[0], 0, "compressed messages are left to tonic");
            assert_eq!(prefix[1..], u32::try_from(message.len()).expect("a short message").to_be_bytes());
            assert_eq!(VerifyRequest::decode(message).as_ref(), Ok(&request));
            assert_eq!(VerifyRequest::decode(&request.encode_to_vec()[..]), Ok(request));
        }
        if let Err((field, description)) = fuzzing::verify_stream_message(input) {
            assert!(["is not UTF-8", "is not well-formed protobuf"].contains(&description.as_str()), "{description}");
            assert!(!field.is_empty() && field.bytes().all(|c| c.is_ascii_lowercase() || matches!(c, b'_' | b'.')));
        }
    });
}
