//! What is going on? The vault, the mount, the record and the live grants, for people to look at.

use crate::admin::unlock::Custody;
use crate::broker::Broker;
use crate::control::protocol::{
    AuditStatus, BrokerStatus, GrantStatus, MountStatus, Status, TreeProcess, VaultStatus,
};
use crate::grants::live::LiveGrant;
use crate::process::{covered_in_proc, tree_of};
use crate::sys::{clock, memory, mounts};
use crate::{keys, vault};

impl Broker {
    /// All of it.
    pub(crate) fn status(&self) -> Status {
        let now = clock::now();
        let grants = self.grants.all();
        let (state, secrets) = match &*self.custody.read() {
            Custody::Open(opened) => {
                let infos = opened.vault.infos(None).filter(|secret| secret.due.is_some());
                ("unlocked", Some((opened.vault.count(), infos.collect::<Vec<_>>())))
            }
            Custody::Suspended => ("suspended", None),
            _ => ("locked", None),
        };
        let (secrets, with_a_date) = secrets.unzip();
        let due = vault::due(with_a_date.as_deref().unwrap_or_default(), clock::unix_seconds());
        let key = keys::method(&self.directories).ok().flatten();
        let state = if key.is_none() { "absent" } else { state };
        Status {
            broker: BrokerStatus {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: now.since(self.started).as_secs(),
                identity: self.identifier.table().to_owned(),
                memory_locked: memory::is_locked(),
                proc_covered: covered_in_proc(),
            },
            vault: VaultStatus {
                state: state.to_owned(),
                key,
                secrets,
                overdue: due.iter().filter(|secret| secret.overdue).count(),
                due,
                notices: self.settings.notices(),
            },
            mount: MountStatus {
                path: self.directories.mountpoint(),
                mounted: mounts::is_mounted(&self.directories.mountpoint()),
                writable_path: self.directories.writable_mountpoint(),
                writable: mounts::is_mounted(&self.directories.writable_mountpoint()),
            },
            audit: self.audit_status(),
            grants: grants.iter().filter(|live| live.is_live(now)).map(|live| self.show(live)).collect(),
        }
    }

    fn audit_status(&self) -> AuditStatus {
        let recording = self.audit.recording();
        let state = if recording.refused > 0 { "refusing" } else { "recording" };
        AuditStatus {
            state: state.to_owned(),
            refused: recording.refused,
            since: recording.since,
            reason: recording.error,
        }
    }

    fn show(&self, live: &LiveGrant) -> GrantStatus {
        let now = clock::now();
        let tree = tree_of(live.grant.root).into_iter().map(|branch| TreeProcess {
            pid: branch.pid.get(),
            depth: u32::try_from(branch.depth).unwrap_or(u32::MAX),
            comm: branch.comm.escape_ascii().to_string(),
        });
        let left = live.grant.expires.map(|expires| expires.since(now).as_millis());
        GrantStatus {
            id: live.grant.id,
            project: live.grant.project.clone(),
            command: live.command_line.clone(),
            bindings: live.grant.names().cloned().collect(),
            writable: live.grant.writable().cloned().collect(),
            opens: live.opens(),
            age_s: now.since(live.grant.created).as_secs(),
            ttl_left_ms: left.map(|left| u64::try_from(left).unwrap_or(u64::MAX)),
            left: live.left(now),
            edges: live.edges(now),
            tree: tree.collect(),
        }
    }
}
