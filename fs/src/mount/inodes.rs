//! Which name is which inode? One name is one inode, the same in every broker's life.

use std::collections::HashMap;
use std::sync::Arc;

use kin_policy::{DirectoryName, FileName};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

/// The mount's root: FUSE_ROOT_ID of linux/fuse.h.
pub const ROOT: u64 = 1;

/// What an inode stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The mount's root.
    Root,
    /// A project's directory.
    Project(DirectoryName),
    /// A file in it.
    File(DirectoryName, FileName),
    /// A file beside those, by its number: its name changes.
    Scratch(DirectoryName, u64),
}

/// The inodes that the kernel has been told of.
#[derive(Debug)]
pub struct Inodes {
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
}

impl Default for Inodes {
    fn default() -> Self {
        Self { nodes: RwLock::new(HashMap::from([(ROOT, Arc::new(Node::Root))])) }
    }
}

impl Inodes {
    /// What the inode stands for, where the kernel was told of it.
    pub fn node(&self, inode: u64) -> Option<Arc<Node>> {
        self.nodes.read().get(&inode).cloned()
    }

    /// The inode of a node, where the kernel was told of it.
    pub fn known(&self, node: &Node) -> Option<u64> {
        let nodes = self.nodes.read();
        let mut inode = preferred(node);
        loop {
            if **nodes.get(&inode)? == *node {
                return Some(inode);
            }
            inode = next(inode);
        }
    }

    /// Forgets an inode that no name leads to any more.
    pub fn forget(&self, inode: u64) {
        self.nodes.write().remove(&inode);
    }

    /// The inode of a node, from now on known.
    pub fn number(&self, node: &Node) -> u64 {
        let mut inode = preferred(node);
        loop {
            match self.nodes.read().get(&inode) {
                Some(there) if **there == *node => return inode,
                Some(_) => inode = next(inode),
                None => break,
            }
        }
        // Between the two locks another thread can only have entered the same node at the same number,
        // or another at it, and then the next turn finds out.
        let mut nodes = self.nodes.write();
        match nodes.get(&inode) {
            Some(there) if **there != *node => {
                drop(nodes);
                self.number(node)
            }
            _ => {
                nodes.insert(inode, Arc::new(node.clone()));
                inode
            }
        }
    }
}

/// Where a node goes whose inode is another's.
fn next(inode: u64) -> u64 {
    inode.wrapping_add(1).max(ROOT + 1)
}

/// The first eight bytes of a digest of the name, so that an inode outlives the broker.
fn preferred(node: &Node) -> u64 {
    let digest = match node {
        Node::Root => return ROOT,
        Node::Project(project) => Sha256::new().chain_update(project.as_str()),
        Node::File(project, file) => {
            Sha256::new().chain_update(project.as_str()).chain_update("/").chain_update(file.as_str())
        }
        Node::Scratch(project, number) => {
            Sha256::new().chain_update(project.as_str()).chain_update("//").chain_update(number.to_le_bytes())
        }
    }
    .finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes).max(ROOT + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_inode_in_every_life() {
        let project = DirectoryName::new("api").unwrap();
        let file = Node::File(project.clone(), FileName::new(".env").unwrap());
        let (first, second) = (Inodes::default(), Inodes::default());
        let inode = first.number(&file);
        assert_eq!(first.number(&file), inode);
        assert_eq!(second.number(&file), inode);
        assert_ne!(first.number(&Node::Project(project)), inode);
        assert_eq!(first.node(inode).as_deref(), Some(&file));
        assert_eq!(first.node(ROOT).as_deref(), Some(&Node::Root));
        assert_eq!(first.node(12345), None);
        assert_eq!(
            (first.known(&file), second.known(&Node::Project(DirectoryName::new("api").unwrap()))),
            (Some(inode), None)
        );
    }
}
