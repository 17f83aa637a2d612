//! What is the least a FUSE filesystem of this kind can cost: kin's flags, no check or the check alone, no record.

use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use nix::unistd::{getgid, getuid};
use tempfile::TempDir;

use crate::Result;
use crate::check::Check;
use crate::children::{Responder, own};

/// The size of every file that is measured, in bytes.
pub(crate) const SIZE: usize = 64;

/// As deep as a file in kin's mount: `project/file`.
pub(crate) const DIRECTORY: &str = "bench";
pub(crate) const FILE: &str = "value";
const DIRECTORY_INODE: INodeNo = INodeNo(2);
const FILE_INODE: INodeNo = INodeNo(3);

/// Names are cached, attributes never: as kin's.
const NAMES: Duration = Duration::from_secs(3600);
const ATTRIBUTES: Duration = Duration::ZERO;

/// The served floor, in a process of its own; unmounted on drop.
pub(crate) struct Floor {
    server: Option<Responder>,
    mountpoint: TempDir,
}

impl Floor {
    /// Mounts it and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        Self::start_as("floor")
    }

    /// One that checks each open and read, and lets only those below a root through: see [`Floor::member`].
    pub(crate) fn start_checked() -> Result<Self> {
        Self::start_as("checked-floor")
    }

    fn start_as(role: &str) -> Result<Self> {
        let mountpoint = crate::world::temporary("kf")?;
        let path = mountpoint.path().as_os_str();
        let mut server = Responder::start(&mut own([OsStr::new(role), path])?)?;
        match server.receive()?.as_str() {
            "ready" => Ok(Self { server: Some(server), mountpoint }),
            answer => Err(format!("the floor does not serve: {answer}")),
        }
    }

    /// A part below a root that the checked floor knows: a child subreaper, as a keeper is.
    pub(crate) fn member(&mut self, part: &[&str]) -> Result<Responder> {
        let mut member = Responder::start(own(["root"])?.args(part).arg(self.file()))?;
        let root = member.receive()?;
        let server = self.server.as_mut().ok_or("the floor has ended")?;
        server.send(&root)?;
        match server.receive()?.as_str() {
            "entered" => Ok(member),
            answer => Err(format!("the checked floor does not know its root: {answer}")),
        }
    }

    /// The pid of its server.
    pub(crate) fn server(&self) -> Result<u32> {
        self.server.as_ref().map(Responder::pid).ok_or_else(|| "the floor has ended".into())
    }

    /// The file that it serves.
    pub(crate) fn file(&self) -> PathBuf {
        self.mountpoint.path().join(DIRECTORY).join(FILE)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.server = None;
        crate::world::unmount_if_mounted(self.mountpoint.path());
    }
}

/// The floor's server: mounts, says `ready`, unmounts at the end of its standard input. Every line of that is
/// the number of a root for `check`, answered with `entered`.
pub(crate) fn serve(mountpoint: &Path, check: Option<Check>) -> Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("kin-bench-floor".into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.n_threads = Some(2);
    let check = check.map(Arc::new);
    let session = fuser::spawn_mount(Served { check: check.clone() }, mountpoint, &config)
        .map_err(|error| format!("mount the floor at {}: {error}", mountpoint.display()))?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("wait for the end: {error}"))?;
        let check = check.as_ref().ok_or("a root for a floor that does not check")?;
        check.enter(line.parse().map_err(|_| format!("root {line:?}"))?)?;
        println!("entered");
    }
    session.umount_and_join().map_err(|error| format!("unmount the floor: {error}"))
}

struct Served {
    check: Option<Arc<Check>>,
}

fn attributes(inode: INodeNo) -> FileAttr {
    let (kind, perm, size) = match inode {
        FILE_INODE => (FileType::RegularFile, 0o400, SIZE as u64),
        _ => (FileType::Directory, 0o500, 0),
    };
    FileAttr {
        ino: inode,
        size,
        blocks: 1,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| io::ErrorKind::Unsupported.into())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match (parent, name.to_str()) {
            (INodeNo::ROOT, Some(DIRECTORY)) => DIRECTORY_INODE,
            (DIRECTORY_INODE, Some(FILE)) => FILE_INODE,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry_with_ttls(&ATTRIBUTES, &NAMES, &attributes(found), Generation(0));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTRIBUTES, &attributes(inode));
    }

    fn open(&self, request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.check.as_ref().map_or(Some(1), |check| check.open(request.pid()));
        let Some(handle) = handle else { return reply.error(Errno::EACCES) };
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.check.as_ref().is_some_and(|check| !check.read(request.pid(), handle.0)) {
            return reply.error(Errno::EACCES);
        }
        const CONTENT: [u8; SIZE] = [b'x'; SIZE];
        let start = usize::try_from(offset).map_or(SIZE, |offset| offset.min(SIZE));
        let end = SIZE.min(start.saturating_add(size as usize));
        reply.data(&CONTENT[start..end]);
    }
}
