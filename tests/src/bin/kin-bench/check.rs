//! What does the decision alone cost? The broker's own way to it at each OPEN and READ: no record, no value.

use kin_broker::grants::book::Grants;
use kin_broker::grants::live::LiveGrant;
use kin_broker::process::{Choice, Identifier};
use kin_broker::sys::clock;
use kin_policy::{
    Action, Binding, Decision, DirectoryName, FileName, Grant, GrantId, Limits, PageCache, Pid, Reader,
    Reference, Request, decide,
};

use crate::Result;
use crate::floor::{DIRECTORY, FILE};

/// Who may read the floor's file: the trees of the roots that were entered.
pub(crate) struct Check {
    identifier: Identifier,
    grants: Grants,
    project: DirectoryName,
    file: FileName,
}

impl Check {
    pub(crate) fn new() -> Result<Self> {
        let identifier = Identifier::new(Choice::Auto, Identifier::CAPACITY);
        Ok(Self {
            identifier: identifier.map_err(|error| format!("identify: {error}"))?,
            grants: Grants::default(),
            project: DirectoryName::new(DIRECTORY).map_err(|error| error.to_string())?,
            file: FileName::new(FILE).map_err(|error| error.to_string())?,
        })
    }

    /// Makes a grant rooted at this process, as the broker does for a keeper.
    pub(crate) fn enter(&self, root: u32) -> Result<()> {
        let hold = |pid: u32| {
            let held = Pid::new(pid).and_then(|pid| self.identifier.hold(pid, None).ok());
            held.ok_or_else(|| format!("process {pid} is gone"))
        };
        let keeper = hold(root)?;
        let process = keeper.process();
        let reference = Reference::new("bench/value").map_err(|error| error.to_string())?;
        let grant = Grant {
            id: id(root.into()),
            root: process,
            project: self.project.clone(),
            bindings: [(self.file.clone(), Binding::plain(reference))].into_iter().collect(),
            files: Default::default(),
            created: clock::now(),
            expires: None,
            limits: Limits::default(),
        };
        let namespaces = self.identifier.namespaces_of(&keeper);
        let live = LiveGrant::new(grant, None, "/".into(), Vec::new(), keeper, namespaces);
        self.grants.enter(live.into());
        self.identifier.forget_below(process);
        Ok(())
    }

    /// The handle for who may open: the number of the root of its grant.
    pub(crate) fn open(&self, tid: u32) -> Option<u64> {
        self.permits(tid, Action::Open)
    }

    /// Whether the thread may read a handle that [`Check::open`] gave.
    pub(crate) fn read(&self, tid: u32, handle: u64) -> bool {
        self.permits(tid, Action::Read { opened_under: id(handle), page_cache: PageCache::Unused }).is_some()
    }

    fn permits(&self, tid: u32, action: Action) -> Option<u64> {
        let known = self.identifier.identify(tid, &self.grants).ok()?;
        let live = self.grants.at(known.root()?)?;
        let request = Request {
            action,
            reader: Reader::Proven(known.lineage()),
            namespaces: known.namespaces(),
            exe: None,
            project: &self.project,
            file: Some(&self.file),
            through: None,
        };
        let around = live.around(request.file);
        let decision = decide(&request, &[live.standing(request.file, &around)], clock::now());
        matches!(decision, Decision::Permit(_)).then(|| live.grant.root.pid.get().into())
    }
}

/// The id of the grant that is rooted at the process of this number.
fn id(root: u64) -> GrantId {
    GrantId::from_bytes(u128::from(root).to_be_bytes())
}
