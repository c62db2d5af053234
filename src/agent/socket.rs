//! The sockets of an agent.

use std::{
    fs::{self, File},
    io::{Error, ErrorKind, Result},
    os::unix::{
        fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixSocket};

use super::settings::Listen;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// A socket that is listened on.
pub(super) enum Socket {
    Unix(UnixListener, SocketFile),
    Loopback(TcpListener),
}

/// The file of a Unix socket. It is removed when this is dropped.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Locked for as long as this process listens: no other agent takes the path over meanwhile.
    _lock: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Listens. The file of a Unix socket has the mode `mode`; a file left behind, on which no process listens, is
    /// replaced.
    ///
    /// # Errors
    ///
    /// Why it cannot listen there.
    pub(super) async fn bind(listen: &Listen, mode: u32) -> Result<Self> {
        match listen {
            Listen::Loopback(address) => Ok(Self::Loopback(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path, mode)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Where it listens, in the form of the setting.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
            Self::Loopback(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let lock = lock(path)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        // A socket that nobody listens on was left behind by a process that was killed.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            _ => return Err(Error::new(ErrorKind::AddrInUse, "another process listens there")),
        },
    }
    // The file has another name until the socket listens: a client at `path` never finds one that refuses it.
    let new = beside(path, "new");
    match fs::symlink_metadata(&new) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(&new)?,
        Ok(_) => return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", new.display()))),
    }
    let listener = bind_with_mode(&new, mode)
        .and_then(|socket| socket.listen(BACKLOG))
        .and_then(|listener| fs::rename(&new, path).map(|()| listener));
    if listener.is_err() {
        let _ = fs::remove_file(&new);
    }
    Ok((listener?, SocketFile { path: path.to_owned(), _lock: lock }))
}

/// Creates the file of a socket with its mode. The socket does not listen yet: a connection that is made between the two
/// steps is refused, so that the mode allows every connection that is accepted.
fn bind_with_mode(path: &Path, mode: u32) -> Result<UnixSocket> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(socket)
}

/// Locks the path of a socket by a file beside it, which stays.
fn lock(path: &Path) -> Result<File> {
    // Only the owner may open the file: a process that locks it keeps an agent from starting.
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(beside(path, "lock"))?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => Error::new(ErrorKind::AddrInUse, "another agent listens there"),
        fs::TryLockError::Error(error) => error,
    })?;
    Ok(lock)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
        bind_unix(path, 0o640)
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        UnixStream::connect(&path).unwrap();
        assert_eq!(bind(&path).err().unwrap().kind(), ErrorKind::AddrInUse);
        drop((listener, file));
        assert!(!path.exists());
        bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_socket_refuses_connections_until_it_has_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock.new");
        let socket = bind_with_mode(&path, 0o640).unwrap();
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let _listener = socket.listen(BACKLOG).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        // Left behind by a process that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let replaced = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(replaced);
        // The socket of another program, which does not lock the path.
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path).err().unwrap().kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert_eq!(bind(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        fs::remove_file(&path).unwrap();
        fs::write(beside(&path, "new"), "text").unwrap();
        assert_eq!(bind(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(beside(&path, "new")).unwrap(), "text");
    }
}
