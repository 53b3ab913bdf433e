//! A disk small enough to be filled by a test.
//!
//! It is a tmpfs in a mount namespace of this process: no other process sees it. It
//! disappears with the last process in that namespace, however that process ends.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Enough for an idle PostgreSQL and for some minutes of a test's load.
const SIZE: &str = "1G";
/// Set in a process that has its own mount namespace.
const OWN_MOUNTS: &str = "POSTHORN_OWN_MOUNTS";

/// Starts this process again in a mount namespace of its own. Returns `true` in the
/// new process. Returns `false` if that is impossible, because only root may do it.
#[must_use]
pub fn own_mounts() -> bool {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return true;
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]);
        unshare
    };
    let tried = unshare().arg("true").output();
    if let (Ok(myself), Ok(tried)) = (std::env::current_exe(), tried)
        && tried.status.success()
    {
        let arguments = std::env::args_os().skip(1);
        let mut anew = unshare();
        anew.arg(myself).args(arguments).env(OWN_MOUNTS, "1");
        // `exec` returns only if it failed.
        let _ = anew.exec();
    }
    false
}

/// A mounted disk. Unmounted when dropped.
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts a disk on a folder and gives it to the folder's owner.
    pub(super) fn mount(at: &Path) -> anyhow::Result<Self> {
        ensure!(
            std::env::var_os(OWN_MOUNTS).is_some(),
            "a disk of one's own needs `own_mounts`"
        );
        let owner = fs::metadata(at)?;
        let (uid, gid) = (owner.uid(), owner.gid());
        let options = format!("size={SIZE},uid={uid},gid={gid},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        let status = mount.status().context("running mount")?;
        ensure!(status.success(), "mounting {}: {status}", at.display());
        Ok(Self { at: at.to_owned() })
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self) -> anyhow::Result<Balloon> {
        let path = self.at.join("balloon");
        let mut file = File::create(&path)?;
        let balloon = Balloon { path };
        // The last block is filled in small pieces.
        for piece in [1 << 20, 4096] {
            let zeros = vec![0; piece];
            loop {
                match file.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(balloon)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Anything that is left disappears with the namespace.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Occupies the space on a disk until it is dropped.
pub struct Balloon {
    path: PathBuf,
}

impl Drop for Balloon {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
