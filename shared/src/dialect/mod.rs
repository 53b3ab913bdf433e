//! Dialects: how a delivery looks on the wire, and what each kind of answer means.
//!
//! A dialect is a small declarative file. It describes the body, the headers, the
//! signature and the default policy. Eight are embedded; a folder may hold more. No code
//! refers to a dialect by name, except [`DEFAULT`].
//!
//! | file | does |
//! |---|---|
//! | `file` | reads and checks a dialect's file; what may stand in one |
//! | `section`, `shape`, `signatures` | its parts: the tree, body and headers, what signs |
//! | `template` | the texts with placeholders in it |
//! | `api` | what answers of the API have in addition |
//! | `policy` | timeouts, ages, retries, what statuses mean |
//! | `message`, `compose` | a delivery, and how it is written and signed |
//! | `verify` | signatures as a receiver checks them |
//! | `meaning` | what each header means, in words |
//! | `javascript` | JSON as JavaScript writes it |

mod api;
mod compose;
mod definition;
mod file;
pub mod javascript;
mod meaning;
mod message;
mod policy;
mod section;
mod shape;
mod signatures;
mod template;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use api::{Addition, Additions};
pub use definition::Dialect;
pub use message::{Message, Wire};
pub use policy::{Answers, Meaning, Policy, Since};
pub use section::Invalid;
pub use verify::{Keyed, Missing, Received, SignatureSpec};

/// The dialect of a tenant that didn't choose another one.
pub const DEFAULT: &str = "standard";

/// The built-in dialects: name and file.
const EMBEDDED: [(&str, &str); 8] = [
    (
        "auraconnect.toml",
        include_str!("../../dialects/auraconnect.toml"),
    ),
    (
        "brainsait.toml",
        include_str!("../../dialects/brainsait.toml"),
    ),
    (
        "cloudevents-binary.toml",
        include_str!("../../dialects/cloudevents-binary.toml"),
    ),
    (
        "cloudevents.toml",
        include_str!("../../dialects/cloudevents.toml"),
    ),
    (
        "corp-astro.toml",
        include_str!("../../dialects/corp-astro.toml"),
    ),
    (
        "jossiedb.toml",
        include_str!("../../dialects/jossiedb.toml"),
    ),
    ("rishi.toml", include_str!("../../dialects/rishi.toml")),
    (
        "standard.toml",
        include_str!("../../dialects/standard.toml"),
    ),
];

/// Reads one dialect's file.
///
/// # Errors
/// Names the key to blame, and why.
pub fn read(file: &str, text: &str) -> Result<Dialect, Invalid> {
    file::read(file, text)
}

/// All dialects of this process.
#[derive(Debug, Clone)]
pub struct Dialects {
    all: BTreeMap<String, Arc<Dialect>>,
    default: Arc<Dialect>,
}

/// Why a folder of dialects can't be used: every reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Unusable(Vec<String>);

impl Dialects {
    /// The built-in dialects.
    #[must_use]
    pub fn embedded() -> Self {
        let mut all = BTreeMap::new();
        for (file, text) in EMBEDDED {
            match file::read(file, text) {
                Ok(dialect) => all.insert(dialect.name().to_owned(), Arc::new(dialect)),
                // A test reads each built-in dialect.
                Err(invalid) => unreachable!("an embedded dialect is invalid: {invalid}"),
            };
        }
        let Some(default) = all.get(DEFAULT).cloned() else {
            unreachable!("`{DEFAULT}` is embedded");
        };
        Self { all, default }
    }

    /// The built-in dialects, and the `.toml` and `.json` files of a folder. Other
    /// files, and files whose name begins with a dot, are ignored.
    ///
    /// # Errors
    /// If the folder can't be read, if a file isn't a dialect, or if it has the name
    /// of a built-in dialect. Such a name means the same in every installation.
    pub fn with_folder(folder: &Path) -> Result<Self, Unusable> {
        let mut dialects = Self::embedded();
        let mut problems = Vec::new();
        let files = read_folder(folder)
            .map_err(|error| Unusable(vec![format!("{}: {error}", folder.display())]))?;
        for (name, text) in files {
            match file::read(&name, &text) {
                Err(invalid) => problems.push(invalid.to_string()),
                Ok(dialect) if dialects.get(dialect.name()).is_some() => problems.push(format!(
                    "{name}: a dialect named `{}` exists already",
                    dialect.name()
                )),
                Ok(dialect) => {
                    let name = dialect.name().to_owned();
                    dialects.all.insert(name, Arc::new(dialect));
                }
            }
        }
        if problems.is_empty() {
            Ok(dialects)
        } else {
            Err(Unusable(problems))
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Dialect>> {
        self.all.get(name)
    }

    /// The dialect for tenants and webhooks that don't choose one.
    #[must_use]
    pub fn default(&self) -> &Arc<Dialect> {
        &self.default
    }

    /// All dialects, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Dialect>> {
        self.all.values()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// The longest timeout of any dialect.
    #[must_use]
    pub fn longest_timeout(&self) -> Duration {
        let timeouts = self.iter().map(|dialect| dialect.policy().timeout);
        timeouts.max().unwrap_or_default()
    }
}

/// The texts of a folder's files, by file name.
fn read_folder(folder: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = name.ends_with(".toml") || name.ends_with(".json");
        if wanted && !name.starts_with('.') {
            let text = std::fs::read_to_string(entry.path())
                .map_err(|error| std::io::Error::new(error.kind(), format!("{name}: {error}")))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
