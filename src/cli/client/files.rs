//! Private files: a folder of mode 0700, files of mode 0600, replaced atomically, and refused if another user could
//! have written them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::failure::{Failure, Result};

/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of a file, and a warning if its permissions were repaired.
pub struct PrivateText {
    /// The text of the file.
    pub text: String,
    /// A sentence to warn with.
    pub warning: Option<String>,
}

/// A folder with private files.
#[derive(Debug, Clone)]
pub struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// The folder at this path. Nothing is made before the first write.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads a file; none if it does not exist.
    ///
    /// # Errors
    ///
    /// The file or its folder belongs to another user, or another user could have written it.
    pub fn read(&self, name: &str) -> Result<Option<PrivateText>> {
        let path = self.0.join(name);
        let failed = |error: io::Error| Failure::new(format_args!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut warnings = Vec::new();
        for folder in self.0.ancestors().take(2) {
            let folder_file = File::open(folder).map_err(failed)?;
            warnings.extend(make_private(&folder_file, folder, 0o700)?);
        }
        warnings.extend(make_private(&file, &path, 0o600)?);
        let mut text = String::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
        if read.is_err() || text.len() as u64 > MAX_FILE_BYTES {
            // Not UTF-8. The caller reports an empty text as damaged.
            text.clear();
        }
        Ok(Some(PrivateText { text, warning: (!warnings.is_empty()).then(|| warnings.join("\n")) }))
    }

    /// Replaces a file. If that fails, for example on a full disk, the old file stays.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn write(&self, name: &str, text: &str) -> Result {
        self.make()?;
        let path = self.0.join(name);
        let draft = self.0.join(format!(".{name}.{}.tmp", std::process::id()));
        let written = (|| {
            let _ = fs::remove_file(&draft);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        })();
        written.map_err(|error: io::Error| {
            let _ = fs::remove_file(&draft);
            Failure::new(format_args!("{}: {error}", path.display()))
        })
    }

    /// Deletes a file, if it is there.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn delete(&self, name: &str) -> Result {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::new(format_args!("{}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Opens the lock file, by which processes exclude each other.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn lock_file(&self) -> Result<File> {
        self.make()?;
        let path = self.0.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path).map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))
    }

    /// Makes the folder and the one around it, which holds all environments.
    fn make(&self) -> Result {
        let failed = |error: io::Error| Failure::new(format_args!("{}: {error}", self.0.display()));
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.0).map_err(failed)?;
        for folder in self.0.ancestors().take(2) {
            make_private(&File::open(folder).map_err(failed)?, folder, 0o700)?;
        }
        Ok(())
    }
}

/// Refuses a file that another user owns or could have written. Removes other users' right to read it, and returns a
/// warning then.
#[cfg(unix)]
fn make_private(file: &File, path: &Path, mode: u32) -> Result<Option<String>> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let failed = |error: io::Error| Failure::new(format_args!("{}: {error}", path.display()));
    let facts = file.metadata().map_err(failed)?;
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(Failure::new(format_args!("{} belongs to another user: it is not used", path.display())));
    }
    let open = facts.mode() & 0o777 & !mode;
    if open & 0o022 != 0 {
        return Err(Failure::new(format_args!(
            "{} could have been written by other users: it is not used. Delete it and sign in again",
            path.display()
        )));
    }
    if open == 0 {
        return Ok(None);
    }
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(Some(format!("{} was readable by other users: it is private now", path.display())))
}

/// Windows keeps a user's profile private by itself.
#[cfg(not(unix))]
fn make_private(_: &File, _: &Path, _: u32) -> Result<Option<String>> {
    Ok(None)
}
