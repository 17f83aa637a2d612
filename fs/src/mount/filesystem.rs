//! What do programs see? The file system as plain methods; the FUSE adapter only carries them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use kin_broker::audit::Op;
use kin_broker::delivery::open::{Caller, FileFacts, Halt, Refusal};
use kin_broker::delivery::siblings::By;
use kin_broker::delivery::write::Begin;
use kin_broker::grants::live::LiveGrant;
use kin_broker::{Broker, Delivery, Reading, Scratch, Unhashed};
use kin_policy::{Denial, DirectoryName, Exe, FileName, PageCache};
use nix::errno::Errno;
use parking_lot::RwLock;

use crate::mount::inodes::{Inodes, Node, ROOT};

mod beside;

/// What stat shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its inode.
    pub inode: u64,
    /// A directory, or else a regular file.
    pub directory: bool,
    /// The true size, in bytes.
    pub size: u64,
    /// When it was last another.
    pub modified: SystemTime,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its inode.
    pub inode: u64,
    /// A directory, or else a regular file.
    pub directory: bool,
    /// Its name.
    pub name: String,
}

/// Why a request for content has no answer.
pub enum Unanswered {
    /// It is refused.
    Errno(Errno),
    /// What the reader runs is not known yet.
    Unhashed(Unhashed),
}

impl From<Errno> for Unanswered {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Halt> for Unanswered {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Refused(refusal) => Self::Errno(errno(refusal)),
            Halt::Unhashed(unhashed) => Self::Unhashed(unhashed),
        }
    }
}

/// What a FLUSH or FSYNC asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A descriptor of this inode was closed.
    Close(u64),
    /// It is to be stored now.
    Sync,
}

/// The file system.
pub struct SecretFs {
    pub(crate) broker: Arc<Broker>,
    inodes: Arc<Inodes>,
    open: RwLock<HashMap<u64, Arc<Delivery>>>,
    next: AtomicU64,
    made: SystemTime,
    /// The one project that it shows, where it is a grant's own.
    only: Option<DirectoryName>,
    surface: Surface,
    /// The files beside those that can be written, by their inodes.
    scratches: RwLock<HashMap<u64, Arc<Scratch>>>,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Every file of a grant, to read.
    Read,
    /// Those that it may write.
    Write,
}

impl SecretFs {
    /// The view onto `broker`; directories bear the time `made`.
    pub fn new(broker: Arc<Broker>, made: SystemTime, surface: Surface) -> Self {
        let (inodes, open, next) = (Arc::default(), RwLock::default(), AtomicU64::new(1));
        let scratches = RwLock::default();
        Self { broker, inodes, open, next, made, only: None, surface, scratches }
    }

    /// What is shown.
    pub fn surface(&self) -> Surface {
        self.surface
    }

    /// A view for one grant and those made inside its tree.
    pub fn of_grant(broker: Arc<Broker>, made: SystemTime, live: &LiveGrant) -> Self {
        Self { only: Some(live.grant.project.clone()), ..Self::new(broker, made, Surface::Read) }
    }

    /// The inodes of the files of a grant that may be mapped.
    pub fn mappable(&self, live: &LiveGrant) -> Vec<u64> {
        let bindings = live.grant.bindings.iter().filter(|(_, binding)| binding.mmap);
        let node = |file: &FileName| Node::File(live.grant.project.clone(), file.clone());
        bindings.map(|(file, _)| self.inodes.number(&node(file))).collect()
    }

    /// What the kernel was told of, also while this is served.
    pub fn inodes(&self) -> Arc<Inodes> {
        self.inodes.clone()
    }

    fn shows(&self, project: &DirectoryName) -> bool {
        self.only.as_ref().map_or_else(|| self.broker.knows_project(project), |only| only == project)
    }

    /// LOOKUP. A project's directory is always found: a refusal there would drop it from the kernel's
    /// cache and break a member's getcwd. What it holds is decided at every later step.
    ///
    /// # Errors
    /// EACCES for whoever is no member; ENOENT for a member and a name that is not bound.
    pub fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<Attributes, Errno> {
        match &*self.node(parent)? {
            Node::Root => match parse_project(name).filter(|project| self.shows(project)) {
                Some(project) => Ok(self.directory(&Node::Project(project))),
                None => Err(errno(self.broker.refuse_project(caller, name, Op::Lookup))),
            },
            Node::Project(project) => match name.to_str().and_then(|name| FileName::new(name).ok()) {
                Some(file) => match self.beside(caller, project, &file, Op::Lookup)? {
                    Some(found) => Ok(found),
                    None => self.file(caller, project, &file, Op::Lookup),
                },
                None => self.directory_for(caller, project, Op::Lookup).and(Err(Errno::ENOENT)),
            },
            Node::File(..) | Node::Scratch(..) => Err(Errno::ENOTDIR),
        }
    }

    /// GETATTR.
    ///
    /// # Errors
    /// The refusal.
    pub fn getattr(&self, caller: Caller, inode: u64) -> Result<Attributes, Errno> {
        self.look(caller, inode, Op::Getattr)
    }

    /// ACCESS.
    ///
    /// # Errors
    /// The refusal; EROFS to write, EACCES to execute a file.
    pub fn access(&self, caller: Caller, inode: u64, mask: i32) -> Result<(), Errno> {
        let found = self.look(caller, inode, Op::Access)?;
        match () {
            () if mask & libc::W_OK != 0 && self.surface == Surface::Read => Err(Errno::EROFS),
            () if mask & libc::X_OK != 0 && !found.directory => Err(Errno::EACCES),
            () => Ok(()),
        }
    }

    /// OPENDIR and READDIR: the mount's root lists empty, whoever asks; a project lists the reader's own
    /// bindings.
    ///
    /// # Errors
    /// The refusal.
    pub fn list(&self, caller: Caller, inode: u64) -> Result<Vec<Listed>, Errno> {
        let directory = |inode, name: &str| Listed { inode, directory: true, name: name.to_owned() };
        let mut listing = vec![directory(inode, "."), directory(ROOT, "..")];
        match &*self.node(inode)? {
            Node::Root => {}
            Node::Project(project) => {
                let names = match self.surface {
                    Surface::Read => self.broker.names(caller, project),
                    Surface::Write => self.broker.writable_names(caller, project),
                }
                .map_err(errno)?;
                listing.extend(names.into_iter().map(|file| Listed {
                    name: file.as_str().to_owned(),
                    inode: self.inodes.number(&Node::File(project.clone(), file)),
                    directory: false,
                }));
                if self.surface == Surface::Write {
                    let names = self.broker.names_beside(caller, project).map_err(errno)?;
                    for name in names {
                        if let Some(found) = self.beside(caller, project, &name, Op::Opendir)? {
                            let (inode, name) = (found.inode, name.as_str().to_owned());
                            listing.push(Listed { inode, directory: false, name });
                        }
                    }
                }
            }
            Node::File(..) | Node::Scratch(..) => return Err(Errno::ENOTDIR),
        }
        Ok(listing)
    }

    /// OPEN: one version of the value, decided and recorded; [`Self::keep`] gives it a handle.
    ///
    /// # Errors
    /// The refusal; EROFS for any way but reading, where nothing can be written; `Unhashed`, and then it is asked
    /// again with what [`Self::hash`] finds.
    pub fn open(
        &self,
        caller: Caller,
        inode: u64,
        flags: i32,
        exe: Option<Exe>,
    ) -> Result<Arc<Delivery>, Unanswered> {
        let node = self.node(inode)?;
        let truncates = flags & libc::O_TRUNC != 0;
        let (project, file) = match &*node {
            Node::File(project, file) => (project, file),
            Node::Scratch(project, _) => {
                let by = match flags & libc::O_ACCMODE {
                    _ if truncates => By::Emptying,
                    libc::O_WRONLY => By::Writing,
                    _ => By::Reading,
                };
                return Ok(self.broker.open_beside(caller, project, &self.scratch(inode)?, by, exe)?);
            }
            _ => return Err(Errno::EISDIR.into()),
        };
        match flags & libc::O_ACCMODE != libc::O_RDONLY || truncates {
            false => Ok(self.broker.open(caller, project, file, exe)?),
            true if self.surface == Surface::Read => Err(Errno::EROFS.into()),
            true => {
                let begin = if truncates { Begin::Empty } else { Begin::Content };
                Ok(self.broker.open_to_write(caller, project, file, begin, exe)?)
            }
        }
    }

    /// Finds out what a reader runs, on another thread, and calls `then` there, once and in time.
    pub fn hash(&self, unhashed: Unhashed, then: impl FnOnce(Exe) + Send + 'static) {
        self.broker.hash(unhashed, then);
    }

    /// The handle of a delivery, until [`Self::release`].
    pub fn keep(&self, delivery: Arc<Delivery>) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(handle, delivery);
        handle
    }

    /// The delivery of a handle.
    ///
    /// # Errors
    /// EBADF.
    pub fn delivery(&self, handle: u64) -> Result<Arc<Delivery>, Errno> {
        self.open.read().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// READ: asked anew for every read, whoever holds the descriptor.
    ///
    /// # Errors
    /// The refusal; EINVAL for a read that would fill the page cache; `Unhashed`, as for [`Self::open`].
    pub fn read<'d>(
        &self,
        caller: Caller,
        delivery: &'d Delivery,
        page_cache: PageCache,
        exe: Option<Exe>,
    ) -> Result<Reading<'d>, Unanswered> {
        Ok(self.broker.read(caller, delivery, page_cache, exe)?)
    }

    /// WRITE, at an offset or at the end (`None`): the handle's own until it is closed.
    ///
    /// # Errors
    /// The refusal; EFBIG; `Unhashed`, as for [`Self::open`].
    pub fn write(
        &self,
        caller: Caller,
        delivery: &Delivery,
        at: Option<u64>,
        bytes: &[u8],
        exe: Option<Exe>,
    ) -> Result<(), Unanswered> {
        Ok(self.broker.write(caller, delivery, at, bytes, exe)?)
    }

    /// FLUSH and FSYNC: the next version of the secret, where there is one to store. Waits for the vault.
    ///
    /// # Errors
    /// The refusal; ENOSPC; EIO; `Unhashed`, as for [`Self::open`].
    pub fn store(
        &self,
        caller: Caller,
        delivery: &Delivery,
        ask: Ask,
        exe: Option<Exe>,
    ) -> Result<(), Unanswered> {
        let stored = match ask {
            Ask::Close(inode) => self.broker.store_at_close(caller, delivery, inode, exe),
            Ask::Sync => self.broker.store(caller, delivery, exe),
        };
        Ok(stored?)
    }

    /// SETATTR of a size: through a handle, or else as an open, a change and a close. Waits for the vault.
    ///
    /// # Errors
    /// As [`Self::write`] and [`Self::store`]; EROFS where nothing can be written.
    pub fn resize(
        &self,
        caller: Caller,
        inode: u64,
        (handle, size): (Option<u64>, u64),
        exe: Option<Exe>,
    ) -> Result<(), Unanswered> {
        if let Some(handle) = handle {
            let delivery = self.delivery(handle)?;
            return Ok(self.broker.resize(caller, &delivery, size, exe)?);
        }
        let node = self.node(inode)?;
        let (project, file) = match &*node {
            Node::File(project, file) => (project, file),
            Node::Scratch(project, _) => {
                let scratch = self.scratch(inode)?;
                let delivery = self.broker.open_beside(caller, project, &scratch, By::Writing, exe)?;
                return Ok(self.broker.resize(caller, &delivery, size, exe)?);
            }
            _ => return Err(Errno::EISDIR.into()),
        };
        if self.surface == Surface::Read {
            return Err(Errno::EROFS.into());
        }
        let begin = if size == 0 { Begin::Empty } else { Begin::Content };
        let delivery = self.broker.open_to_write(caller, project, file, begin, exe)?;
        self.broker.resize(caller, &delivery, size, exe)?;
        Ok(self.broker.store(caller, &delivery, exe)?)
    }

    /// RELEASE. Its header names nobody, so the handle alone counts.
    pub fn release(&self, handle: u64) -> Option<Arc<Delivery>> {
        self.open.write().remove(&handle)
    }

    /// After a RELEASE: what no close has stored. Waits for the vault.
    pub fn store_at_release(&self, delivery: &Delivery) {
        self.broker.store_at_release(delivery);
    }

    fn look(&self, caller: Caller, inode: u64, op: Op) -> Result<Attributes, Errno> {
        match &*self.node(inode)? {
            Node::Root => Ok(self.directory(&Node::Root)),
            Node::Project(project) => self.directory_for(caller, project, op),
            Node::File(project, file) => self.file(caller, project, file, op),
            Node::Scratch(project, _) => {
                let scratch = self.scratch(inode)?;
                self.beside_looks(caller, project, &scratch, op)
            }
        }
    }

    fn directory_for(&self, caller: Caller, project: &DirectoryName, op: Op) -> Result<Attributes, Errno> {
        self.broker.look_at_project(caller, project, op).map_err(errno)?;
        Ok(self.directory(&Node::Project(project.clone())))
    }

    fn directory(&self, node: &Node) -> Attributes {
        Attributes { inode: self.inodes.number(node), directory: true, size: 0, modified: self.made }
    }

    fn file(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
        op: Op,
    ) -> Result<Attributes, Errno> {
        let FileFacts { size, modified } = match self.surface {
            Surface::Read => self.broker.look_at_file(caller, project, file, op),
            Surface::Write => self.broker.look_at_writable(caller, project, file, op),
        }
        .map_err(errno)?;
        let inode = self.inodes.number(&Node::File(project.clone(), file.clone()));
        Ok(Attributes { inode, directory: false, size, modified })
    }

    pub(crate) fn node(&self, inode: u64) -> Result<Arc<Node>, Errno> {
        self.inodes.node(inode).ok_or(Errno::ESTALE)
    }
}

fn parse_project(name: &OsStr) -> Option<DirectoryName> {
    name.to_str().and_then(|name| DirectoryName::new(name).ok())
}

/// What a program sees of a refusal. EACCES is the same for what exists and what does not.
fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Denied(denial) => match denial {
            Denial::ReadOnly => Errno::EROFS,
            Denial::PageCacheFill => Errno::EINVAL,
            Denial::NoBinding => Errno::ENOENT,
            Denial::Suspended => Errno::ENOKEY,
            Denial::TooManyOpen => Errno::ENFILE,
            Denial::Unidentified(_)
            | Denial::OutsideTree
            | Denial::Orphan
            | Denial::Ended(_)
            | Denial::OtherProject
            | Denial::ForeignReader
            | Denial::NamespaceMismatch
            | Denial::ExeMismatch
            | Denial::ExeUnpinnable
            | Denial::ExeUnproven
            | Denial::TooFar
            | Denial::WindowClosed
            | Denial::MaxOpens => Errno::EACCES,
        },
        Refusal::Missing => Errno::ENOENT,
        Refusal::NotRecorded | Refusal::Broken => Errno::EIO,
        Refusal::TooLarge => Errno::EFBIG,
        Refusal::Full => Errno::ENOSPC,
    }
}
