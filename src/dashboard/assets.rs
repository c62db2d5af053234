//! The files of the pages, in the binary. A file's name holds a digest of its content, so that browsers cache it for
//! ever and load a changed file at once.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// A file.
#[derive(Debug)]
pub(super) struct Asset {
    /// The path below `/dashboard/static/`.
    name: String,
    pub(super) content_type: &'static str,
    pub(super) content: &'static [u8],
}

/// The paths that the pages name.
#[derive(Debug)]
pub(super) struct Assets {
    files: [Asset; 4],
}

fn asset(stem: &str, extension: &str, content_type: &'static str, content: &'static [u8]) -> Asset {
    let digest = HEXLOWER.encode(&Sha256::digest(content)[..8]);
    Asset { name: format!("{stem}.{digest}.{extension}"), content_type, content }
}

/// htmx 2.0.8 under the Zero-Clause BSD license, as npm has it.
const HTMX: &[u8] = include_bytes!("static/htmx-2.0.8.min.js");

/// The files.
static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    files: [
        asset("dashboard", "css", "text/css; charset=utf-8", include_bytes!("static/dashboard.css")),
        asset("htmx", "js", "text/javascript; charset=utf-8", HTMX),
        asset("dashboard", "js", "text/javascript; charset=utf-8", include_bytes!("static/dashboard.js")),
        asset("keyward", "svg", "image/svg+xml", include_bytes!("static/keyward.svg")),
    ],
});

impl Assets {
    /// The files.
    pub(super) fn get() -> &'static Self {
        &ASSETS
    }

    /// The name of the stylesheet.
    pub(super) fn style(&self) -> &str {
        &self.files[0].name
    }

    /// The name of htmx.
    pub(super) fn htmx(&self) -> &str {
        &self.files[1].name
    }

    /// The name of the pages' own script.
    pub(super) fn script(&self) -> &str {
        &self.files[2].name
    }

    /// The name of the icon.
    pub(super) fn icon(&self) -> &str {
        &self.files[3].name
    }

    /// The file with a name.
    pub(super) fn find(&self, name: &str) -> Option<&Asset> {
        self.files.iter().find(|asset| asset.name == name)
    }
}
