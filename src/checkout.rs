//! The commit that the sources are of. The build script uses this file, the program does not.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A checkout of the sources.
pub struct Checkout {
    /// The first 12 digits of the commit.
    pub commit: String,
    /// The file that each new commit changes. Cargo runs a build script again each time if it names a file that does not
    /// exist, so this is none where git keeps no such file.
    pub log: Option<PathBuf>,
}

/// The checkout whose root is this folder: a clone or a worktree. None for sources from an archive, also if they were
/// unpacked inside of another repository, whose commit is not theirs.
pub fn of(root: &Path) -> Option<Checkout> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let log = root.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    Some(Checkout { commit: git(&["rev-parse", "--short=12", "HEAD"])?, log: log.is_file().then_some(log) })
}
