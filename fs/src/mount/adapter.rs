//! FUSE requests in, [`SecretFs`] calls, replies out. Every reply has a deadline.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use kin_broker::Plaintext;
use kin_broker::control::protocol::Owner;
use kin_broker::delivery::open::Caller;
use kin_policy::{GrantId, PageCache};

use crate::mount::deadlines::{Deadlines, Fail};
use crate::mount::filesystem::{Ask, Attributes, SecretFs, Surface};
use crate::mount::slow_path::{Content, Range, opened_with, patiently, start_writer};

/// How long the kernel may keep the name of a directory: it says nothing, every step after it is decided.
const DIRECTORY_TTL: Duration = Duration::from_secs(3600);
/// How long it may keep the name of a file. Who finds an inode by a name that is kept may ask for attributes as they
/// were last (AT_STATX_DONT_SYNC, statx(2); `fuse_update_get_attr`, fs/fuse/dir.c), or hold on to it (O_PATH), and no
/// question comes here. So a name is kept for who opens again and again, and not for who comes later: the kernel makes
/// one or two ticks of this (`time_to_jiffies`).
const FILE_TTL: Duration = Duration::from_millis(1);
/// How long it may keep attributes: never, because the next reader may be somebody else.
const ATTRIBUTE_TTL: Duration = Duration::ZERO;

/// Bytes of one WRITE, at most: so much of fuser's buffers ever holds any.
const MAX_WRITE: u32 = 128 << 10;

/// The file system as fuser wants it.
#[derive(Clone)]
pub struct Adapter {
    content: Arc<Content>,
    owner: Owner,
    mount: Option<GrantId>,
}

impl Adapter {
    /// An adapter of `fs`, whose files belong to this process's user.
    ///
    /// # Errors
    /// Where files can be written and the kernel has no room for one thread more.
    pub fn new(fs: SecretFs, deadlines: Arc<Deadlines>) -> std::io::Result<Self> {
        let later = (fs.surface() == Surface::Write).then(start_writer).transpose()?;
        let content = Arc::new(Content { fs, deadlines, later });
        let owner = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        Ok(Self { content, owner, mount: None })
    }

    /// An adapter for a mount that is the grant's own.
    pub fn of_grant(fs: SecretFs, deadlines: Arc<Deadlines>, owner: Owner, grant: GrantId) -> Self {
        Self { content: Arc::new(Content { fs, deadlines, later: None }), owner, mount: Some(grant) }
    }

    fn caller(&self, request: &Request) -> Caller {
        Caller { tid: request.pid(), uid: request.uid(), mount: self.mount }
    }

    fn store(&self, request: &Request, handle: FileHandle, ask: Ask, reply: ReplyEmpty) {
        match self.content.fs.delivery(handle.0) {
            Ok(delivery) => self.content.store(self.caller(request), delivery, ask, reply),
            Err(errno) => reply.error(Errno::from_i32(errno as i32)),
        }
    }

    /// Does the work and sends its outcome, unless the deadline has answered in the meantime.
    fn answer<R: Fail, A>(
        &self,
        reply: R,
        work: impl FnOnce(&SecretFs) -> Result<A, nix::errno::Errno>,
        send: impl FnOnce(R, A),
    ) {
        let pending = self.content.deadlines.guard(reply);
        let outcome = work(&self.content.fs);
        if let Some(reply) = pending.take() {
            match outcome {
                Ok(answer) => send(reply, answer),
                Err(errno) => reply.fail(Errno::from_i32(errno as i32)),
            }
        }
    }

    /// Where files take each other's names, none is remembered.
    fn name_ttl(&self, found: Attributes) -> Duration {
        match self.content.fs.surface() {
            Surface::Read if found.directory => DIRECTORY_TTL,
            Surface::Read => FILE_TTL,
            Surface::Write => Duration::ZERO,
        }
    }

    fn attr(&self, found: Attributes) -> FileAttr {
        let modified = found.modified;
        let writable = match self.content.fs.surface() {
            Surface::Read => 0,
            Surface::Write => 0o200,
        };
        let (kind, perm, nlink) = match found.directory {
            true => (FileType::Directory, 0o500 | writable, 2),
            false => (FileType::RegularFile, 0o400 | writable, 1),
        };
        FileAttr {
            ino: INodeNo(found.inode),
            size: found.size,
            blocks: found.size.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Adapter {
    /// Without FUSE_ASYNC_DIO an io_uring read that comes up short repeats what it has. A RELEASE is a background
    /// request, of which the kernel lets few wait beside the others (fuse_simple_background, fs/fuse/dev.c): among
    /// hundreds of readers it would come minutes late, and its value stay as long.
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(u16::MAX);
        if self.content.fs.surface() == Surface::Write {
            // An open that empties a file is one request: no version without content comes in between.
            let _ = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC);
            let _ = config.set_max_write(MAX_WRITE);
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer(
            reply,
            |fs| fs.lookup(self.caller(request), parent.0, name),
            |reply, found| {
                reply.entry_with_ttls(&ATTRIBUTE_TTL, &self.name_ttl(found), &self.attr(found), Generation(0))
            },
        );
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            reply,
            |fs| fs.getattr(self.caller(request), inode.0),
            |reply, found| reply.attr(&ATTRIBUTE_TTL, &self.attr(found)),
        );
    }

    fn access(&self, request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.answer(
            reply,
            |fs| fs.access(self.caller(request), inode.0, mask.bits()),
            |reply, ()| reply.ok(),
        );
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.content.open(self.caller(request), inode.0, flags.0, None, reply);
    }

    /// A read without a lock owner fills the page cache: fuse_readpages_end and its kin set none,
    /// fuse_direct_io always does (fs/fuse/file.c).
    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let page_cache = match (lock_owner, self.mount) {
            (Some(_), _) => PageCache::Unused,
            (None, Some(_)) => PageCache::Private,
            (None, None) => PageCache::Shared,
        };
        let range = Range { offset, size, page_cache };
        match self.content.fs.delivery(handle.0) {
            Ok(delivery) => self.content.read(self.caller(request), delivery, range, None, reply),
            Err(errno) => reply.error(Errno::from_i32(errno as i32)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.content.release(handle.0);
    }

    /// What is written stands in fuser's buffer, and nowhere else once this has begun. With O_APPEND the kernel says
    /// an offset of its own, which is that of what it knew last.
    fn write(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let at = (flags.0 & libc::O_APPEND == 0).then_some(offset);
        let taken = Plaintext::taken_from_request(data);
        match taken.and_then(|bytes| Ok((bytes, self.content.fs.delivery(handle.0)?))) {
            Ok((bytes, delivery)) => self.content.write(self.caller(request), delivery, at, bytes, reply),
            Err(errno) => reply.error(Errno::from_i32(errno as i32)),
        }
    }

    /// One close of a descriptor. Others of the same handle may be open, so there can be more.
    fn flush(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.store(request, handle, Ask::Close(inode.0), reply);
    }

    fn fsync(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.store(request, handle, Ask::Sync, reply);
    }

    /// Size alone is the file's to change. Mode, owner and times are what they are: to ask for the owner's own is no
    /// error, because programs do so out of habit.
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let foreign = |asked: Option<u32>, own: u32| asked.is_some_and(|asked| asked != own);
        if foreign(uid, self.owner.uid) || foreign(gid, self.owner.gid) {
            return reply.error(Errno::EPERM);
        }
        let (caller, own) = (self.caller(request), Arc::clone(&self.content));
        let Some(size) = size else {
            let found = |fs: &SecretFs| fs.getattr(caller, inode.0);
            return self.answer(reply, found, |reply, found| reply.attr(&ATTRIBUTE_TTL, &self.attr(found)));
        };
        let work = move || {
            let handle = handle.map(|handle| handle.0);
            patiently(&own.fs, |exe| own.fs.resize(caller, inode.0, (handle, size), exe))?;
            own.fs.getattr(caller, inode.0)
        };
        let seen = self.clone();
        self.content.wait(reply, work, move |reply, found| reply.attr(&ATTRIBUTE_TTL, &seen.attr(found)));
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _request: &Request, _inode: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(reply, |fs| fs.unlink(self.caller(request), parent.0, name), |reply, ()| reply.ok());
    }

    /// Two files cannot be exchanged; whether the new name is free, the kernel has asked before (RENAME_NOREPLACE,
    /// rename(2)), and holds the directory meanwhile.
    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (caller, own) = (self.caller(request), Arc::clone(&self.content));
        let (name, new) = (name.to_owned(), new.to_owned());
        let work =
            move || patiently(&own.fs, |exe| own.fs.rename(caller, (parent.0, &name), (to.0, &new), exe));
        self.content.wait(reply, work, |reply, ()| reply.ok());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, own, name) = (self.caller(request), Arc::clone(&self.content), name.to_owned());
        let work = move || patiently(&own.fs, |exe| own.fs.create(caller, parent.0, &name, exe));
        let seen = self.clone();
        self.content.wait(reply, work, move |reply, (found, delivery)| {
            let flags = opened_with(&delivery);
            let handle = FileHandle(seen.content.fs.keep(delivery));
            reply.created(&Duration::ZERO, &seen.attr(found), Generation(0), handle, flags);
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.content.fs.forget(inode.0);
    }

    /// The kernel asks again with every READDIR; the directory's handle holds nothing.
    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(
            reply,
            |fs| fs.list(self.caller(request), inode.0),
            |reply, _| reply.opened(FileHandle(0), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.answer(
            reply,
            |fs| fs.list(self.caller(request), inode.0),
            |mut reply, listing| {
                let skip = usize::try_from(offset).unwrap_or(usize::MAX);
                for (at, entry) in listing.iter().enumerate().skip(skip) {
                    let kind = if entry.directory { FileType::Directory } else { FileType::RegularFile };
                    if reply.add(INodeNo(entry.inode), at as u64 + 1, kind, &entry.name) {
                        break;
                    }
                }
                reply.ok();
            },
        );
    }

    /// Empty for whoever asks, so that df and its like stay quiet.
    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }
}
