//! What has really been written to a disk? Its image, and the swap file, as the device has them. For root alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sweep::of_bytes;
use crate::world::{PYTHON, World};

/// Room for the world, in bytes.
const SIZE: &str = "48M";
/// The directories of a world that kin and its user write to.
const DIRECTORIES: [&str; 4] = ["kin", "home", "project", "xdg"];

impl World {
    /// Mounts a small disk of `size` on a directory; for root alone, also of a namespace.
    ///
    /// # Panics
    /// Where it cannot be mounted.
    pub fn mount_disk(&self, directory: &Path, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "none"]).arg(directory);
        assert!(mount.status().is_ok_and(|status| status.success()), "a small disk: {mount:?}");
        self.remember_disk(directory);
    }

    pub(crate) fn remember_disk(&self, directory: &Path) {
        self.disks.borrow_mut().push(directory.to_owned());
    }

    /// Takes the small disks away.
    pub fn unmount_disks(&self) {
        for disk in self.disks.borrow_mut().drain(..) {
            let _ = Command::new("umount").arg("-l").arg(disk).status();
        }
    }
}

/// An ext4 that the world's directories are on, and a swap file that is this test's own.
pub struct Disk {
    image: PathBuf,
    swap: PathBuf,
}

fn root(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Disk {
    /// Puts the empty directories of `world` on it.
    ///
    /// # Panics
    /// Where root may not.
    pub fn below(world: &World) -> Self {
        let (image, place) = (world.path("image"), world.path("disk"));
        std::fs::create_dir(&place).expect("a directory");
        root("truncate", &["-s", SIZE, text(&image)]);
        root("mkfs.ext4", &["-q", text(&image)]);
        root("mount", &["-o", "loop", text(&image), text(&place)]);
        world.remember_disk(&place);
        for name in DIRECTORIES {
            let (own, seen) = (place.join(name), world.path(name));
            std::fs::create_dir(&own).expect("a directory");
            root("chmod", &["0700", text(&own)]);
            root("mount", &["--bind", text(&own), text(&seen)]);
            world.remember_disk(&seen);
        }
        let swap = world.path("swap");
        // Written in full: what the kernel swaps to blocks that were only reserved reads as zeroes (fallocate(2)).
        root("dd", &["if=/dev/zero", &format!("of={}", text(&swap)), "bs=1M", "count=48", "status=none"]);
        root("chmod", &["0600", text(&swap)]);
        root("mkswap", &[text(&swap)]);
        // Above whatever else there is, so that it is the one that is used.
        root("swapon", &["-p", "100", text(&swap)]);
        Self { image, swap }
    }

    /// Has the kernel write to swap what it may of a process's memory; how many KiB of it are there then.
    ///
    /// # Panics
    /// Where it cannot be told.
    pub fn page_out(&self, pid: u32) -> u64 {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/pageout.py");
        root(PYTHON, &["-IS", program, &pid.to_string()]).trim().parse().expect("a number")
    }

    /// Where one of `secrets` stands in what is written, deleted files and all.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn holds(&self, secrets: &[String]) -> Vec<String> {
        root("sync", &[]);
        // Past the page cache, which the kernel does not swap through.
        let read = |path: &Path| {
            let mut dd = Command::new("dd");
            dd.arg(format!("if={}", text(path))).args(["bs=1M", "iflag=direct", "status=none"]);
            dd.output().expect("dd").stdout
        };
        let swapped = of_bytes("the swap file", &read(&self.swap), secrets);
        [of_bytes("the disk", &read(&self.image), secrets), swapped].concat()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.swap).status();
    }
}
