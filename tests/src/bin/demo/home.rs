//! `.posthorn/`: the folder that `make run` keeps for the next run.
//!
//! | | |
//! |---|---|
//! | `servers/` | the data of RabbitMQ and PostgreSQL, see `harness::pair` |
//! | `logs/` | the logs of Posthorn's processes, of the last run |
//! | `rabbitmqctl` | runs `rabbitmqctl` against the RabbitMQ of `make run` |
//! | `master-key`, `admin-token`, `token`, `webhook-secret` | secrets, readable by their owner only |

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// In the checkout. `make` runs this program there.
const FOLDER: &str = ".posthorn";

pub(crate) struct Home;

impl Home {
    /// Finds or creates the folder.
    pub(crate) fn open() -> anyhow::Result<Self> {
        fs::create_dir_all(Path::new(FOLDER).join("logs"))
            .with_context(|| format!("creating {FOLDER}"))?;
        Ok(Self)
    }

    /// The path of a file with this name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    /// An empty log file for a process.
    pub(crate) fn new_log(&self, process: &str) -> anyhow::Result<PathBuf> {
        let path = std::path::absolute(self.path(&format!("logs/{process}.log")))?;
        File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// A secret, if it exists.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(name)).ok()?;
        Some(text.trim().to_owned()).filter(|secret| !secret.is_empty())
    }

    /// A secret that is generated in the first run.
    pub(crate) fn secret_or(
        &self,
        name: &str,
        make: impl FnOnce() -> String,
    ) -> anyhow::Result<String> {
        match self.secret(name) {
            Some(secret) => Ok(secret),
            None => self.keep(name, make()),
        }
    }

    /// Writes a program that the user may run.
    pub(crate) fn keep_program(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Stores a secret.
    pub(crate) fn keep(&self, name: &str, secret: String) -> anyhow::Result<String> {
        let path = self.path(name);
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{secret}"))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(secret)
    }
}
