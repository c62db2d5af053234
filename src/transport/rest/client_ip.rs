//! The client's address. A forwarded address counts only if a trusted proxy wrote it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Returns the client's address: the peer's own or, if the peer is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not a trusted proxy's. Everything left of it may have been written by the client.
pub(crate) fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        // An unreadable entry cannot be trusted, nor can anything left of it or in a line before it.
        let Some(address) = str::from_utf8(hop.trim_ascii()).ok().and_then(hop_address) else { break };
        client = address.to_canonical();
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// The last address of a line of `X-Forwarded-For`, if it can be read.
pub(crate) fn last_hop(line: &[u8]) -> Option<IpAddr> {
    let hop = line.rsplit(|byte| *byte == b',').next()?;
    str::from_utf8(hop.trim_ascii()).ok().and_then(hop_address).map(|address| address.to_canonical())
}

/// An address as proxies write it: bare, or with the port that the client came from.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip())).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen(peer: &str, lines: &[impl AsRef<[u8]>], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_ref()).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn an_untrusted_peer_cannot_choose_its_address_by_a_header() {
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"], &[]), "203.0.113.9");
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"], &["10.0.0.0/8"]), "203.0.113.9");
    }

    #[test]
    fn behind_trusted_proxies_the_last_untrusted_hop_is_the_client() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(seen("10.0.0.1", &["198.51.100.1"], &trusted), "198.51.100.1");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.0.0.2"], &trusted), "198.51.100.1");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4", "198.51.100.1,10.0.0.2"], &trusted), "198.51.100.1");
        assert_eq!(seen("::ffff:10.0.0.1", &["198.51.100.1"], &trusted), "198.51.100.1");
    }

    #[test]
    fn an_address_may_come_with_its_port() {
        let trusted = ["10.0.0.0/8"];
        for hop in ["198.51.100.1:4711", "198.51.100.1"] {
            assert_eq!(seen("10.0.0.1", &[hop], &trusted), "198.51.100.1");
        }
        for hop in ["[2001:db8::1]:4711", "[2001:db8::1]", "2001:db8::1"] {
            assert_eq!(seen("10.0.0.1", &[hop], &trusted), "2001:db8::1");
        }
    }

    #[test]
    fn an_unreadable_entry_is_not_trusted() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(seen("10.0.0.1", &[""; 0], &trusted), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4, garbage"], &trusted), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4, garbage, 10.0.0.3"], &trusted), "10.0.0.3");
        for unreadable in
            [&b"\xff, 10.0.0.3"[..], b"\xff,10.0.0.3", b"1.2.3.\xc3\xa4, 10.0.0.3", b", 10.0.0.3", b"unknown, 10.0.0.3"]
        {
            assert_eq!(seen("10.0.0.1", &[&b"6.6.6.6"[..], unreadable], &trusted), "10.0.0.3", "{unreadable:?}");
            assert_eq!(seen("10.0.0.1", &[&b"6.6.6.6"[..], unreadable, b"203.0.113.7"], &trusted), "203.0.113.7");
            let line = [&b"6.6.6.6, "[..], unreadable].concat();
            assert_eq!(seen("10.0.0.1", &[line], &trusted), "10.0.0.3", "{unreadable:?}");
        }
    }
}
