//! The user that the servers run as. Both servers refuse, or should refuse, to run as root.
//!
//! Root switches to the owner of the data if that is another user, or else to the
//! system user `postgres` or `nobody`. Every other user stays the same.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use anyhow::{Context, bail};

/// An unprivileged user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// We are root, so files have to be given to this user.
    root: bool,
}

impl User {
    /// The user for servers whose data is, or will be, in `folder`.
    pub(super) fn for_servers(folder: &Path) -> anyhow::Result<Self> {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        if uid != 0 {
            return Ok(Self {
                uid,
                gid,
                root: false,
            });
        }
        let (uid, gid) = match owner(folder)? {
            Some((uid, gid)) if uid != 0 => (uid, gid),
            _ => system_user()?,
        };
        Ok(Self {
            uid,
            gid,
            root: true,
        })
    }

    /// The ids to switch to, if a switch is needed.
    pub(super) fn change(self) -> Option<(u32, u32)> {
        self.root.then_some((self.uid, self.gid))
    }

    /// Makes this user the owner of a path that we have just created.
    pub(super) fn own(self, path: &Path) -> anyhow::Result<()> {
        if self.root {
            chown(path, Some(self.uid), Some(self.gid))
                .with_context(|| format!("giving {} to uid {}", path.display(), self.uid))?;
        }
        Ok(())
    }

    /// Whether this user may enter all folders above `path`. Only the permission
    /// bits are checked, not ACLs.
    pub(super) fn reaches(self, path: &Path) -> bool {
        path.ancestors()
            .skip(1)
            .filter(|ancestor| !ancestor.as_os_str().is_empty())
            .all(|ancestor| fs::metadata(ancestor).is_ok_and(|found| self.may_enter(&found)))
    }

    /// Whether this user may enter the folder.
    pub(super) fn may_enter(self, folder: &Metadata) -> bool {
        let execute = if folder.uid() == self.uid {
            0o100
        } else if folder.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        folder.mode() & execute != 0
    }
}

fn owner(path: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.uid(), found.gid()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

fn system_user() -> anyhow::Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    for wanted in ["postgres", "nobody"] {
        for line in passwd.lines() {
            // name:password:uid:gid:…
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, ..] = fields[..]
                && name == wanted
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
                && uid != 0
            {
                return Ok((uid, gid));
            }
        }
    }
    bail!("started by root, but /etc/passwd has neither `postgres` nor `nobody` to run servers as")
}
