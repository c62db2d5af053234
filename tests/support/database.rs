//! A Postgres of one's own, which can be crashed, and in which nobody else's transactions are.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::{net::SocketAddr, path::Path, process::Command};

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

/// A Postgres of one's own.
pub struct Database {
    folder: TempDir,
    settings: String,
    address: SocketAddr,
}

impl Database {
    /// Starts one with these settings on top.
    pub fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = script("start", folder.path(), settings);
        let address = url.trim().rsplit('@').next().and_then(|address| address.parse().ok()).expect("an address");
        Self { folder, settings: settings.to_owned(), address }
    }

    /// Stops it without a checkpoint, as a crash would.
    pub fn crash(&self) {
        script("stop", self.folder.path(), &self.settings);
    }

    /// Starts it again.
    pub fn restart(&self) {
        script("start", self.folder.path(), &self.settings);
    }

    /// Starts it again as a standby: it answers, and takes no writes.
    pub fn restart_as_standby(&self) {
        let signal = self.folder.path().join("data/standby.signal");
        std::fs::write(&signal, "").expect("the folder of the data");
        // It belongs to another user.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&signal, everybody).expect("the file is ours");
        self.restart();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, past every proxy.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// A connection past every proxy.
    pub async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = url(self.address).parse().expect("a URL");
        options.connect().await.expect("Postgres answers")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = Command::new(postgres_script()).arg("stop").arg(self.folder.path()).output();
    }
}

fn postgres_script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/postgres.sh"))
}

fn script(command: &str, folder: &Path, settings: &str) -> String {
    let output = Command::new(postgres_script())
        .arg(command)
        .arg(folder)
        .env("KEYWARD_POSTGRES_SETTINGS", settings)
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a URL")
}

/// The URL of the database there.
pub fn url(address: SocketAddr) -> String {
    format!("postgres://postgres@{address}/postgres")
}
