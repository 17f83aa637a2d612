//! What do programs see of the files that they make beside one that they may write?

use std::ffi::OsStr;
use std::sync::Arc;

use kin_broker::audit::Op;
use kin_broker::delivery::open::{Caller, FileFacts};
use kin_broker::delivery::write::Begin;
use kin_broker::{Delivery, Scratch};
use kin_policy::{DirectoryName, Exe, FileName};
use nix::errno::Errno;

use super::{Attributes, SecretFs, Surface, Unanswered, errno};
use crate::mount::inodes::Node;

impl SecretFs {
    /// What bears a name beside the files that can be written.
    pub(super) fn beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        name: &FileName,
        op: Op,
    ) -> Result<Option<Attributes>, Errno> {
        if self.surface == Surface::Read {
            return Ok(None);
        }
        match self.broker.beside(caller, project, name, op).map_err(errno)? {
            Some(scratch) => self.beside_looks(caller, project, &scratch, op).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn beside_looks(
        &self,
        caller: Caller,
        project: &DirectoryName,
        scratch: &Arc<Scratch>,
        op: Op,
    ) -> Result<Attributes, Errno> {
        let FileFacts { size, modified } =
            self.broker.look_beside(caller, project, scratch, op).map_err(errno)?;
        let inode = self.inodes.number(&Node::Scratch(project.clone(), scratch.number));
        self.scratches.write().entry(inode).or_insert_with(|| scratch.clone());
        Ok(Attributes { inode, directory: false, size, modified })
    }

    pub(super) fn scratch(&self, inode: u64) -> Result<Arc<Scratch>, Errno> {
        self.scratches.read().get(&inode).cloned().ok_or(Errno::ESTALE)
    }

    /// The project and the name that a request in its directory is about.
    fn place(&self, parent: u64, name: &OsStr) -> Result<(DirectoryName, FileName), Errno> {
        match &*self.node(parent)? {
            _ if self.surface == Surface::Read => Err(Errno::EROFS),
            Node::Root => Err(Errno::EROFS),
            Node::Project(project) => match name.to_str().and_then(|name| FileName::new(name).ok()) {
                Some(file) => Ok((project.clone(), file)),
                None => Err(Errno::EINVAL),
            },
            Node::File(..) | Node::Scratch(..) => Err(Errno::ENOTDIR),
        }
    }

    /// CREATE: a file beside those that can be written, or one of those once more, after it was renamed away.
    ///
    /// # Errors
    /// The refusal; EROFS for the name of a file of the grant; ENOSPC where there are too many; EINVAL for a name
    /// that no file may have; `Unhashed`, as for [`SecretFs::open`].
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        exe: Option<Exe>,
    ) -> Result<(Attributes, Arc<Delivery>), Unanswered> {
        let (project, name) = self.place(parent, name)?;
        if self.broker.is_vacated(caller, &name) {
            let delivery = self.broker.open_to_write(caller, &project, &name, Begin::Empty, exe)?;
            self.broker.is_taken(&delivery);
            return Ok((self.file(caller, &project, &name, Op::Create)?, delivery));
        }
        let (scratch, delivery) = self.broker.create_beside(caller, &project, &name).map_err(errno)?;
        let found = self.beside_looks(caller, &project, &scratch, Op::Create)?;
        Ok((found, delivery))
    }

    /// UNLINK of such a file.
    ///
    /// # Errors
    /// As [`Self::create`]; ENOENT.
    pub fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let (project, name) = self.place(parent, name)?;
        self.broker.remove_beside(caller, &project, &name).map_err(errno)
    }

    /// RENAME of such a file, to another name or over a file that can be written. Waits for the vault.
    ///
    /// # Errors
    /// As [`Self::create`] and [`Self::store`]; EXDEV between two directories.
    pub fn rename(
        &self,
        caller: Caller,
        (parent, old): (u64, &OsStr),
        (to, new): (u64, &OsStr),
        exe: Option<Exe>,
    ) -> Result<(), Unanswered> {
        let ((project, old), (other, new)) = (self.place(parent, old)?, self.place(to, new)?);
        if project != other {
            return Err(Errno::EXDEV.into());
        }
        Ok(self.broker.rename_beside(caller, &project, (&old, &new), exe)?)
    }

    /// FORGET: the kernel has no use for the inode.
    pub fn forget(&self, inode: u64) {
        let mut scratches = self.scratches.write();
        if scratches.get(&inode).is_some_and(|scratch| !scratch.is_named()) {
            scratches.remove(&inode);
            self.inodes.forget(inode);
        }
    }
}
