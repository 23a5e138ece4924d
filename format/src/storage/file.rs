//! A byte store in a file of the host.

use super::{DataKind, MetadataKind, Storage, buffers};
use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use nix::sys::sendfile::sendfile;
use nix::unistd::{Whence, lseek};
use smallvec::SmallVec;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

/// What an image file is opened for, and so which locks are taken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its description alone is read; others may write it meanwhile. No lock.
    Inspect,
    /// It is read; nobody may write it meanwhile.
    Read,
    /// It is read and written; nobody else may read or write it meanwhile.
    Write,
    /// As `Write`, for a cache that is being filled: other processes of ours may read [`Beside`](Self::Beside).
    Fill,
    /// A cache is read that another process of ours is filling. What the file points at stays as it is, so that
    /// the filler's locks alone protect it; when that process ends, nothing keeps stock tools out any more.
    Beside,
}

/// Byte-range locks on the file, at the offsets at which QEMU takes and looks for them: a byte per
/// permission that is held, and a byte per permission that is denied to others.
mod lock_bytes {
    pub const HELD: i64 = 100;
    pub const DENIED: i64 = 200;
    pub const CONSISTENT_READ: i64 = 0;
    pub const WRITE: i64 = 1;
    pub const RESIZE: i64 = 3;
    pub const ALL: [i64; 3] = [CONSISTENT_READ, WRITE, RESIZE];
    /// Held by a process of ours that fills a cache; beyond the bytes that QEMU uses.
    pub const FILLING: i64 = 300;

    /// The bytes of some permissions, from one of the bases on.
    pub fn from(base: i64, permissions: &[i64]) -> impl Iterator<Item = i64> {
        permissions.iter().map(move |permission| base.saturating_add(*permission))
    }
}

/// A file of the host. Clones share it; the locks go when the last one is dropped.
///
/// Requests block the calling thread: their futures are ready at the first poll.
#[derive(Clone, Debug)]
pub struct HostFile {
    file: Rc<File>,
    /// The error with which a flush has failed.
    flush_error: Rc<Cell<Option<i32>>>,
}

impl HostFile {
    /// Opens an existing file, and locks it as `access` demands.
    ///
    /// # Errors
    /// If it cannot be opened, or (`WouldBlock`) another process uses it in a way that excludes `access`.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(matches!(access, Access::Write | Access::Fill));
        // When an image was read last is nothing that the host should look at with every request.
        let file = match options.clone().custom_flags(libc::O_NOATIME).open(path) {
            // The file is somebody else's.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options.open(path)?,
            opened => opened?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Self::locked(file, access)
    }

    /// Takes over a file that was opened for reading and writing.
    ///
    /// # Errors
    /// As [`open`](Self::open) with [`Access::Write`].
    pub fn from_file(file: File) -> io::Result<Self> {
        Self::locked(file, Access::Write)
    }

    /// Device and inode: equal for two names of one file.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn locked(file: File, access: Access) -> io::Result<Self> {
        use lock_bytes::*;
        let (held, denied): (&[i64], &[i64]) = match access {
            Access::Inspect | Access::Beside => (&[], &[]),
            Access::Read => (&[CONSISTENT_READ], &[WRITE, RESIZE]),
            Access::Write | Access::Fill => (&ALL, &ALL),
        };
        if access == Access::Beside && !is_locked_by_others(&file, FILLING)? {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process is writing this image"));
        }
        for byte in from(HELD, held).chain(from(DENIED, denied)) {
            lock(&file, byte)?;
        }
        // Others conflict if they deny what we hold, or hold what we deny.
        let conflicting: Vec<i64> = from(DENIED, held).chain(from(HELD, denied)).collect();
        let mut further_looks = 1..LOOKS;
        while any_locked_by_others(&file, &conflicting)? {
            if further_looks.next().is_none() {
                let why = match access {
                    Access::Write | Access::Fill => "another process is using this image",
                    _ => "another process is writing this image",
                };
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            thread::sleep(PAUSE);
        }
        if access == Access::Fill {
            lock(&file, FILLING)?;
        }
        Ok(HostFile { file: Rc::new(file), flush_error: Rc::default() })
    }

    /// Writes at most [`MAX_PARTS`] parts, and returns where they end.
    fn write_parts(&self, offset: u64, parts: &[Bytes]) -> io::Result<u64> {
        let slices: SmallVec<[IoSlice<'_>; 4]> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = nix::sys::uio::pwritev(&*self.file, &slices, offset as i64)?;
        let mut at = offset;
        for part in parts {
            let (done, rest) = part.split_at(written.min(part.len()));
            written = written.saturating_sub(done.len());
            at = at.saturating_add(done.len() as u64);
            // A short write: the rest, part by part.
            if !rest.is_empty() {
                self.file.write_all_at(rest, at)?;
                at = at.saturating_add(rest.len() as u64);
            }
        }
        Ok(at)
    }

    /// Has the host copy bytes of `source`, all of which must lie before its end. By sendfile, since copy_file_range
    /// would make the two files share extents where the file system can: every later write would then break a piece
    /// off one.
    fn send_from(&self, source: &Self, from: &Range<u64>, to: u64) -> io::Result<()> {
        // Nothing else uses the position of the file.
        lseek(&*self.file, to as i64, Whence::SeekSet)?;
        let mut at = from.start as i64;
        loop {
            let rest = from.end.saturating_sub(at as u64) as usize;
            if rest == 0 {
                return Ok(());
            }
            match sendfile(&*self.file, &*source.file, Some(&mut at), rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills `bytes` with what lies at `offset`; beyond the end of the file lie zeroes.
    fn read_exact_or_zero(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => {
                    at = at.saturating_add(n as u64);
                    rest = rest.get_mut(n..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        rest.fill(0);
        Ok(())
    }
}

/// The host writes at most this many parts in one request (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// How often a conflicting lock is looked at before it counts, and the pause between. A process that another
/// thread is just starting holds copies of all our locks until it runs its own program.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

fn any_locked_by_others(file: &File, bytes: &[i64]) -> io::Result<bool> {
    for byte in bytes {
        if is_locked_by_others(file, *byte)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn range_lock(kind: i32, byte: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

fn lock(file: &File, byte: i64) -> io::Result<()> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range_lock(libc::F_RDLCK, byte))) {
        Ok(_) => Ok(()),
        // File systems without such locks cannot protect anybody; QEMU carries on there too.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_locked_by_others(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = range_lock(libc::F_WRLCK, byte);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != libc::F_UNLCK as i16),
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Storage for HostFile {
    type Payload = Bytes;

    async fn read(&self, _kind: DataKind, offset: u64, len: u64) -> io::Result<Bytes> {
        buffers::filled(len as usize, |bytes| self.read_exact_or_zero(offset, bytes))
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        if let [single] = parts {
            return self.file.write_all_at(single, offset);
        }
        let mut offset = offset;
        for parts in parts.chunks(MAX_PARTS) {
            offset = self.write_parts(offset, parts)?;
        }
        Ok(())
    }

    async fn copy_from(&self, source: &Self, from: &Range<u64>, to: u64) -> bool {
        self.send_from(source, from, to).is_ok()
    }

    async fn read_metadata(&self, _kind: MetadataKind, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.read_exact_or_zero(offset, &mut bytes)?;
        Ok(bytes)
    }

    async fn write_metadata(&self, _kind: MetadataKind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    async fn flush(&self) -> io::Result<()> {
        if let Some(error) = self.flush_error.get() {
            // The host has forgotten what it could not write: were it asked again, it would say that all is well.
            return Err(io::Error::from_raw_os_error(error));
        }
        self.file.sync_data().inspect_err(|error| {
            self.flush_error.set(Some(error.raw_os_error().unwrap_or(libc::EIO)));
        })
    }

    async fn hole(&self, range: &Range<u64>) -> io::Result<(bool, u64)> {
        let seek = |whence| lseek(&*self.file, range.start as i64, whence).map(|at| at as u64);
        let data = match seek(Whence::SeekData) {
            Ok(data) => data,
            // There is no data behind.
            Err(Errno::ENXIO) => return Ok((true, range.end)),
            // File systems that do not know of holes.
            Err(_) => return Ok((false, range.end)),
        };
        if data > range.start {
            return Ok((true, data.min(range.end)));
        }
        // Not at the start, were a hole to be made there just now.
        let end = seek(Whence::SeekHole).ok().filter(|end| *end > range.start);
        Ok((false, end.unwrap_or(range.end).min(range.end)))
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    async fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&*self.file, mode, offset as i64, len as i64) {
            // File systems without holes keep what they have.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LocalRuntime;

    #[test]
    fn after_a_flush_that_failed_none_says_that_all_is_well() {
        let runtime = LocalRuntime::new();
        let file = HostFile::from_file(tempfile::tempfile().unwrap()).unwrap();
        assert!(runtime.block_on(file.flush()).is_ok());
        file.flush_error.set(Some(libc::ENOSPC));
        let clone = file.clone();
        assert_eq!(
            runtime.block_on(clone.flush()).map_err(|error| error.raw_os_error()),
            Err(Some(libc::ENOSPC))
        );
        // What cannot be flushed at all fails, and is remembered.
        let device = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let device = HostFile::from_file(device).unwrap();
        assert!(runtime.block_on(device.flush()).is_err());
        assert!(device.flush_error.get().is_some());
    }

    #[test]
    fn what_the_host_copies_is_all_there_or_said_not_to_be() {
        let runtime = LocalRuntime::new();
        let content: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8).collect();
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all_at(&content, 0).unwrap();
        let [source, target] = [source, target].map(|file| HostFile::from_file(file).unwrap());
        // More than the host moves at once, and no range of whole pages.
        assert!(runtime.block_on(target.copy_from(&source, &(7..190_007), 100_003)));
        assert!(runtime.block_on(target.copy_from(&source, &(0..1), 5)));
        let copied = runtime.block_on(target.read(DataKind::Guest, 0, 290_003)).unwrap();
        assert_eq!(copied[5], content[0]);
        assert!(copied[6..100_003].iter().all(|byte| *byte == 0));
        assert_eq!(copied[100_003..], content[7..190_007]);
        let beyond_end = runtime.block_on(target.copy_from(&source, &(150_000..200_001), 0));
        assert!(!beyond_end, "the last byte is not there");
    }

    /// Room that was set aside has blocks, and yet reads as zeroes.
    #[test]
    fn room_that_was_never_written_is_a_hole_where_the_host_says_so() {
        let runtime = LocalRuntime::new();
        let file = tempfile::tempfile().unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        let is_hole = lseek(&file, 0, Whence::SeekData) == Err(Errno::ENXIO);
        let file = HostFile::from_file(file).unwrap();
        assert_eq!(runtime.block_on(file.hole(&(0..1 << 20))).unwrap(), (is_hole, 1 << 20));
    }
}
