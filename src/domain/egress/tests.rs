use proptest::prelude::*;

use super::*;

/// Refused before anything is resolved.
const HOSTILE: &[&str] = &[
    // Loopback, in the spellings that inet_aton reads.
    "https://127.0.0.1/",
    "https://127.0.0.1:8443/hook",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://0X7F.0.1/",
    "https://127.0.0.1./",
    "https://127.255.255.254/",
    "https://%31%32%37.0.0.1/",
    "https://127%2e0%2e0%2e1/",
    // The same in other scripts' digits and dots.
    "https://127。0。0。1/",
    "https://127.0.0.1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://𝟏𝟐𝟕.𝟎.𝟎.𝟏/",
    "https://0xⓐ9fe/",
    // Names that resolve to loopback.
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "https://xn--localhost-/",
    // Private, link-local with a cloud's metadata, and the rest of IPv4.
    "https://0.0.0.0/",
    "https://0/",
    "https://00000/",
    "https://10.0.0.1/",
    "https://0xa.1/",
    "https://167772161/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://0300.0250.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/",
    "https://0xA9FEA9FE/",
    "https://0251.0376.0251.0376/",
    "https://168.63.129.16/",
    "https://100.64.0.1/",
    "https://100.100.100.200/",
    "https://192.0.0.192/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://192.88.99.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://4294967295/",
    // IPv6, and IPv4 inside of it.
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[0000::0001]:443/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[100::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[5f00::1]/",
    "https://[1::1]/",
    // A zone selects a network interface of this machine.
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[2606:4700::1%25lo]/",
    // Schemes.
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/_x",
    "javascript:alert(1)",
    "unix:/run/postgresql",
    "//example.com",
    "/x",
    "example.com",
    "https:example.com",
    "https:/example.com",
    // No host, or one that is no name.
    "https://",
    "https:///x",
    "https:////127.0.0.1/",
    "https://?x",
    "https://#x",
    "https://:443/",
    "https://[::1",
    "https://[::1]x/",
    "https://exa mple.com/",
    "https://example..com/",
    "https://.example.com/",
    "https://*.example.com/",
    "https://example.com../",
    "https://exa%00mple.com/",
    "https://example.com%2f@127.0.0.1/",
    "https://1.2.3.4.5/",
    "https://256.256.256.256/",
    "https://0x100000000/",
    "https://08.1.1.1/",
    "https://xn--/",
    "https://xn--a\u{fffd}/",
    "https://xn--1-\u{2488}/",
    // Users.
    "https://user@example.com/",
    "https://user:pw@example.com/",
    "https://@example.com/",
    "https://:@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com:443@127.0.0.1/",
    // Parsers disagree on where the host of these ends.
    "https:\\\\example.com",
    "https://example.com\\@127.0.0.1/",
    "https://127.0.0.1\\@example.com/",
    "https://example.com/\nx",
    "https://exam\tple.com/",
    " https://example.com/",
    "https://example.com/\u{a0}",
    // Ports.
    "https://example.com:0/",
    "https://example.com:22/",
    "https://example.com:25/",
    "https://example.com:5432/",
    "https://example.com:6379/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://example.com:4a/",
];

#[test]
fn every_hostile_url_is_refused() {
    let egress = Egress::default();
    assert!(HOSTILE.len() >= 60);
    let passed: Vec<_> = HOSTILE.iter().filter(|url| egress.target(url).is_ok()).collect();
    assert!(passed.is_empty(), "{passed:#?}");
    let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
    assert_eq!(egress.target(&long), Err("must be at most 2,048 bytes"));
    let name = format!("https://{}.example/", "a".repeat(64));
    assert_eq!(egress.target(&name), Err("must have a host that is a name of DNS or an address"));
}

#[test]
fn public_urls_are_allowed_and_normalized() {
    for (url, host, port, authority, path) in [
        ("https://example.com", "example.com", 443, "example.com", "/"),
        ("HTTPS://Example.COM./x?y=1#z", "example.com", 443, "example.com", "/x?y=1"),
        ("https://example.com:443/", "example.com", 443, "example.com", "/"),
        ("https://example.com:8443/h", "example.com", 8_443, "example.com:8443", "/h"),
        ("https://bücher.example/ü", "xn--bcher-kva.example", 443, "xn--bcher-kva.example", "/%C3%BC"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "8.8.8.8", "/"),
        ("https://134744072/", "8.8.8.8", 443, "8.8.8.8", "/"),
        ("https://[2606:4700:4700::1111]:8443/", "[2606:4700:4700::1111]", 8_443, "[2606:4700:4700::1111]:8443", "/"),
        ("https://localhost.example/", "localhost.example", 443, "localhost.example", "/"),
        ("https://127.0.0.1.nip.example/", "127.0.0.1.nip.example", 443, "127.0.0.1.nip.example", "/"),
        ("https://a_b.example/@x", "a_b.example", 443, "a_b.example", "/@x"),
        ("https://example.com:65535/", "example.com", 65_535, "example.com:65535", "/"),
    ] {
        let target = Egress::default().target(url).unwrap_or_else(|why| panic!("{url}: {why}"));
        let read = (target.host.to_string(), target.port, target.authority, target.path, target.tls);
        assert_eq!(read, (host.to_owned(), port, authority.to_owned(), path.to_owned(), true), "{url}");
    }
}

#[test]
fn every_spelling_of_a_host_and_port_has_the_same_authority() {
    for (authority, spellings) in [
        (
            "hooks.example",
            &[
                "https://hooks.example",
                "https://hooks.example/",
                "https://hooks.example?1",
                "https://hooks.example/?2",
                "https://hooks.example#3",
                "https://hooks.example/a/b",
                "https://hooks.example.",
                "https://hooks.example./x",
                "https://hooks.example:443",
                "https://hooks.example:0443/",
                "https://hooks.example:/",
                "https://hooks.example.:443?4",
                "HTTPS://HOOKS.EXAMPLE",
                "https://Hooks.Example/x",
                "https://ｈｏｏｋｓ.example/",
                "https://hooks。example/",
                "https://h%6Foks.example/",
            ][..],
        ),
        (
            "hooks.example:8443",
            &["https://hooks.example:8443", "https://HOOKS.example.:08443?x", "https://hooks.example:8443#x"],
        ),
        (
            "xn--bcher-kva.example",
            &["https://bücher.example", "https://BÜCHER.example", "https://xn--bcher-kva.example."],
        ),
        ("8.8.8.8", &["https://8.8.8.8", "https://8.8.8.8.", "https://0x8.8.2056", "https://134744072:443?x"]),
        ("[2606:4700:4700::1111]", &["https://[2606:4700:4700::1111]", "https://[2606:4700:4700:0:0:0:0:1111]:443"]),
    ] {
        for url in spellings {
            let target = Egress::default().target(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!(target.authority, authority, "{url}");
            assert_eq!(host_of(url), authority, "{url}");
        }
    }
}

#[test]
fn the_host_of_a_url_is_known_whether_or_not_it_is_allowed() {
    for (url, host) in [
        ("http://127.0.0.1:8080/x?y", "127.0.0.1:8080"),
        ("http://localhost/", "localhost"),
        ("https://[::1]:443/", "[::1]"),
        ("http://10.0.0.1:22?x", "10.0.0.1:22"),
        ("", ""),
        ("nonsense", ""),
    ] {
        assert_eq!(host_of(url), host, "{url}");
    }
}

#[test]
fn the_operator_may_allow_http_and_networks_but_never_users_or_denied_ports() {
    let egress = Egress {
        allow_http: true,
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ..Egress::default()
    };
    for good in
        ["http://127.0.0.1:8080/", "https://localhost/", "http://[fd00::1]/", "http://0x7f.1/", "http://e.example/"]
    {
        assert!(egress.target(good).is_ok(), "{good}");
    }
    assert!(!egress.target("http://127.0.0.1/").unwrap().tls);
    for bad in ["http://10.0.0.1/", "http://[::1]/", "http://a@127.0.0.1/", "http://127.0.0.1:22/", "ftp://127.0.0.1/"]
    {
        assert!(egress.target(bad).is_err(), "{bad}");
    }
    let own_ports = Egress { deny_ports: vec![8_443], ..Egress::default() };
    assert!(own_ports.target("https://example.com:8443/").is_err());
    assert!(own_ports.target("https://example.com:5432/").is_ok());
    assert!(own_ports.target("https://example.com:0/").is_err());
}

proptest! {
    #[test]
    fn no_spelling_of_a_private_address_passes(a in 0_u32..4, low: u32, form in 0_usize..6) {
        let value = [10 << 24, 127 << 24, 169 << 24 | 254 << 16, 192 << 24 | 168 << 16][a as usize];
        let value = value | low & [0xff_ffff, 0xff_ffff, 0xffff, 0xffff][a as usize];
        let [b0, b1, b2, b3] = value.to_be_bytes();
        let host = match form {
            0 => format!("{value}"),
            1 => format!("{value:#x}"),
            2 => format!("0{value:o}"),
            3 => format!("{b0:#x}.0{b1:o}.{b2}.{b3:#X}"),
            4 => format!("{b0}.{}", value & 0xff_ffff),
            _ => format!("[::ffff:{b0}.{b1}.{b2}.{b3}]"),
        };
        let url = format!("https://{host}/");
        prop_assert!(Egress::default().target(&url).is_err(), "{}", url);
    }

    #[test]
    fn arbitrary_text_never_panics_and_a_good_url_is_never_an_address_that_is_not_public(text: String, host: String) {
        for url in [text, format!("https://{host}/")] {
            if let Ok(target) = Egress::default().target(&url) {
                match target.host {
                    Host::Ipv4(v4) => prop_assert_eq!(ip_class::special_purpose(v4.into()), None),
                    Host::Ipv6(v6) => prop_assert_eq!(ip_class::special_purpose(v6.into()), None),
                    Host::Domain(name) => prop_assert!(!name.is_empty()),
                }
            }
        }
    }
}
