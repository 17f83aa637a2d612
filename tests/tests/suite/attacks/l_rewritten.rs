//! Does an older copy of the record show, also where it was forged on with the keys that are in it?

use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_tests::{Actor, World, record, soak};

use crate::{DATABASE, database};

/// Appends records to the log in a directory as who has its key can.
const FORGE: &str = "
import hashlib, hmac, json, sys, time
state, count = sys.argv[1], int(sys.argv[2])
key = open(state + '/audit.key', 'rb').read()
lines = open(state + '/audit.jsonl', 'rb').read().splitlines()
last = json.loads(lines[-1])
tag, number = bytes.fromhex(last['mac']), last['seq']
model = json.loads([line for line in lines if b'\"open.allow\"' in line][-1])
with open(state + '/audit.jsonl', 'ab') as log:
    for _ in range(count):
        number += 1
        model.update(seq=number, comm='innocent', time=time.strftime('%Y-%m-%dT%H:%M:%S.000000Z', time.gmtime()))
        fields = {name: value for name, value in model.items() if name not in ('prev', 'mac')}
        text = json.dumps(fields, separators=(',', ':'))[:-1] + ',\"prev\":\"' + tag.hex()[:16] + '\"'
        tag = hmac.new(key, tag + text.encode(), hashlib.sha256).digest()
        log.write((text + ',\"mac\":\"' + tag.hex() + '\"}\\n').encode())
";

/// The files of the record.
fn record_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("audit.")))
        .collect()
}

fn copy_record(from: &Path, to: &Path) {
    record_files(to).iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
    for path in record_files(from) {
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// A world whose record was put back to what it was some time before, and forged on from there.
fn rewritten(forged: usize) -> World {
    // scripts/soak audit asks for more.
    let after = soak::amount("KIN_SOAK_AFTER", 10);
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    std::thread::sleep(Duration::from_millis(1500));
    let (state, saved) = (world.path("kin/state"), world.path("saved"));
    std::fs::create_dir(&saved).expect("a directory");
    copy_record(&state, &saved);
    for _ in 0..after {
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        std::thread::sleep(Duration::from_secs(1));
    }
    world.kin(["reveal", "api/key", "--yes"]).run().exits(0);
    world.kin(["audit", "verify"]).run().exits(0);
    drop(member);
    world.kin(["stop"]).run().exits(0);
    copy_record(&saved, &state);
    let forge = world.other("/usr/bin/python3", ["-IS", "-c", FORGE]).args([state.as_os_str()]);
    forge.args([forged.to_string()]).run().exits(0);
    world.record_was_damaged();
    world
}

#[test]
fn l20_an_older_copy_that_was_forged_on_is_convicted() {
    let world = rewritten(3);
    // With a key file the vault opens by itself.
    world.kin(["list"]).run().exits(0);
    world.kin(["run", "--", "true"]).run().exits(0);
    for _ in 0..2 {
        let output = world.kin(["audit", "verify", "--json"]).run().exits(7);
        let code = output.json_error()["code"].clone();
        assert!(code == "audit_broken" || code == "audit_truncated", "{output}");
        world.kin(["stop"]).run().exits(0);
        world.kin(["list"]).run().exits(0);
    }
    let rejected = world.audit();
    let rejected = record::of(&rejected, "audit.reject");
    assert!(rejected.len() >= 2 && rejected.iter().all(|line| record::reason(line) == "another_record"));
}

#[test]
fn l20_also_where_it_has_grown_beyond_what_it_replaced_and_a_person_has_the_last_word() {
    let world = rewritten(100);
    world.kin(["list"]).run().exits(0);
    let said = world.kin(["audit", "verify"]).run().exits(7).stderr;
    assert!(said.contains("was rewritten"), "{said}");
    world.kin(["unlock", "--accept-rollback"]).run().exits(0);
    world.kin(["audit", "verify"]).run().exits(0);
    let records = world.audit();
    let accepted = record::of(&records, "vault.accept_rollback");
    assert_eq!(accepted.iter().map(|line| record::reason(line)).collect::<Vec<_>>(), ["the record"]);
}
