//! What standard output shows once the service is ready: addresses, and commands to paste.

use std::{fmt::Write as _, io::Write as _, thread, time::Duration};

use tokio::{sync::oneshot, time::timeout};
use zeroize::Zeroizing;

use super::listeners::Addresses;
use crate::{
    config::Config,
    domain::{keyspace::Keyspace, secret::Secret},
};

/// How long the start waits for the reader of standard output.
const PRINT_TIMEOUT: Duration = Duration::from_secs(1);

/// Prints the addresses, the root key if it was created now, where the dashboard is, and three commands to paste. On a
/// thread of its own, so that a pipe that is full or closed does not block the service.
pub async fn print(config: &Config, addresses: &Addresses, root_key: Option<&Secret>) {
    let text = Zeroizing::new(text(config, addresses, root_key));
    let (printed, done) = oneshot::channel();
    let printing = thread::Builder::new().name("banner".to_owned()).spawn(move || {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
        let _ = printed.send(());
    });
    if printing.is_ok() {
        let _ = timeout(PRINT_TIMEOUT, done).await;
    }
}

fn text(config: &Config, addresses: &Addresses, root_key: Option<&Secret>) -> String {
    let mut text = String::new();
    let named = [("grpc", addresses.grpc), ("http", addresses.http), ("metrics", addresses.metrics)];
    for (name, address) in named {
        if let Some(address) = address {
            let _ = writeln!(text, "{name} listening on {address}");
        }
    }
    let root = root_key.map_or("$KEYWARD_ROOT_KEY", Secret::expose);
    if root_key.is_some() {
        let _ = writeln!(text, "\nroot key, shown this once: {root}");
    }
    let (Some(grpc), Some(http)) = (addresses.grpc, addresses.http) else { return text };
    let body = config.registry.configured().first().map(|keyspace| body(keyspace)).unwrap_or_default();
    let json = "-H 'Content-Type: application/json'";
    let (scheme, plaintext) = if config.tls.is_some() { ("https", "") } else { ("http", "-plaintext ") };
    if config.dashboard.enabled {
        let address = config.dashboard.url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
        let address = address.unwrap_or_else(|| format!("{scheme}://{http}"));
        let _ = writeln!(text, "\ndashboard, where the root key signs in: {address}/dashboard");
    }
    let _ = writeln!(
        text,
        "\n\
         KEY=$(curl -s {scheme}://{http}/api/v1/keys -H \"Authorization: Bearer {root}\" {json} -d '{body}' \
         | sed -E 's/.*\"key\":\"([^\"]+)\".*/\\1/'); echo $KEY\n\
         curl -s {scheme}://{http}/api/v1/verify -H \"Authorization: Bearer {root}\" {json} \
         -d \"{{\\\"secret\\\":\\\"$KEY\\\"}}\"\n\
         grpcurl {plaintext}-H \"authorization: Bearer {root}\" {grpc} keyward.v1.KeyService/List"
    );
    text
}

/// A body that creates a key of this keyspace.
fn body(keyspace: &Keyspace) -> String {
    let mut fields = vec![("name", "first"), ("keyspace", keyspace.name.as_str())];
    if keyspace.require.organization {
        fields.push(("orgId", "acme"));
    }
    if keyspace.require.instance {
        fields.push(("instanceId", "main"));
    }
    let environments = keyspace.prefixes.iter().map(|(environment, _)| environment).find(|name| !name.is_empty());
    match environments {
        Some(environment) => fields.push(("environment", environment)),
        None if keyspace.require.environment => fields.push(("environment", "production")),
        None => {}
    }
    let pairs: serde_json::Map<_, _> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(pairs).to_string()
}
