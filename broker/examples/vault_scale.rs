//! How does a vault grow? Unlocking and one change, with ten thousand secrets.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use kin_broker::control::protocol::KeyMethod;
use kin_broker::paths::Directories;
use kin_broker::vault::{Facts, Place, Vault};
use kin_broker::{Plaintext, keys};
use kin_policy::Reference;

const TIMES: u32 = 5;

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(10_000, |count| count.parse().unwrap());
    let home = std::env::temp_dir().join(format!("kin-vault-scale-{}", std::process::id()));
    let under = home.clone().into_os_string();
    let directories =
        Directories::from_variables(&|name| (name == "KIN_HOME").then(|| under.clone())).unwrap();
    directories.create().unwrap();
    measure(&directories, count);
    std::fs::remove_dir_all(&home).unwrap();
}

fn measure(directories: &Directories, count: u32) {
    let method = KeyMethod::KeyFile { path: directories.config.join("key") };
    let identity = keys::create(directories, &method, None, None).unwrap();
    let place = Place::of(directories);
    let mut vault = Vault::create(&place, &identity).unwrap();
    let value = Plaintext::copy_of(&[b'x'; 64]);
    let name = |n: u32| Reference::new(format!("project/secret_{n}")).unwrap();
    vault.set_all((0..count).map(|n| (name(n), &value, Facts::default())), 1).unwrap();
    let size = std::fs::metadata(directories.vault_file()).unwrap().len();
    println!("{count} secrets of 64 bytes: {} KiB", size >> 10);
    println!("open    {:?}", best(|| drop(Vault::open(&place, &identity).unwrap())));
    println!("set     {:?}", best(|| drop(vault.set(&name(7), &value, Facts::default(), 2).unwrap())));
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..TIMES).map(|_| time(&mut work)).min().unwrap()
}
