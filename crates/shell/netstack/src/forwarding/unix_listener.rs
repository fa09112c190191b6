//! A Unix socket at which a forward is reached: for the user that the node runs as, and nobody else.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Its owner may connect.
const MODE: u32 = 0o600;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at a path, and takes the path away when dropped.
#[derive(Debug)]
pub struct UnixListener {
    socket: Socket,
    path: PathBuf,
    /// Device and number of the file, which tell whether it is still this socket's.
    file: (u64, u64),
}

impl UnixListener {
    /// Listens at `path`. A socket that nobody listens at any more is taken away; anything else that is there stays.
    ///
    /// # Errors
    /// `AddrInUse` if something else is there, or what the kernel said.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before it listens nobody can connect, so there is no moment at which others could.
        let limited = fs::set_permissions(path, Permissions::from_mode(MODE)).and_then(|()| fs::symlink_metadata(path));
        match limited.and_then(|metadata| socket.listen(BACKLOG).map(|()| metadata)) {
            Ok(metadata) => Ok(Self { socket, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// The socket for a runtime. Must be called inside the one that will drive it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn listen(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.socket.try_clone()?.into())
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        let still_there = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino()) == self.file;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(still_there) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a node that was killed has left behind must not keep the next one from listening.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let nobody_listens =
        || UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if metadata.file_type().is_socket() && nobody_listens() {
        return fs::remove_file(path);
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "something is there already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_its_owner_only_and_goes_when_it_is_dropped() {
        let folder = std::env::temp_dir().join(format!("x0t-unix-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.sock");
        let first = UnixListener::bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(UnixListener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody listens there");
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as after a kill");
        let second = UnixListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(second);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert_eq!(UnixListener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"another's", "a file is nothing to take away");
        fs::remove_dir_all(&folder).unwrap();
    }
}
