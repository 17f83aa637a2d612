//! What is the least a FUSE filesystem of this kind can cost: kin's flags, no check, no record.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use nix::unistd::{getgid, getuid};
use tempfile::TempDir;

use crate::Result;
use crate::children::{Responder, own};

/// The size of every file that is measured, in bytes.
pub(crate) const SIZE: usize = 64;

/// As deep as a file in kin's mount: `project/file`.
const DIRECTORY: &str = "bench";
const FILE: &str = "value";
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
        let mountpoint = crate::world::temporary("kf")?;
        let path = mountpoint.path().as_os_str();
        let mut server = Responder::start(&mut own([OsStr::new("floor"), path])?)?;
        match server.receive()?.as_str() {
            "ready" => Ok(Self { server: Some(server), mountpoint }),
            answer => Err(format!("the floor does not serve: {answer}")),
        }
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

/// The floor's server: mounts, says `ready`, unmounts at the end of its standard input.
pub(crate) fn serve(mountpoint: &Path) -> Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("kin-bench-floor".into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.n_threads = Some(2);
    let session = fuser::spawn_mount(Bare, mountpoint, &config)
        .map_err(|error| format!("mount the floor at {}: {error}", mountpoint.display()))?;
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("wait for the end: {error}"))?;
    session.umount_and_join().map_err(|error| format!("unmount the floor: {error}"))
}

struct Bare;

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

impl Filesystem for Bare {
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

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        const CONTENT: [u8; SIZE] = [b'x'; SIZE];
        let start = usize::try_from(offset).map_or(SIZE, |offset| offset.min(SIZE));
        let end = SIZE.min(start.saturating_add(size as usize));
        reply.data(&CONTENT[start..end]);
    }
}
