//! URLs of servers and files: the database, and the store of shared limits. The configuration and the drivers read them by
//! the same functions, so that what `config check` accepts is what a driver gets.
//!
//! A URL may hold a password. No message repeats a part of it, except the name of a parameter that some client defines.

use url::Url;

/// The parameters of a Postgres URL that are understood. Any other is refused by its name: one that is ignored could be one
/// that protects the connection.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];
/// The parameters of a Redis URL that are understood.
const REDIS_PARAMETERS: [&str; 1] = ["protocol"];
/// Parameters that other clients of Postgres, SQLite and Redis define. A message may name these.
const KNOWN_ELSEWHERE: &[&str] = &[
    "cache",
    "client_name",
    "channel_binding",
    "clientName",
    "client_encoding",
    "connect_timeout",
    "connectTimeout",
    "connection_limit",
    "currentSchema",
    "database",
    "db",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "immutable",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "mode",
    "nolock",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "passfile",
    "password",
    "pgbouncer",
    "pool_timeout",
    "protocol",
    "psow",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "schema",
    "skip_verify",
    "socket_timeout",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "timeout",
    "tty",
    "user",
    "username",
    "vfs",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// A URL without the white space around it: a file or a variable often ends with a new line.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim()
}

/// The file of a `sqlite://` URL; `None` for a URL of another scheme.
///
/// # Errors
///
/// Why there is no file.
pub fn sqlite(text: &str) -> Option<Result<&str, String>> {
    let text = trimmed(text);
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"))?;
    if let Some((_, query)) = path.split_once('?') {
        let name = query.split(['=', '&']).next().unwrap_or_default();
        return Some(Err(format!("has {}, but a sqlite:// URL takes none", named(name))));
    }
    // Each connection to a database in memory would have a database of its own.
    if matches!(path.trim_start_matches('/'), "" | ":memory:") {
        return Some(Err("must name a file, such as sqlite://keyward.db".to_owned()));
    }
    Some(Ok(path))
}

/// Whether a host, as URLs write it, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Checks a `postgres://` URL, and returns it as the driver takes it; `None` for a URL of another scheme.
///
/// # Errors
///
/// What is wrong with it.
pub fn postgres(text: &str) -> Option<Result<&str, String>> {
    let text = trimmed(text);
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"))?;
    Some(check_postgres(text, rest).map(|()| text))
}

fn check_postgres(text: &str, rest: &str) -> Result<(), String> {
    if text.contains('#') {
        // The parser treats what follows as a fragment, and would connect to a different host.
        return Err("has a '#', which a password must have as %23".to_owned());
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
        return Err("names several hosts, which is not supported".to_owned());
    }
    // The parser's message could hold the password.
    let url = Url::parse(text).map_err(|_| "is not a well-formed postgres:// URL".to_owned())?;
    check_parameters(&url, |name| PARAMETERS.contains(&name) || name.starts_with("options[") && name.ends_with(']'))?;
    for (name, value) in url.query_pairs() {
        let valid = match &*name {
            "sslmode" | "ssl-mode" => SSL_MODES.contains(&&*value),
            "port" => value.parse::<u16>().is_ok(),
            "hostaddr" => value.parse::<std::net::IpAddr>().is_ok(),
            "statement-cache-capacity" => value.parse::<usize>().is_ok(),
            "host" => !value.contains(','),
            _ => true,
        };
        if !valid {
            return Err(format!("has a value of the parameter {name} that is not valid"));
        }
    }
    Ok(())
}

/// Checks a URL of Redis or Valkey, and returns it as the driver takes it.
///
/// # Errors
///
/// What is wrong with it.
pub fn redis(text: &str) -> Result<&str, String> {
    let text = trimmed(text);
    // The parser's message could hold the password.
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "redis" | "rediss" | "valkey" | "valkeys"));
    let Some(url) = url.filter(|url| url.host_str().is_some_and(|host| !host.is_empty())) else {
        return Err("must be \"memory\" or a redis:// URL with a host".to_owned());
    };
    if text.contains('#') {
        // `#insecure` would accept every certificate; anything else may be the rest of a password.
        return Err("has a '#', which a password must have as %23".to_owned());
    }
    check_parameters(&url, |name| REDIS_PARAMETERS.contains(&name))?;
    if url.query_pairs().any(|(_, value)| !matches!(&*value, "2" | "3" | "resp2" | "resp3")) {
        return Err("has a value of the parameter protocol that is not valid".to_owned());
    }
    let database = url.path().trim_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err("has a database that is not a number".to_owned());
    }
    Ok(text)
}

/// Refuses a parameter that is not supported, and one that is given twice: drivers differ in which one they use.
fn check_parameters(url: &Url, supported: impl Fn(&str) -> bool) -> Result<(), String> {
    let mut seen = Vec::new();
    for (name, _) in url.query_pairs() {
        if !supported(&name) {
            return Err(format!("has {}, which is not supported", named(&name)));
        }
        if seen.contains(&name) {
            return Err(format!("has the parameter {name} twice"));
        }
        seen.push(name);
    }
    Ok(())
}

/// How a message names a parameter. A name that no client defines is not repeated: it may be the rest of a password in
/// which `?` is not percent-encoded.
fn named(parameter: &str) -> String {
    if KNOWN_ELSEWHERE.contains(&parameter) {
        format!("the parameter {parameter}")
    } else {
        "a parameter of an unknown name (not shown: it may be part of a password with an unescaped '?')".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of the reader that accepts the scheme of a URL.
    fn read(text: &str) -> Result<&str, String> {
        sqlite(text).or_else(|| postgres(text)).unwrap_or_else(|| redis(text))
    }

    #[test]
    fn a_parameter_that_is_not_supported_is_refused_by_its_name_and_without_its_value() {
        for (url, name) in [
            ("postgres://u@h/db?sslpassword=hunter2", "sslpassword"),
            ("postgres://u@h/db?ssl=hunter2", "ssl"),
            ("postgres://u@h/db?target_session_attrs=hunter2", "target_session_attrs"),
            ("postgres://u@h/db?sslmode=hunter2", "sslmode"),
            ("postgres://u@h/db?port=hunter2", "port"),
            ("postgres://u@h/db?user=a&hostaddr=hunter2", "hostaddr"),
            ("postgres://u@h/db?sslmode=require&sslmode=disable", "sslmode"),
            ("postgres://u@h/db?host=hunter2,hunter3", "host"),
            ("sqlite://keyward.db?mode=hunter2", "mode"),
            ("sqlite:keyward.db?vfs=hunter2&cache=shared", "vfs"),
            ("redis://h?timeout=hunter2", "timeout"),
            ("rediss://h/0?ssl_cert_reqs=hunter2", "ssl_cert_reqs"),
            ("valkey://h?db=1", "the parameter db"),
            ("redis://h?protocol=hunter2", "protocol"),
            ("redis://h?protocol=3&protocol=2", "protocol"),
            ("redis://h?password=hunter2", "password"),
        ] {
            let refused = read(url).unwrap_err();
            assert!(refused.contains(name) && !refused.contains("hunter"), "{url}: {refused}");
        }
    }

    #[test]
    fn no_part_of_a_password_is_repeated_whatever_is_not_escaped_in_it() {
        for url in [
            "postgres://u:1?hunter2@h/db",
            "postgres://u:1?a=b&hunter2@h/db",
            "postgres://u:12#hunter2@h/db",
            "postgres://u:hunter2@h:nonsense/db",
            "postgres://u:hunter2@[bad/db",
            "postgres://u:hunter2@a,b/db",
            "postgres://u:hunter2@a:1,b:2/db",
            "sqlite://k.db?hunter2",
            "redis://:1?hunter2@h",
            "redis://:12#hunter2@h",
            "rediss://h#hunter2",
            "rediss://h#insecure",
            "redis://:hunter2@h:nonsense",
            "redis://:hunter2@h/nonsense",
            "redis://:hunter2@",
            "http://hunter2",
            "memcached://:hunter2@h",
        ] {
            let refused = read(url).unwrap_err();
            assert!(!refused.contains("hunter2"), "{url}: {refused}");
        }
    }

    #[test]
    fn urls_are_taken_without_the_white_space_around_them() {
        for url in [
            "sqlite://k.db",
            "postgres://u:p@[::1]:5432/db?sslmode=verify-full&options[work_mem]=1MB",
            "postgresql://%2Fvar%2Frun/db",
            "postgres:///db?host=/var/run",
            "redis://h",
            "redis://[::1]:6379/3",
            "rediss://user:p%23%3F@h:6380?protocol=resp3",
            "valkeys://h",
        ] {
            let expected = url.strip_prefix("sqlite://").unwrap_or(url);
            for text in [url.to_owned(), format!("{url}\n"), format!(" \t{url}\r\n")] {
                assert_eq!(read(&text), Ok(expected), "{text:?}");
            }
        }
    }
}
