//! Every denial has a row; every permit too; and random forests agree with a reference model.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::grant::RenderedFile;
use crate::limits::{Descend, Limits, Uses};
use crate::process::{Pid, Process, Tid};
use crate::program::{ExeDigest, ExePin};

fn process(pid: u32) -> Process {
    Process { pid: Pid::new(pid).unwrap(), start: u64::from(pid) * 10 }
}

/// `reader = [leaf, parent, …]`.
fn lineage(pids: &[u32]) -> Lineage {
    Lineage {
        tid: Tid::new(pids[0]).unwrap(),
        process: process(pids[0]),
        ancestors: pids[1..].iter().map(|pid| process(*pid)).collect(),
    }
}

fn id(root: u32) -> GrantId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&root.to_be_bytes());
    GrantId::from_bytes(bytes)
}

fn file(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

fn directory(name: &str) -> DirectoryName {
    DirectoryName::new(name).unwrap()
}

fn grant(root: u32) -> Grant {
    grant_of(root, plain())
}

fn plain() -> Binding {
    Binding::plain(Reference::new("db/url").unwrap())
}

fn grant_of(root: u32, binding: Binding) -> Grant {
    Grant {
        id: id(root),
        root: process(root),
        project: directory("api"),
        bindings: BTreeMap::from([(file("DB"), binding)]),
        files: BTreeMap::new(),
        created: Timestamp::from_nanos(0),
        expires: None,
        limits: Limits::default(),
    }
}

fn standing(grant: &Grant) -> Standing<'_> {
    Standing {
        grant,
        ended: None,
        suspended: false,
        crowded: false,
        command: None,
        orphans: Orphans::Admitted,
        namespaces: Some(HOME),
        uses: Uses::default(),
        around: &[],
    }
}

/// A grant around the one that decides.
fn around(grant: &Grant) -> Around<'_> {
    Around { grant, ended: None, namespaces: Some(HOME), uses: Uses::default() }
}

/// A grant whose binding has these edges.
fn edged(root: u32, limits: Limits, descend: Descend) -> Grant {
    let mut grant = grant(root);
    let binding = grant.bindings.get_mut("DB").unwrap();
    (binding.limits, binding.descend) = (limits, descend);
    grant
}

fn levels(count: u32) -> Descend {
    Descend::Levels(NonZeroU32::new(count).unwrap())
}

fn at_most(opens: u64) -> Limits {
    Limits { max_opens: Some(opens), ..Limits::default() }
}

fn first(nanos: u64) -> Limits {
    Limits { for_first: Some(Duration::from_nanos(nanos)), ..Limits::default() }
}

/// So many opens, of them so many of the file; the command was started at 10.
fn used(opens: u64, of_file: u64) -> Uses {
    Uses { started: Some(Timestamp::from_nanos(10)), opens, of_file }
}

/// A standing whose command is process 3.
fn commanded(grant: &Grant) -> Standing<'_> {
    Standing { command: Some(process(3)), ..standing(grant) }
}

const HOME: Namespaces = Namespaces { user: 1, pid: 2 };

fn ask(action: Action, reader: Reader<'_>, name: &str, grants: &[Standing<'_>], now: u64) -> Decision {
    let (project, file) = (directory("api"), file(name));
    let request = Request {
        action,
        reader,
        namespaces: Some(HOME),
        exe: None,
        project: &project,
        file: Some(&file),
        through: None,
    };
    decide(&request, grants, Timestamp::from_nanos(now))
}

/// A member asks from these namespaces, running this.
fn ask_from(
    namespaces: Option<Namespaces>,
    exe: Option<Exe>,
    action: Action,
    name: Option<&str>,
    standing: &Standing<'_>,
) -> Decision {
    ask_as(&lineage(&[3, 100]), namespaces, exe, action, name, standing)
}

fn ask_as(
    member: &Lineage,
    namespaces: Option<Namespaces>,
    exe: Option<Exe>,
    action: Action,
    name: Option<&str>,
    standing: &Standing<'_>,
) -> Decision {
    let (project, file, reader) = (directory("api"), name.map(file), Reader::Proven(member));
    let file = file.as_ref();
    let request = Request { action, reader, namespaces, exe, project: &project, file, through: None };
    decide(&request, &[*standing], Timestamp::from_nanos(0))
}

macro_rules! deny {
    ($name:ident: $action:expr, $reader:expr, $file:literal, [$($grant:expr),*], $now:literal => $denial:expr) => {
        #[test]
        fn $name() {
            assert_eq!(ask($action, $reader, $file, &[$($grant),*], $now), Decision::Deny($denial));
        }
    };
}

fn read(root: u32) -> Action {
    Action::Read { opened_under: id(root), page_cache: PageCache::Unused }
}

fn fill(root: u32, page_cache: PageCache) -> Action {
    Action::Read { opened_under: id(root), page_cache }
}

/// A grant whose file may be mapped.
fn mapped(root: u32) -> Grant {
    let binding = Binding { mmap: true, ..plain() };
    Grant { bindings: [(file("DB"), binding)].into(), ..grant(root) }
}

deny!(writes_are_refused: Action::OpenToWrite, Reader::Proven(&lineage(&[3, 100])), "DB", [standing(&grant(100))], 0
    => Denial::ReadOnly);
deny!(pid_0_is_nobody: Action::Open, Reader::Unproven(Unidentified::Invisible), "DB", [standing(&grant(100))], 0
    => Denial::Unidentified(Unidentified::Invisible));
deny!(a_stranger_is_outside: Action::Open, Reader::Proven(&lineage(&[203, 200, 1])), "DB", [standing(&grant(100))], 0
    => Denial::OutsideTree);
deny!(the_root_itself_is_outside: Action::Open, Reader::Proven(&lineage(&[100, 1])), "DB", [standing(&grant(100))], 0
    => Denial::OutsideTree);
deny!(a_number_reused_is_outside: Action::Open,
    Reader::Proven(&Lineage { ancestors: vec![Process { pid: Pid::new(100).unwrap(), start: 1 }], ..lineage(&[3]) }),
    "DB", [standing(&grant(100))], 0 => Denial::OutsideTree);
deny!(a_revoked_grant_is_over: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { ended: Some(Ending::Revoked), ..standing(&grant(100)) }], 0 => Denial::Ended(Ending::Revoked));
deny!(a_revoked_inner_grant_does_not_fall_through: Action::Open, Reader::Proven(&lineage(&[5, 200, 3, 100])), "DB",
    [standing(&grant(100)), Standing { ended: Some(Ending::Revoked), ..standing(&grant(200)) }], 0
    => Denial::Ended(Ending::Revoked));
deny!(time_is_up_at_the_deadline: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&Grant { expires: Some(Timestamp::from_nanos(50)), ..grant(100) })], 50
    => Denial::Ended(Ending::TtlExpired));
deny!(another_project_is_refused: Action::Look, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&Grant { project: directory("web"), ..grant(100) })], 0 => Denial::OtherProject);
deny!(a_handle_of_another_grant_is_refused: read(200), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&grant(100))], 0 => Denial::ForeignReader);
deny!(b01_a_handle_that_was_passed_out_of_the_tree_is_refused: read(100),
    Reader::Proven(&lineage(&[203, 200, 1])), "DB", [standing(&grant(100))], 0 => Denial::ForeignReader);
deny!(a_page_cache_fill_is_refused: fill(100, PageCache::Shared), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&mapped(100))], 0 => Denial::PageCacheFill);
deny!(a_fill_of_a_private_mount_is_refused: fill(100, PageCache::Private), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&grant(100))], 0 => Denial::PageCacheFill);
deny!(a_fill_by_a_stranger_is_refused: fill(100, PageCache::Private), Reader::Proven(&lineage(&[203, 1])), "DB",
    [standing(&mapped(100))], 0 => Denial::ForeignReader);

#[test]
fn what_may_be_mapped_fills_the_page_cache_of_a_private_mount() {
    let decision = ask(
        fill(100, PageCache::Private),
        Reader::Proven(&lineage(&[3, 100])),
        "DB",
        &[standing(&mapped(100))],
        0,
    );
    assert!(matches!(decision, Decision::Permit(_)), "{decision:?}");
}

deny!(what_is_not_bound_is_not_there: Action::Open, Reader::Proven(&lineage(&[3, 100])), "OTHER",
    [standing(&grant(100))], 0 => Denial::NoBinding);
deny!(an_orphan_after_a_killed_inner_keeper: Action::Open, Reader::Proven(&lineage(&[9, 8, 100])), "DB",
    [Standing { orphans: Orphans::Refused, ..commanded(&grant(100)) }], 0
    => Denial::Orphan);
deny!(orphans_without_a_known_command: Action::Open, Reader::Proven(&lineage(&[9, 100])), "DB",
    [Standing { orphans: Orphans::Refused, ..standing(&grant(100)) }], 0 => Denial::Orphan);
deny!(the_grant_was_opened_as_often_as_it_may: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { uses: used(2, 0), ..standing(&Grant { limits: at_most(2), ..grant(100) }) }], 20 => Denial::MaxOpens);
deny!(the_file_was_opened_as_often_as_it_may: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { uses: used(9, 2), ..standing(&edged(100, at_most(2), Descend::All)) }], 20 => Denial::MaxOpens);
deny!(an_outer_grant_was_opened_as_often_as_it_may: Action::Open, Reader::Proven(&lineage(&[5, 200])), "DB",
    [Standing { around: &[Around { uses: used(2, 0), ..around(&Grant { limits: at_most(2), ..grant(100) }) }],
        ..standing(&grant(200)) }], 20 => Denial::MaxOpens);
deny!(the_outer_file_was_opened_as_often_as_it_may: Action::Open, Reader::Proven(&lineage(&[5, 200])), "DB",
    [Standing { around: &[around(&grant(150)), Around { uses: used(9, 2), ..around(&edged(100, at_most(2), Descend::All)) }],
        ..standing(&grant(200)) }], 20 => Denial::MaxOpens);
deny!(the_window_of_the_grant_is_over: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { uses: used(0, 0), ..standing(&Grant { limits: first(5), ..grant(100) }) }], 15 => Denial::WindowClosed);
deny!(the_window_of_the_file_is_over: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { uses: used(0, 0), ..standing(&edged(100, first(5), Descend::All)) }], 15 => Denial::WindowClosed);
deny!(a_window_runs_from_the_making_until_a_command_starts: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&edged(100, first(5), Descend::All))], 5 => Denial::WindowClosed);
deny!(a_window_is_not_begun_anew_inside: Action::Open, Reader::Proven(&lineage(&[5, 200])), "DB",
    [Standing { uses: Uses { started: Some(Timestamp::from_nanos(14)), ..Uses::default() },
        around: &[Around { uses: used(0, 0), ..around(&edged(100, first(5), Descend::All)) }],
        ..standing(&edged(200, first(5), Descend::All)) }], 15 => Denial::WindowClosed);
deny!(an_outer_grant_that_ended_ends_the_inner_one: Action::Look, Reader::Proven(&lineage(&[5, 200])), "DB",
    [Standing { around: &[Around { ended: Some(Ending::Revoked), ..around(&grant(100)) }], ..standing(&grant(200)) }],
    0 => Denial::Ended(Ending::Revoked));
deny!(a_child_of_the_command_is_too_far: Action::Look, Reader::Proven(&lineage(&[7, 3, 100])), "DB",
    [commanded(&edged(100, Limits::default(), Descend::CHILD))], 0 => Denial::TooFar);
deny!(a_read_below_the_last_level_is_too_far: read(100), Reader::Proven(&lineage(&[8, 7, 3, 100])), "DB",
    [commanded(&edged(100, Limits::default(), levels(2)))], 0 => Denial::TooFar);
deny!(an_orphan_on_the_root_is_on_no_level: Action::Open, Reader::Proven(&lineage(&[9, 100])), "DB",
    [commanded(&edged(100, Limits::default(), levels(9)))], 0 => Denial::TooFar);
deny!(below_an_orphan_there_is_no_level: Action::Open, Reader::Proven(&lineage(&[8, 9, 100])), "DB",
    [commanded(&edged(100, Limits::default(), levels(9)))], 0 => Denial::TooFar);
deny!(without_a_known_command_there_is_no_level: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&edged(100, Limits::default(), Descend::CHILD))], 0 => Denial::TooFar);

macro_rules! deny_from {
    ($name:ident: $binding:expr, $namespaces:expr, $exe:expr, [$($action:expr),*], $file:expr => $denial:expr) => {
        #[test]
        fn $name() {
            let grant = grant_of(100, $binding);
            for action in [$($action),*] {
                let answer = ask_from($namespaces, $exe, action, $file, &standing(&grant));
                assert_eq!(answer, Decision::Deny($denial), "{action:?}");
            }
        }
    };
}

const GIT: ExeDigest = ExeDigest::from_bytes([1; 32]);
const GIT_OF_TOMORROW: ExeDigest = ExeDigest::from_bytes([2; 32]);
const EVIL: ExeDigest = ExeDigest::from_bytes([3; 32]);

/// A grant whose binding may be written.
fn written(root: u32) -> Grant {
    let mut grant = grant(root);
    grant.bindings.get_mut("DB").unwrap().writable = true;
    grant
}

fn write(root: u32) -> Action {
    Action::Write { opened_under: id(root) }
}

#[test]
fn a_member_writes_what_is_writable_and_its_edges_hold() {
    let member = lineage(&[3, 100]);
    for action in [Action::OpenToWrite, write(100)] {
        let answer = ask(action, Reader::Proven(&member), "DB", &[standing(&written(100))], 0);
        let Decision::Permit(permit) = answer else { panic!("{action:?}: {answer:?}") };
        assert_eq!(
            (permit.grant(), permit.reference()),
            (Some(id(100)), Some(&Reference::new("db/url").unwrap()))
        );
    }
    let mut grant = written(100);
    grant.bindings.get_mut("DB").unwrap().limits = at_most(2);
    let used_up = Standing { uses: used(2, 2), ..standing(&grant) };
    assert_eq!(
        ask(Action::OpenToWrite, Reader::Proven(&member), "DB", &[used_up], 20),
        Decision::Deny(Denial::MaxOpens)
    );
    assert!(matches!(ask(write(100), Reader::Proven(&member), "DB", &[used_up], 20), Decision::Permit(_)));
    let pinned = grant_of(100, Binding { writable: true, ..pinned() });
    for action in [Action::OpenToWrite, write(100)] {
        let answer = ask_from(Some(HOME), Some(Exe::File(EVIL)), action, Some("DB"), &standing(&pinned));
        assert_eq!(answer, Decision::Deny(Denial::ExeMismatch));
    }
}

#[test]
fn a_directory_takes_new_files_where_something_in_it_is_writable() {
    for (grant, expected) in [(written(100), true), (grant(100), false)] {
        for action in [Action::OpenToWrite, write(100)] {
            let answer = ask_from(Some(HOME), None, action, None, &standing(&grant));
            assert_eq!(matches!(answer, Decision::Permit(_)), expected, "{action:?}");
            let suspended = Standing { suspended: true, ..standing(&grant) };
            let denied = if expected { Denial::Suspended } else { Denial::ReadOnly };
            assert_eq!(ask_from(Some(HOME), None, action, None, &suspended), Decision::Deny(denied));
        }
    }
}

deny!(a_write_to_what_is_not_is_refused: write(100), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&grant(100))], 0 => Denial::ReadOnly);
deny!(an_outsider_writes_nothing: Action::OpenToWrite, Reader::Proven(&lineage(&[3, 7])), "DB",
    [standing(&written(100))], 0 => Denial::OutsideTree);
deny!(a_handle_of_another_grant_writes_nothing: write(9),
    Reader::Proven(&lineage(&[3, 100])), "DB", [standing(&written(100))], 0 => Denial::ForeignReader);
deny!(an_ended_grant_writes_nothing: write(100), Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { ended: Some(Ending::Revoked), ..standing(&written(100)) }], 0 => Denial::Ended(Ending::Revoked));
deny!(a_vault_that_locked_itself_takes_no_writes: write(100), Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { suspended: true, ..standing(&written(100)) }], 0 => Denial::Suspended);

fn everywhere() -> Binding {
    Binding { namespaces: Reach::Any, ..plain() }
}

fn pinned() -> Binding {
    let pin = |sha256| ExePin { path: "/usr/bin/git".into(), sha256 };
    Binding { exe: vec![pin(GIT), pin(GIT_OF_TOMORROW)], ..plain() }
}

fn inside(user: u64, pid: u64) -> Option<Namespaces> {
    Some(Namespaces { user, pid })
}

deny_from!(c01_another_user_namespace_is_refused: plain(), inside(7, HOME.pid), None,
    [Action::Look, Action::Open, read(100)], Some("DB") => Denial::NamespaceMismatch);
deny_from!(c01_another_pid_namespace_is_refused: plain(), inside(HOME.user, 7), None,
    [Action::Look, Action::Open, read(100)], Some("DB") => Denial::NamespaceMismatch);
deny_from!(c01_a_directory_is_closed_from_elsewhere: plain(), inside(7, 7), None,
    [Action::Look], None => Denial::NamespaceMismatch);
deny_from!(c01_from_elsewhere_what_is_not_bound_looks_like_what_is: plain(), inside(7, 7), None,
    [Action::Look, Action::Open], Some("OTHER") => Denial::NamespaceMismatch);
deny_from!(namespaces_that_cannot_be_told_are_unverifiable: plain(), None, None,
    [Action::Look, Action::Open], Some("DB") => Denial::Unidentified(Unidentified::Unverifiable));
deny_from!(a_member_from_elsewhere_learns_what_an_open_binding_shows: everywhere(), None, None,
    [Action::Look, Action::Open], Some("OTHER") => Denial::NoBinding);
deny_from!(a11_another_program_is_refused: pinned(), Some(HOME), Some(Exe::File(EVIL)),
    [Action::Open, read(100)], Some("DB") => Denial::ExeMismatch);
deny_from!(a11_what_no_digest_holds_for_is_refused: pinned(), Some(HOME), Some(Exe::Unpinnable),
    [Action::Open, read(100)], Some("DB") => Denial::ExeUnpinnable);
deny_from!(a21_what_the_reader_may_have_said_itself_is_refused: pinned(), Some(HOME), Some(Exe::Unproven),
    [Action::Open, read(100)], Some("DB") => Denial::ExeUnproven);
deny_from!(a17_a_program_that_cannot_be_read_is_unverifiable: pinned(), Some(HOME), Some(Exe::Unreadable),
    [Action::Open, read(100)], Some("DB") => Denial::Unidentified(Unidentified::Unverifiable));
deny_from!(a_pinned_binding_without_evidence_is_unverifiable: pinned(), Some(HOME), None,
    [Action::Open, read(100)], Some("DB") => Denial::Unidentified(Unidentified::Unverifiable));
deny_from!(c04_a_pin_does_not_open_from_elsewhere: pinned(), inside(7, HOME.pid), Some(Exe::File(GIT)),
    [Action::Open, read(100)], Some("DB") => Denial::NamespaceMismatch);

#[test]
fn a23_what_an_inner_grant_has_keeps_the_place_of_every_grant_around_it() {
    let moved = inside(7, 7);
    let unknown = Denial::Unidentified(Unidentified::Unverifiable);
    // The places of the outermost, the middle and the inner command, and of the reader.
    for (places, from, denial) in [
        ([Some(HOME), Some(HOME), moved], moved, Denial::NamespaceMismatch),
        ([Some(HOME), moved, moved], moved, Denial::NamespaceMismatch),
        ([moved, Some(HOME), Some(HOME)], Some(HOME), Denial::NamespaceMismatch),
        ([Some(HOME), Some(HOME), moved], Some(HOME), Denial::NamespaceMismatch),
        ([None, Some(HOME), Some(HOME)], Some(HOME), unknown),
    ] {
        for (binding, refused) in [(plain(), true), (everywhere(), false)] {
            let grants = [100, 150, 200].map(|root| grant_of(root, binding.clone()));
            let around = [1, 0].map(|outer| Around { namespaces: places[outer], ..around(&grants[outer]) });
            let standing = Standing { namespaces: places[2], around: &around, ..standing(&grants[2]) };
            for (action, name) in [(Action::Look, None), (Action::Open, Some("DB")), (read(200), Some("DB"))]
            {
                let answer = ask_as(&lineage(&[3, 200, 150, 100]), from, None, action, name, &standing);
                match refused {
                    true => assert_eq!(answer, Decision::Deny(denial), "{places:?} {from:?} {action:?}"),
                    false => drop(permit(answer)),
                }
            }
        }
    }
}

#[test]
fn a_grant_whose_namespaces_are_not_known_admits_nobody() {
    let grant = grant(100);
    let standing = Standing { namespaces: None, ..standing(&grant) };
    let answer = ask_from(Some(HOME), None, Action::Open, Some("DB"), &standing);
    assert_eq!(answer, Decision::Deny(Denial::Unidentified(Unidentified::Unverifiable)));
}

#[test]
fn a_binding_for_any_namespace_opens_from_everywhere() {
    let grant = grant_of(100, everywhere());
    for namespaces in [Some(HOME), inside(7, 7), None] {
        for (action, name) in [(Action::Open, Some("DB")), (Action::Look, Some("DB")), (Action::Look, None)] {
            let _ = permit(ask_from(namespaces, None, action, name, &standing(&grant)));
        }
    }
}

#[test]
fn a_pinned_binding_is_for_its_programs_and_any_member_may_look() {
    let grant = grant_of(100, pinned());
    for digest in [GIT, GIT_OF_TOMORROW] {
        for action in [Action::Open, read(100)] {
            let _ =
                permit(ask_from(Some(HOME), Some(Exe::File(digest)), action, Some("DB"), &standing(&grant)));
        }
    }
    let _ = permit(ask_from(Some(HOME), None, Action::Look, Some("DB"), &standing(&grant)));
}
deny!(d07_an_open_waits_while_the_vault_has_locked_itself: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { suspended: true, ..standing(&grant(100)) }], 0 => Denial::Suspended);
deny!(d07_a_read_waits_while_the_vault_has_locked_itself: read(100), Reader::Proven(&lineage(&[3, 100])),
    "DB", [Standing { suspended: true, ..standing(&grant(100)) }], 0 => Denial::Suspended);
deny!(d07_a_grant_that_ended_meanwhile_is_over: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { suspended: true, ended: Some(Ending::Revoked), ..standing(&grant(100)) }], 0
    => Denial::Ended(Ending::Revoked));
deny!(d07_a_stranger_learns_nothing_of_a_lock: Action::Open, Reader::Proven(&lineage(&[203, 200, 1])), "DB",
    [Standing { suspended: true, ..standing(&grant(100)) }], 0 => Denial::OutsideTree);
deny!(d07_what_is_not_bound_is_not_there_either_way: Action::Open, Reader::Proven(&lineage(&[3, 100])), "OTHER",
    [Standing { suspended: true, ..standing(&grant(100)) }], 0 => Denial::NoBinding);
deny!(an_open_too_many_is_refused: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { crowded: true, ..standing(&grant(100)) }], 0 => Denial::TooManyOpen);

#[test]
fn in_a_crowded_grant_what_is_open_is_read_and_all_is_looked_at() {
    let grant = grant(100);
    let standing = Standing { crowded: true, ..standing(&grant) };
    for action in [Action::Look, read(100)] {
        let _ = permit(ask_from(Some(HOME), None, action, Some("DB"), &standing));
    }
}

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Permit(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

#[test]
fn an_open_permit_names_the_secret_and_a_look_does_not() {
    let grant = grant(100);
    let reader = lineage(&[7, 3, 100]);
    let open = permit(ask(Action::Open, Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!((open.grant(), open.reference().map(Reference::as_str)), (Some(id(100)), Some("db/url")));
    let look = permit(ask(Action::Look, Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!(look.reference(), None);
    let read = permit(ask(read(100), Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!(read.reference(), None);
}

/// A grant whose file `.env` is made of `DB` and `KEY`, with these edges of `KEY`.
fn rendered(key: Binding) -> Grant {
    let db = Binding { reference: Reference::new("db/url").unwrap(), ..plain() };
    let bindings = BTreeMap::from([(file("DB"), db), (file("KEY"), key)]);
    let rendered = RenderedFile { bindings, env_path: None, path: None };
    Grant { files: BTreeMap::from([(file(".env"), rendered)]), ..grant(100) }
}

fn key() -> Binding {
    Binding::plain(Reference::new("api/key").unwrap())
}

/// A member asks for `.env`; each binding has been opened as often as `uses` says.
fn ask_together(grant: &Grant, action: Action, exe: Option<Exe>, uses: [u64; 2], now: u64) -> Decision {
    let (project, through, member) = (directory("api"), file(".env"), lineage(&[7, 3, 100]));
    let names = [file("DB"), file("KEY")];
    let parts: Vec<_> = names
        .iter()
        .zip(uses)
        .map(|(name, of_file)| {
            let request = Request {
                action,
                reader: Reader::Proven(&member),
                namespaces: Some(HOME),
                exe,
                project: &project,
                file: Some(name),
                through: Some(&through),
            };
            (request, Standing { uses: used(0, of_file), ..commanded(grant) })
        })
        .collect();
    decide_together(&parts, Timestamp::from_nanos(now))
}

macro_rules! deny_together {
    ($name:ident: $key:expr, [$($action:expr),*], $exe:expr, $uses:expr, $now:literal => $denial:expr) => {
        #[test]
        fn $name() {
            for action in [$($action),*] {
                let answer = ask_together(&rendered($key), action, $exe, $uses, $now);
                assert_eq!(answer, Decision::Deny($denial), "{action:?}");
            }
        }
    };
}

deny_together!(one_binding_that_was_opened_often_enough_closes_the_file: Binding { limits: at_most(2), ..key() },
    [Action::Open], None, [0, 2], 20 => Denial::MaxOpens);
deny_together!(one_window_that_is_over_closes_the_file: Binding { limits: first(5), ..key() },
    [Action::Open], None, [0, 0], 15 => Denial::WindowClosed);
deny_together!(one_binding_that_is_too_far_closes_the_file: Binding { descend: Descend::CHILD, ..key() },
    [Action::Look, Action::Open, read(100)], None, [0, 0], 20 => Denial::TooFar);
deny_together!(one_pin_is_a_pin_of_the_whole_file: Binding { exe: pinned().exe, ..key() },
    [Action::Open, read(100)], Some(Exe::File(EVIL)), [0, 0], 20 => Denial::ExeMismatch);

#[test]
fn one_binding_for_its_own_namespaces_keeps_the_file_there() {
    let grant = rendered(everywhere());
    let (project, through, member) = (directory("api"), file(".env"), lineage(&[3, 100]));
    let ask = |name: &FileName| {
        let (reader, file, through) = (Reader::Proven(&member), Some(name), Some(&through));
        let request = Request {
            action: Action::Open,
            reader,
            namespaces: inside(7, 7),
            exe: None,
            project: &project,
            file,
            through,
        };
        decide_together(&[(request, standing(&grant))], Timestamp::from_nanos(0))
    };
    assert_eq!(ask(&file("DB")), Decision::Deny(Denial::NamespaceMismatch));
    let _ = permit(ask(&file("KEY")));
}

#[test]
fn a_permit_for_several_names_each_and_no_single_one() {
    let grant = rendered(key());
    let open = permit(ask_together(&grant, Action::Open, None, [0, 0], 20));
    let names: Vec<_> = open.references().iter().map(Reference::as_str).collect();
    assert_eq!(
        (open.grant(), open.reference(), &names[..]),
        (Some(id(100)), None, &["api/key", "db/url"][..])
    );
    let look = permit(ask_together(&grant, Action::Look, None, [0, 0], 20));
    assert!(look.references().is_empty());
    let sizing = decide_sizing(&grant, &file(".env")).unwrap();
    assert_eq!(sizing.references(), open.references());
    assert!(decide_sizing(&grant, &file("DB")).is_none());
    assert_eq!(decide_together(&[], Timestamp::from_nanos(0)), Decision::Deny(Denial::NoBinding));
}

#[test]
fn a_part_of_a_file_is_no_file_of_its_own() {
    let grant = rendered(key());
    let answer = ask(Action::Open, Reader::Proven(&lineage(&[3, 100])), "KEY", &[standing(&grant)], 0);
    assert_eq!(answer, Decision::Deny(Denial::NoBinding));
    assert_eq!(grant.names().map(FileName::as_str).collect::<Vec<_>>(), [".env", "DB"]);
}

#[test]
fn descendants_of_the_command_stay_members_after_an_inner_keeper_was_killed() {
    let grant = grant(100);
    let standing = Standing { orphans: Orphans::Refused, ..commanded(&grant) };
    for reader in [lineage(&[3, 100]), lineage(&[7, 3, 100])] {
        let _ = permit(ask(Action::Open, Reader::Proven(&reader), "DB", &[standing], 0));
    }
}

#[test]
fn an_open_within_every_edge_is_permitted() {
    let limits = Limits { max_opens: Some(2), for_first: Some(Duration::from_nanos(5)) };
    let (outer, inner) = (
        Grant { limits, ..edged(100, limits, Descend::All) },
        Grant { limits, ..edged(200, limits, levels(2)) },
    );
    let around = [Around { uses: used(1, 1), ..around(&outer) }];
    let standing = Standing { uses: used(1, 1), around: &around, ..commanded(&inner) };
    for reader in [lineage(&[3, 200]), lineage(&[7, 3, 200])] {
        let _ = permit(ask(Action::Open, Reader::Proven(&reader), "DB", &[standing], 14));
    }
}

#[test]
fn limits_bound_opens_and_nothing_else() {
    let grant = Grant { limits: at_most(1), ..edged(100, first(5), Descend::All) };
    let standing = Standing { uses: used(1, 1), ..standing(&grant) };
    for action in [Action::Look, read(100)] {
        let _ = permit(ask(action, Reader::Proven(&lineage(&[3, 100])), "DB", &[standing], 99));
    }
}

#[test]
fn the_narrower_of_two_limits_holds() {
    let both = Limits { max_opens: Some(3), for_first: None }.and(Limits { max_opens: Some(2), ..first(7) });
    assert_eq!(both, Limits { max_opens: Some(2), ..first(7) });
    assert_eq!(first(7).and(first(9)), first(7));
}

#[test]
fn d07_a_directory_is_still_there_while_the_vault_has_locked_itself() {
    let (grant, project, reader) = (grant(100), directory("api"), lineage(&[3, 100]));
    let standing = Standing { suspended: true, ..standing(&grant) };
    let reader = Reader::Proven(&reader);
    let request = Request {
        action: Action::Look,
        reader,
        namespaces: Some(HOME),
        exe: None,
        project: &project,
        file: None,
        through: None,
    };
    let _ = permit(decide(&request, &[standing], Timestamp::from_nanos(0)));
}

#[test]
fn a_reveal_needs_a_person_outside_every_tree() {
    let reference = Reference::new("db/url").unwrap();
    assert!(decide_reveal(&reference, false, true).is_some());
    for (inside, confirmed) in [(true, true), (false, false), (true, false)] {
        assert!(decide_reveal(&reference, inside, confirmed).is_none());
    }
}

#[test]
fn a_redactor_is_handed_what_a_live_grant_binds_and_nothing_else() {
    let edged = Binding {
        limits: Limits { max_opens: Some(0), for_first: Some(Duration::ZERO) },
        exe: vec![ExePin { path: "/usr/bin/git".into(), sha256: ExeDigest::from_bytes([1; 32]) }],
        ..plain()
    };
    let grant = Grant { expires: Some(Timestamp::from_nanos(100)), ..grant_of(100, edged) };
    let outer = grant_of(90, plain());
    let around = |ended| [Around { ended, ..self::around(&outer) }];
    let standing = |ended, suspended, around| Standing {
        grant: &grant,
        ended,
        suspended,
        crowded: true,
        command: None,
        orphans: Orphans::Refused,
        namespaces: None,
        uses: Uses { opens: 9, of_file: 9, started: None },
        around,
    };
    let decided = |standing: Standing<'_>, name, at| match decide_redaction(
        &standing,
        &file(name),
        Timestamp::from_nanos(at),
    ) {
        Decision::Permit(permit) => Ok((permit.grant(), permit.reference().unwrap().to_string())),
        Decision::Deny(denial) => Err(denial),
    };
    assert_eq!(decided(standing(None, false, &[]), "DB", 99), Ok((Some(id(100)), "db/url".into())));
    assert_eq!(decided(standing(None, false, &[]), "DB", 100), Err(Denial::Ended(Ending::TtlExpired)));
    assert_eq!(decided(standing(None, false, &[]), "OTHER", 0), Err(Denial::NoBinding));
    assert_eq!(decided(standing(None, true, &[]), "DB", 0), Err(Denial::Suspended));
    let ended = standing(Some(Ending::Revoked), false, &[]);
    assert_eq!(decided(ended, "DB", 0), Err(Denial::Ended(Ending::Revoked)));
    let inside = around(Some(Ending::Locked));
    assert_eq!(decided(standing(None, false, &inside), "DB", 0), Err(Denial::Ended(Ending::Locked)));
}

/// A random forest: process n+2 is a child of a random earlier one (1 is init).
fn forest() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..40)
        .prop_map(|parents| parents.iter().enumerate().map(|(n, index)| index.index(n + 1)).collect())
}

fn chain(parents: &[usize], leaf: usize) -> Vec<u32> {
    let mut chain = vec![leaf as u32 + 1];
    let mut at = leaf;
    while at > 0 {
        at = parents[at - 1];
        chain.push(at as u32 + 1);
    }
    chain
}

proptest! {
    /// The model: walk up by hand; the first process that roots a grant decides, alone.
    #[test]
    fn the_innermost_grant_decides_and_nobody_else(
        parents in forest(),
        leaf in any::<prop::sample::Index>(),
        rooted in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), prop::option::of(0u64..100)), 0..8),
        edges in (prop::option::of(0u64..4), prop::option::of(0u64..100), prop::option::of(1u32..4)),
        (opens, of_file) in (0u64..4, 0u64..4),
        now in 0u64..100,
    ) {
        let (most, window, reach) = edges;
        let limits = Limits { max_opens: most, for_first: window.map(Duration::from_nanos) };
        let descend = reach.map_or(Descend::All, levels);
        let leaf = leaf.index(parents.len()) + 1;
        let mut made: BTreeMap<u32, (Grant, bool)> = BTreeMap::new();
        for (at, revoked, expires) in rooted {
            let root = at.index(parents.len()) as u32 + 2;
            let grant = edged(root, limits, descend);
            made.insert(root, (Grant { expires: expires.map(Timestamp::from_nanos), ..grant }, revoked));
        }
        let standings: Vec<_> = made
            .values()
            .map(|(grant, revoked)| Standing {
                ended: revoked.then_some(Ending::Revoked),
                uses: used(opens, of_file),
                ..commanded(grant)
            })
            .collect();
        let pids = chain(&parents, leaf);
        let reader = lineage(&pids);
        let expected = pids[1..].iter().find_map(|pid| made.get(pid));
        let depth = pids[1..].iter().position(|pid| made.contains_key(pid)).map_or(0, |at| at + 1);
        let from_command = depth > 0 && pids[depth - 1] == 3;
        let near = reach.is_none_or(|reach| from_command && depth <= reach as usize);
        let open_still = window.is_none_or(|window| now < 10 + window);
        let uses_left = most.is_none_or(|most| of_file < most);
        match ask(Action::Open, Reader::Proven(&reader), "DB", &standings, now) {
            Decision::Permit(permit) => {
                let (grant, revoked) = expected.expect("permitted outside every tree");
                prop_assert_eq!(permit.grant(), Some(grant.id));
                prop_assert!(!revoked);
                prop_assert!(grant.expires.is_none_or(|at| Timestamp::from_nanos(now) < at));
                prop_assert!(near && open_still && uses_left);
            }
            Decision::Deny(Denial::TooFar) => prop_assert!(!near),
            Decision::Deny(Denial::WindowClosed) => prop_assert!(near && !open_still),
            Decision::Deny(Denial::MaxOpens) => prop_assert!(near && open_still && !uses_left),
            Decision::Deny(Denial::OutsideTree) => prop_assert!(expected.is_none()),
            Decision::Deny(Denial::Ended(Ending::Revoked)) => prop_assert!(expected.unwrap().1),
            Decision::Deny(Denial::Ended(Ending::TtlExpired)) => {
                prop_assert!(expected.unwrap().0.expires.unwrap() <= Timestamp::from_nanos(now));
            }
            Decision::Deny(other) => prop_assert!(false, "{:?}", other),
        }
    }
}
