//! What does it cost to know a reader? Microseconds for both process tables, the median of many.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::cell::RefCell;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use kin_broker::process::{Choice, Identifier, Identity, Roots};
use kin_policy::Pid;

/// Shells, each the parent of the next; the last one waits.
const SHELLS: &str = r#"if [ $1 -gt 1 ]; then sh -c "$0" "$0" $(($1 - 1)); else echo $$; read x; fi; :"#;

struct Root(Identity);

impl Roots for Root {
    fn is_root(&self, candidate: &Identity) -> bool {
        self.0.is_same(candidate)
    }
}

struct Nobody;

impl Roots for Nobody {
    fn is_root(&self, _: &Identity) -> bool {
        false
    }
}

fn median_us(rounds: usize, mut prepare: impl FnMut(), mut work: impl FnMut()) -> f64 {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            prepare();
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2].as_secs_f64() * 1e6
}

/// By an identifier that has seen nothing yet.
fn median_us_of_first(rounds: usize, choice: Choice, tid: u32, root: &Root) -> f64 {
    let identifier = RefCell::new(Identifier::new(choice, Identifier::CAPACITY).unwrap());
    let renew = || drop(identifier.replace(Identifier::new(choice, Identifier::CAPACITY).unwrap()));
    median_us(rounds, renew, || drop(black_box(identifier.borrow().identify(tid, root).unwrap())))
}

fn main() {
    println!("table   depth    hit   first  below a known parent  outsider again  program  namespaces");
    for (choice, depth) in
        [Choice::Pidfd, Choice::Procfs].into_iter().flat_map(|c| [1, 4, 16, 64, 2000].map(|d| (c, d)))
    {
        let identifier = Identifier::new(choice, Identifier::CAPACITY).unwrap();
        let own = identifier.hold(Pid::new(std::process::id()).unwrap(), None).unwrap();
        let root = Root(own.identity());
        let mut shells = Command::new("sh")
            .args(["-c", SHELLS, SHELLS, &depth.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shells.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let tid = line.trim().parse().unwrap();
        let identify = || identifier.identify(tid, &root).unwrap();

        let rounds = 10_000 / depth + 20;
        let first = median_us_of_first(rounds, choice, tid, &root);
        let reader = identify().lineage().process;
        let below = median_us(rounds, || identifier.forget_below(reader), || drop(black_box(identify())));
        let outsider = || drop(black_box(identifier.identify(tid, &Nobody).unwrap()));
        let outsider = median_us(rounds, || identifier.forget_all(), outsider);
        let hundred = || (0..100).for_each(|_| drop(black_box(identify())));
        let hit = median_us(200, || (), hundred) / 100.0;
        let known = identify();
        let program = median_us(2000, || (), || drop(black_box(known.program())));
        let namespaces = median_us(
            2000,
            || (),
            || {
                let _ = black_box(known.namespaces());
            },
        );
        println!(
            "{:7} {depth:5} {hit:6.2} {first:7.1} {below:21.1} {outsider:15.1} {program:8.1} {namespaces:11.1}",
            identifier.table()
        );
        drop(shells.stdin.take());
        shells.wait().unwrap();
    }
}
